import itertools

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from dmaxlit.data import DistillSettings, SelfDistilledDataModule
from dmaxlit.data.encoding import encode_pair
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.tasks import ChainTask, task
from dmaxlit.tokens import Role
from tests.data.chat_tokenizers import CHATML, byte_level

SETTINGS = DistillSettings(num_prompts=20, batch_size=2)


def bound(stage="fit", **options):
    data = SelfDistilledDataModule(**options)
    data.bind(ChainTask.tokenizer(), 32, 128)
    data.setup(stage)
    return data


def test_without_a_corpus_the_tasks_own_responses_are_learnt():
    data = bound(task="chain", task_options={"difficulty": "easy"}, num_train=10, batch_size=4)
    examples = task("chain", difficulty="easy").examples("train", 10)
    seen = []
    for batch in data.train_dataloader():
        for index, ids, roles in zip(batch["index"].tolist(), batch["ids"], batch["roles"], strict=True):
            pair = encode_pair(ChainTask.tokenizer(), examples[index].prompt, examples[index].response, 32)
            assert ids[roles != Role.PAD].tolist() == pair.ids
            assert roles[roles != Role.PAD].tolist() == pair.roles
            seen.append(index)
        assert batch["ids"].shape[1] % 32 == 0
    assert sorted(seen) == list(range(10))


def test_a_plain_text_is_learnt_from_its_first_token_to_its_end(write_rows, tmp_path):
    text = "so 3 +1 is 4 .\n" * 6
    (tmp_path / "a.txt").write_text(text)
    path = write_rows([{"text": "3 4 ?"}, {"prompt": "5 ?", "response": "so"}])
    data = SelfDistilledDataModule(corpus=[str(tmp_path / "a.txt"), path], max_length=16, batch_size=8)
    tokenizer = ChainTask.tokenizer()
    data.bind(tokenizer, 8, 128)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    order = batch["index"].tolist()
    words = tokenizer(text)["input_ids"]
    assert len(words) == 36
    eos, pad = [tokenizer.eos_token_id], [tokenizer.pad_token_id]
    pair, short = tokenizer("5 ? so")["input_ids"], tokenizer("3 4 ?")["input_ids"]
    expected = [words[:16], words[16:32], words[32:] + eos * 4 + pad * 8, short + eos * 5 + pad * 8]
    expected.append(pair + eos * 5 + pad * 8)
    assert batch["ids"].tolist() == [expected[index] for index in order]
    learnt, rest = [Role.RESPONSE], [Role.PAD] * 8
    roles = [learnt * 16, learnt * 16, learnt * 8 + rest, learnt * 8 + rest, [Role.PROMPT] * 2 + learnt * 6 + rest]
    assert batch["roles"].tolist() == [roles[index] for index in order]
    places = [str(tmp_path / "a.txt")] * 3 + [f"{path}, row 1", f"{path}, row 2"]
    assert data.places(order) == [places[index] for index in order]


@pytest.mark.parametrize("adds_bos", [True, False])
def test_bos_stands_before_a_plain_text_as_a_prompt(write_rows, adds_bos):
    tokenizer = byte_level(CHATML)
    if adds_bos:
        tokenizer.bos_token = "<|turn|>"
        post = {"single": "<|turn|> $A", "special_tokens": [("<|turn|>", tokenizer.bos_token_id)]}
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(**post)
    data = SelfDistilledDataModule(corpus=write_rows([{"text": "ab <|close|>"}]), batch_size=1)
    data.bind(tokenizer, 16, 64)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    ids = batch["ids"][0].tolist()
    before = [tokenizer.bos_token_id] * adds_bos
    assert ids == before + [*tokenizer.convert_tokens_to_ids([*"ab\u0120<|close|>"])] + [tokenizer.eos_token_id] * (
        4 - adds_bos
    )
    assert batch["roles"][0].tolist() == [Role.PROMPT] * adds_bos + [Role.RESPONSE] * (16 - adds_bos)


def test_rows_that_are_dropped_at_any_stage_shift_no_other(write_rows):
    tokenizer = ChainTask.tokenizer()
    tokenizer.chat_template = (
        "{% if '9' in messages[0]['content'] %}{{ raise_exception('no nine') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    )
    texts = ["1 ?", "", "9 ?", "2 ?", "\ud83d ?", "3 ? " * 100, "4 ?", "9 9 ?", "5 ?"]
    path = write_rows(["{oops", *({"prompt": text, "response": "so"} for text in texts)])
    data = SelfDistilledDataModule(corpus=path, on_bad_row="skip", batch_size=1)
    data.bind(tokenizer, 32, 128)
    data.setup("fit")
    found = {}
    for batch in data.train_dataloader():
        (place,) = data.places(batch["index"].tolist())
        found[place] = tokenizer.decode(batch["ids"][0][batch["roles"][0] == Role.PROMPT])
    rows = {f"{path}, row {number}": text for number, text in enumerate(texts, start=2)}
    assert found == {place: text for place, text in rows.items() if text in ("1 ?", "2 ?", "4 ?", "5 ?")}


def test_columns_of_a_corpus_may_have_other_names(write_rows):
    path = write_rows([{"query": "1 ?", "reply": "so"}])
    data = bound(corpus=path, columns={"prompt": "query", "response": "reply"})
    assert data.places([0]) == [f"{path}, row 1"]
    with pytest.raises(UserError, match=r"^columns: expected 'prompt', .*, got 'label'$"):
        SelfDistilledDataModule(corpus=path, columns={"label": "x"})


def test_corpora_are_read_one_after_the_other(write_rows):
    paths = [
        write_rows([{"prompt": f"{i} ?", "response": "so"} for i in part], f"{part}.jsonl") for part in ("12", "3")
    ]
    (batch,) = bound(corpus=paths).train_dataloader()
    order = batch["index"].argsort()
    digits = ChainTask.tokenizer().convert_ids_to_tokens(batch["ids"][order, 0].tolist())
    assert digits == ["1", "2", "3"]


def test_evaluation_prompts_come_from_their_split_in_order():
    data = bound(None, task="chain", num_train=1, num_val=5, num_test=3, eval_batch_size=2)
    for loaders, split, n in ((data.val_dataloader(), "val", 5), (data.test_dataloader(), "test", 3)):
        (loader,) = loaders
        batches = list(loader)
        assert [len(batch["examples"]) for batch in batches][:-1] == [2] * (len(batches) - 1)
        assert list(itertools.chain(*(batch["examples"] for batch in batches))) == task("chain").examples(split, n)
        assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(n))
    assert len(data.predict_dataloader()) == 1


def test_without_a_task_there_is_nothing_to_evaluate(write_rows):
    data = bound(None, corpus=write_rows([{"prompt": "1 ?", "response": "so"}]))
    assert data.val_dataloader() == data.test_dataloader() == []
    assert data.task_name is None


def test_a_task_may_be_given_ready_made():
    data = SelfDistilledDataModule(task=ChainTask("hard"))
    assert (data.task_name, data.task.options()["difficulty"]) == ("chain", "hard")


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_workers_change_neither_order_nor_content():
    def batches(workers):
        loader = bound(task="chain", num_train=14, batch_size=4, num_workers=workers, seed=3).train_dataloader()
        loader.sampler.set_epoch(2)
        return list(loader)

    alone, helped = batches(0), batches(2)
    assert len(alone) == len(helped) == 4
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_rows_of_similar_lengths_are_grouped_if_asked(write_rows):
    rows = [{"prompt": "1 ?", "response": " ".join(["so"] * (1 + n % 61))} for n in range(240)]

    def widths(**options):
        loader = bound(corpus=write_rows(rows), batch_size=8, seed=1, **options).train_dataloader()
        return sum(batch["ids"].shape[1] for batch in loader), sorted(itertools.chain(*(b["index"] for b in loader)))

    (grouped, rows_of_grouped), (plain, rows_of_plain) = widths(group_by_length=True), widths()
    assert rows_of_grouped == rows_of_plain
    assert grouped < 0.8 * plain


def test_the_shorter_of_both_lengths_counts(write_rows):
    path = write_rows([{"prompt": "1 ?", "response": " ".join(["so"] * 61)}])
    assert len(bound(corpus=path).train_dataloader().dataset) == 1
    with pytest.raises(UserError, match=r"corpus.jsonl, row 1: is too long"):
        bound(corpus=path, max_length=63)
    assert len(bound(corpus=path, max_length=4096).train_dataloader().dataset) == 1


def test_bad_rows_are_refused_or_skipped_as_told(write_rows):
    path = write_rows([{"prompt": "", "response": "so"}, {"prompt": "1 ?", "response": "so"}])
    with pytest.raises(UserError, match=r"corpus.jsonl, row 1: has an empty prompt"):
        bound(corpus=path)
    assert len(bound(corpus=path, on_bad_row="skip").train_dataloader().dataset) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "data: expected a corpus or a task, got neither"),
        ({"corpus": []}, "data: expected a corpus or a task"),
        ({"corpus": "a.jsonl", "task_options": {"seed": 1}}, "task_options: expected a task given by name, got None"),
        ({"task": "chian"}, "unknown task 'chian'; known: asdiv, chain, "),
        ({"task": "chain", "batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"task": "chain", "num_train": 0}, "num_train: expected at least 1, got 0"),
        ({"task": "chain", "max_length": 0}, "max_length: expected at least 1, got 0"),
        ({"task": "chain", "num_val": -1}, "num_val: expected at least 0, got -1"),
        ({"task": "chain", "eos_fill": 0}, "eos_fill: expected 'block' or a count"),
        ({"task": "chain", "on_bad_row": "drop"}, "on_bad_row: expected 'error' or 'skip'"),
        ({"task": "chain", "distill": SETTINGS}, "distill: expected a task and one .jsonl corpus"),
        ({"corpus": "a.jsonl", "distill": SETTINGS}, "distill: expected a task and one .jsonl corpus"),
        ({"corpus": "a.parquet", "task": "chain", "distill": SETTINGS}, "distill: expected a task and one .jsonl"),
        ({"corpus": "a/*.jsonl", "task": "chain", "distill": SETTINGS}, r"distill: .*, got the pattern 'a/\*"),
        ({"corpus": "a.jsonl", "task": "chain", "distill": DistillSettings(keep="none")}, "keep: expected"),  # type: ignore[arg-type]
        ({"task": "chain", "columns": {"prompt": "q"}}, r"columns: expected none without a corpus \(a task has"),
        ({"task": "chain", "streaming": True}, "streaming: expected a corpus, got none"),
        ({"corpus": "a.jsonl", "shuffle_buffer": 9}, "shuffle_buffer: expected none without streaming, got 9"),
        ({"corpus": "a.jsonl", "streaming": True, "shuffle_buffer": 0}, "shuffle_buffer: expected at least 1, got 0"),
        ({"corpus": "a.jsonl", "streaming": True, "weights": [1]}, "weights: expected none with streaming, which need"),
        ({"corpus": "a.jsonl", "streaming": True, "cache_dir": "c"}, "cache_dir: expected none with streaming, as"),
        ({"corpus": "a.jsonl", "streaming": True, "turns": "no"}, "turns: expected 'last' or 'all', got 'no'"),
        ({"corpus": "a.jsonl", "streaming": True, "turns": "all"}, "turns: expected none with streaming, where a"),
        ({"corpus": "a.jsonl", "streaming": True, "max_tokens": 9}, "max_tokens: expected none with streaming, which"),
        ({"corpus": "a.jsonl", "streaming": True, "num_proc": 2}, "num_proc: expected none with streaming, as"),
        ({"corpus": "a.jsonl", "streaming": True, "group_by_length": True}, "group_by_length: expected none with stre"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SelfDistilledDataModule(**options)


CHAT = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
}
THINKING = "{{ '<think>' if thinking else '<quiet>' }}{{ language }}" + CHATML


def prompts_with(tokenizer, path, stage="fit", **options):
    data = SelfDistilledDataModule(corpus=path, num_val=0, **options)
    data.bind(tokenizer, 8, 512)
    data.setup(stage)
    return [tokenizer.decode(ids[:length]) for _, ids, length in data.train_dataloader().dataset]


def test_a_conversation_without_a_template_is_one_warning(write_rows):
    path = write_rows([{"prompt": "p", "response": "r"}, CHAT, CHAT])
    with pytest.warns(DMaxWarning) as caught:
        assert prompts_with(byte_level(None), path) == ["p", "s\nu", "s\nu"]
    (warning,) = caught
    assert str(warning.message).startswith(f"{path}, row 2, and perhaps others: the tokenizer has no chat template")


def test_a_template_and_its_variables_are_chosen_and_stay_with_the_tokenizer(write_rows, tmp_path):
    path = write_rows([CHAT])
    expected = "<|turn|>system\ns<|close|>\n<|turn|>user\nu<|close|>\n<|turn|>assistant\n"
    tokenizer = byte_level({"default": CHATML, "long": THINKING})
    assert prompts_with(tokenizer, path) == [expected]
    options = {"chat_template": "long", "template_options": {"thinking": True, "language": "de"}}
    for _ in range(2):
        assert prompts_with(tokenizer, path, **options) == ["<think>de" + expected]
    assert prompts_with(tokenizer, path) == ["<think>de" + expected]  # validation, checkpoints and exports have it too
    (tmp_path / "my.jinja").write_text("X" + CHATML)
    assert prompts_with(byte_level(None), path, chat_template=str(tmp_path / "my.jinja")) == ["X" + expected]


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_template_that_is_not_there_is_refused_in_every_stage(write_rows, stage):
    with pytest.raises(UserError, match=r"chat_template: expected a .jinja file, got 'long'"):
        prompts_with(byte_level(CHATML), write_rows([CHAT]), stage, chat_template="long")


def test_a_task_without_responses_cannot_be_learnt_from(write_rows):
    path = write_rows([{"prompt": f"{i}", "answer": "3"} for i in range(9)])
    with pytest.raises(UserError, match="corpus: task 'jsonl' has no worked responses to learn from"):
        bound(task="jsonl", task_options={"train": path}, num_train=1, num_val=0, num_test=0)


def test_all_rows_of_a_task_are_learnt_where_nobody_says_how_many(write_rows):
    path = write_rows([{"prompt": f"{i} ?", "answer": "3", "response": "so"} for i in range(9)])
    data = bound(task="jsonl", task_options={"train": path}, num_val=0)
    assert len(data.train_dataloader().dataset) == 9


def test_rows_and_prompts_are_those_of_the_model_that_is_bound_last(write_rows):
    data = bound(corpus=write_rows([{"prompt": "3 ?", "response": "so"}]), task="chain", num_val=1)
    tokenizer = byte_level(None)
    data.bind(tokenizer, 8, 64)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert tokenizer.decode(batch["ids"][0], skip_special_tokens=True) == "3 ?so"
    data.bind(tokenizer, 2, 4)
    with pytest.raises(UserError, match=r"^validation prompt 1 .* is too long"):
        data.setup("fit")


def test_a_missing_or_empty_corpus_is_refused(write_rows, tmp_path):
    with pytest.raises(UserError, match=r"corpus: no such file: '.*none.jsonl'"):
        bound(corpus=str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="corpus: expected at least one usable row, found none"):
        bound(corpus=write_rows([]))


def test_of_corpora_with_weights_the_one_without_rows_is_named(write_rows):
    paths = [write_rows([{"prompt": "1 ?", "response": "so"}], "a.jsonl"), write_rows([{"prompt": "1 ?"}], "b.jsonl")]
    with pytest.raises(UserError, match=r"^corpus: expected at least one usable row, found none in '.*b.jsonl'$"):
        bound(corpus=paths, weights=[1, 1], on_bad_row="skip")


def test_an_unbound_data_module_says_what_it_lacks():
    data = SelfDistilledDataModule(task="chain")
    with pytest.raises(UserError, match=r"expected setup\('fit'\) before"):
        data.train_dataloader()
    with pytest.raises(UserError, match=r"expected a trainer or a call of bind"):
        data.setup("fit")
