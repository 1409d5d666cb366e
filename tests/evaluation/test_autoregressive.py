import json
import os
import shutil
from functools import partial

import pytest
import torch
from lightning.fabric import Fabric
from transformers import AutoModelForCausalLM, BloomConfig, GenerationConfig, OpenAIGPTConfig, Qwen3Config

from dmaxlit import DMaxModule
from dmaxlit.backbone.tokenizer import load_tokenizer
from dmaxlit.data.encoding import encode_prompt
from dmaxlit.data.identity import difference
from dmaxlit.engine.stop_strings import StopStrings
from dmaxlit.errors import UserError
from dmaxlit.evaluation.autoregressive import AutoregressiveAnswerer, AutoregressiveModel, _Stop
from dmaxlit.evaluation.decoder_entries import decoder_entries
from dmaxlit.evaluation.limits import Limits
from dmaxlit.evaluation.suite import Suite
from dmaxlit.evaluation.task_entries import task_entries
from dmaxlit.ranks import Ranks
from dmaxlit.tasks import ChainTask, Example
from tests.conftest import TINY, make_denoiser
from tests.engine.test_growing_text import Count

CPU = torch.device("cpu")
PROMPTS = [example.prompt for example in ChainTask(operations=3).examples("test", 4)]


def write_model(folder, seed, layers=2, **settings):
    """Write a tiny autoregressive model with the words of the chain task, whose predictions are not uniform."""
    tokenizer = load_tokenizer("chain")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = {**TINY, "num_hidden_layers": layers, "tie_word_embeddings": False, **settings}
        model = AutoModelForCausalLM.from_config(Qwen3Config(**settings, vocab_size=len(tokenizer)))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20.0)
    odd = {"temperature": 0.3, "do_sample": True, "repetition_penalty": 3.0, "no_repeat_ngram_size": 2}
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, **odd)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoregressive")
    return write_model(folder / "main", 0), write_model(folder / "small", 1, layers=1)


@pytest.fixture(scope="module")
def models(folders):
    names = ("autoregressive", "assistant")
    return [AutoregressiveModel.load(path, name, CPU, "float32") for path, name in zip(folders, names, strict=True)]


def greedy(model, prompt, budget, eos):
    """Write token by token, each with a forward over the whole sequence: the slow reference."""
    ids = encode_prompt(model.tokenizer, prompt)
    begin = len(ids)
    while len(ids) - begin < budget and (len(ids) == begin or ids[-1] not in eos):
        with torch.no_grad():
            ids.append(int(model.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[begin:]


def test_what_makes_prompts_and_ends_answers_is_compared_when_a_run_is_resumed(folders, tmp_path):
    def identity(path):
        return AutoregressiveAnswerer(AutoregressiveModel.load(str(path), "autoregressive", CPU, "float32")).identity()

    folder = tmp_path / "main"
    shutil.copytree(folders[0], folder)
    before = identity(folder)
    assert before == identity(folders[0])
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert difference(before, identity(folder)).startswith("chat_template was None, now")
    (folder / "chat_template.jinja").unlink()
    path = folder / "generation_config.json"
    eos, pad = before["eos_ids"][0], load_tokenizer("chain").pad_token_id
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [eos, pad]}))
    assert difference(before, identity(folder)) == f"eos_ids was [{eos}], now {sorted([eos, pad])}"


def answers(answerer, limits):
    found = {}
    answerer.answer(PROMPTS, range(len(PROMPTS)), limits, lambda index, answer, trace: found.update({index: answer}))
    return [found[index] for index in range(len(PROMPTS))]


def test_plain_decoding_is_greedy_and_takes_a_forward_for_each_token(models):
    main = models[0]
    for answer, prompt in zip(answers(AutoregressiveAnswerer(main), Limits(20)), PROMPTS, strict=True):
        expected = greedy(main, prompt, 20, main.eos_ids)
        assert answer.token_ids == expected
        assert answer.num_forwards == len(expected)
        assert answer.finished == (expected[-1] in main.eos_ids)
        assert answer.text == main.tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("assistant", [0, 1])
def test_assisted_decoding_writes_the_same_tokens_in_fewer_forwards(models, folders, assistant):
    plain = answers(AutoregressiveAnswerer(models[0]), Limits(24))
    helper = AutoregressiveModel.load(folders[assistant], "assistant", CPU, "float32")
    assisted = answers(AutoregressiveAnswerer(models[0], helper), Limits(24))
    assert [answer.token_ids for answer in assisted] == [answer.token_ids for answer in plain]
    for quick, slow in zip(assisted, plain, strict=True):
        assert quick.num_forwards <= slow.num_forwards
    if assistant == 0:  # it proposes what it would write itself
        assert sum(a.num_forwards for a in assisted) < 0.5 * sum(a.num_forwards for a in plain)


def test_forwards_do_not_depend_on_the_prompts_before(models, folders):
    helper = AutoregressiveModel.load(folders[0], "assistant", CPU, "float32")
    helper.model.generation_config.num_assistant_tokens_schedule = "heuristic"
    answerer = AutoregressiveAnswerer(models[0], helper)
    assert answerer.options["num_assistant_tokens_schedule"] == "heuristic_transient"
    first = [answer.num_forwards for answer in answers(answerer, Limits(24))]
    assert [answer.num_forwards for answer in answers(answerer, Limits(24))] == first


def test_every_eos_and_stop_text_ends_an_answer(models):
    main = models[0]
    text = greedy(main, PROMPTS[0], 12, [])
    words = main.tokenizer.convert_ids_to_tokens(text)
    stop = next(word for word in words[1:] if word not in main.tokenizer.all_special_tokens and word != words[0])
    at = words.index(stop)
    for answerer in (AutoregressiveAnswerer(main), AutoregressiveAnswerer(main, models[1])):
        answer = answers(answerer, Limits(12, (stop,)))[0]
        assert answer.token_ids == text[: at + 1]
        assert (answer.stopped, answer.finished, answer.ends_with_eos) == (True, True, False)
        assert stop not in answer.text


@pytest.mark.parametrize("is_added", [False, True])
def test_an_id_that_the_config_alone_names_ends_an_answer_if_it_is_an_added_token(models, tmp_path, is_added):
    text = greedy(models[0], PROMPTS[0], 12, [])
    word = next(word for word in models[0].tokenizer.convert_ids_to_tokens(text[1:]) if word not in PROMPTS[0])
    named = models[0].tokenizer.convert_tokens_to_ids(word)
    folder = write_model(tmp_path / "main", 0, eos_token_id=named)
    if is_added:
        tokenizer = load_tokenizer("chain")
        tokenizer.add_tokens([word])
        tokenizer.save_pretrained(folder)
    main = AutoregressiveModel.load(folder, "autoregressive", CPU, "float32")
    assert main.eos_ids == {main.tokenizer.eos_token_id} | ({named} if is_added else set())
    answer = answers(AutoregressiveAnswerer(main), Limits(12))[0]
    assert answer.token_ids == greedy(main, PROMPTS[0], 12, main.eos_ids)
    assert (answer.token_ids == text[: text.index(named) + 1]) == is_added


def test_a_forward_whose_token_transformers_drops_is_not_counted(models, monkeypatch):
    model = models[0].model
    generate = model.generate

    def with_one_more(ids, **options):  # as on MPS, behind the end of an answer
        model(ids)
        return generate(ids, **options)

    monkeypatch.setattr(model, "generate", with_one_more)
    for answer in answers(AutoregressiveAnswerer(models[0]), Limits(20)):
        assert answer.num_forwards == len(answer.token_ids)


def test_an_empty_prompt_is_refused_before_anything_is_answered(models, monkeypatch):
    monkeypatch.setattr(ChainTask, "examples", lambda self, split, n: [Example("", "1", bool)] * n)
    suite = Suite(task_entries(["chain"]), decoder_entries(["spd"]), 1)
    module = DMaxModule(make_denoiser())
    assert suite.cells(module)
    with pytest.raises(
        UserError, match=r"^chain: test prompt 1 \(''\): is empty .expected at least one token, got none"
    ):
        suite.cells(module, [AutoregressiveAnswerer(models[0])])


def test_what_is_decoded_for_a_token_does_not_grow_with_the_answer(models, monkeypatch):
    tokenizer, per_token = models[0].tokenizer, []
    ids = torch.tensor([encode_prompt(tokenizer, PROMPTS[0]) * 400])
    for length in (200, 800):
        stop = _Stop(StopStrings(tokenizer, ["####", "so <mask>"]).begin(), num_prompt_tokens=5)
        with monkeypatch.context() as patch:
            count = Count(tokenizer, patch)
            assert not any(stop(ids[:, :end], None) for end in range(6, 6 + length))
        per_token.append(count.tokens / length)
    assert per_token[1] < 1.3 * per_token[0]


def test_an_answer_ends_with_the_context(folders, tmp_path):
    short = AutoregressiveModel.load(
        write_model(tmp_path / "short", 0, max_position_embeddings=12), "autoregressive", CPU, "float32"
    )
    assert short.context_length == 12
    prompt = len(encode_prompt(short.tokenizer, PROMPTS[0]))
    assert len(answers(AutoregressiveAnswerer(short), Limits(99))[0].token_ids) <= 12 - prompt


def test_rows_of_both_stand_next_to_one_token_per_forward(models, folders, tmp_path):
    module = DMaxModule(make_denoiser(sharpen=6.0))
    suite = Suite(task_entries(["chain"], {"chain": {"operations": 3}}), decoder_entries(["spd"]), 3, max_new_tokens=9)
    baselines = [AutoregressiveAnswerer(models[0]), AutoregressiveAnswerer(*models)]
    ranks = Ranks(Fabric(accelerator="cpu", devices=1))
    table = suite.run(
        ranks, lambda: module, "builtin:chain-base", tmp_path, progress=False, load_baselines=lambda: baselines
    )
    record = json.loads((tmp_path / "record.json").read_text())
    assert [result["title"] for result in record["results"]] == ["one_token", "autoregressive", "assisted", "spd"]
    assert record["results"][1]["tpf"]["dmaxlit"] == 1.0
    for result in record["results"][1:3]:
        rows = [json.loads(line) for line in (tmp_path / result["samples"]).read_text().splitlines()]
        counts = [(row["num_tokens"] - row["finished"], row["num_forwards"]) for row in rows]
        assert result["tpf"]["published"] == pytest.approx(sum(n / f for n, f in counts) / len(counts))
    assert record["results"][2]["tpf"]["dmaxlit"] >= 1.0
    assert record["results"][1]["timing"]["batch_size"] == 1
    assert record["results"][2]["options"]["num_assistant_tokens"] == 20
    described = record["baselines"][1]
    assert (described["model"]["source"], described["assistant"]["source"]) == folders
    assert described["model"]["weights_sha256"] != described["assistant"]["weights_sha256"]
    assert f"assisted: {folders[0]}, greedy, proposals by {folders[1]}" in table


def test_a_decoder_has_another_label_than_a_baseline(models):
    decoders = decoder_entries([{"name": "spd", "label": "autoregressive"}])
    suite = Suite(task_entries(["chain"], {"chain": {"operations": 3}}), decoders, 3, max_new_tokens=9)
    with pytest.raises(UserError, match="decoders: expected different settings, got 'autoregressive' twice"):
        suite.cells(DMaxModule(make_denoiser()), [AutoregressiveAnswerer(models[0])])


def write_other(folder, config):
    tokenizer = load_tokenizer("chain")
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    model = AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer), n_layer=1, n_head=2, **ids))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_model_with_eager_attention_alone_is_a_baseline(tmp_path):
    folder = write_other(tmp_path, partial(OpenAIGPTConfig, n_embd=8, n_positions=32))
    main = AutoregressiveModel.load(folder, "autoregressive", CPU, "float32")
    assert (main.model.config._attn_implementation, main.context_length) == ("eager", 32)
    for answer, prompt in zip(answers(AutoregressiveAnswerer(main), Limits(6)), PROMPTS, strict=True):
        assert answer.token_ids == greedy(main, prompt, 6, main.eos_ids)


def test_a_model_that_does_not_say_how_long_a_sequence_may_be_is_no_baseline(tmp_path):
    folder = write_other(tmp_path, partial(BloomConfig, hidden_size=8))
    with pytest.raises(
        UserError, match=r"^autoregressive: expected a model with max_position_embeddings in its config"
    ):
        AutoregressiveModel.load(folder, "autoregressive", CPU, "float32")


def test_models_that_are_no_such_baseline_are_refused(models, folders, tmp_path):
    DMaxModule(make_denoiser()).export(tmp_path / "diffusion")
    load = AutoregressiveModel.load
    with pytest.raises(UserError, match=r"autoregressive: expected an autoregressive model, got '.*', a diffusion mod"):
        load(str(tmp_path / "diffusion"), "autoregressive", CPU, "float32")
    with pytest.raises(UserError, match="assistant: expected a model folder"):
        load(os.path.join(folders[0], "gone", "x"), "assistant", CPU, "float32")
    other = load(folders[1], "assistant", CPU, "float32")
    other.tokenizer.add_tokens(["more"])
    with pytest.raises(UserError, match=r"assistant: expected a model with the vocabulary of '.*main', got '.*small'"):
        AutoregressiveAnswerer(models[0], other)
    tiny = load(write_model(tmp_path / "tiny", 0, max_position_embeddings=4), "autoregressive", CPU, "float32")
    suite = Suite(task_entries(["chain"]), decoder_entries(["spd"]), 1)
    with pytest.raises(UserError, match=r"chain: test prompt 1 \('.*'\): is too long .expected at most 3 tokens"):
        suite.cells(DMaxModule(make_denoiser()), [AutoregressiveAnswerer(tiny)])


def test_a_folder_named_like_a_task_is_loaded_with_its_own_tokenizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model("stories", 0)
    tokenizer = AutoregressiveModel.load("stories", "autoregressive", CPU, "float32").tokenizer
    assert tokenizer.get_vocab() == load_tokenizer("chain").get_vocab()
