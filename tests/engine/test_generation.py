from dmaxlit.engine import DecodedSequence, Generation
from dmaxlit.tasks import TASKS


def test_a_generation_has_the_text_without_special_tokens_and_the_row_s_counts():
    tokenizer = TASKS.get("chain").tokenizer()
    ids = tokenizer("so 3 +1 gives 4")["input_ids"]
    ids = [token for token in ids if token != tokenizer.eos_token_id] + [tokenizer.eos_token_id]
    row = DecodedSequence(token_ids=ids, num_forwards=5, finished=True, hit_step_limit=1)
    generation = Generation.from_sequence(row, "3 +1 ?", tokenizer)
    assert generation.prompt == "3 +1 ?"
    assert generation.text.split() == ["so", "3", "+1", "gives", "4"]
    assert generation.token_ids == ids
    assert generation.num_tokens == len(ids)
    assert (generation.num_forwards, generation.finished, generation.hit_step_limit) == (5, True, 1)
    assert generation.tpf == len(ids) / 5
    assert generation.ends_with_eos


def test_a_row_says_that_a_stop_text_ended_the_response():
    fields = {"token_ids": [1], "num_forwards": 1, "finished": True, "hit_step_limit": 0, "prompt": "", "text": "a"}
    assert "stopped" not in Generation(**fields).to_dict()
    assert Generation(**fields, stopped=True).to_dict()["stopped"] is True


def test_a_response_without_forwards_has_a_tpf():
    assert DecodedSequence([], 0, False, 0).tpf == 0.0
