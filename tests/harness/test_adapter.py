"""Driven by lm-eval itself, on tasks of local rows."""

import json
import pickle
import warnings

import pytest
import torch
from lightning.fabric import Fabric

import dmaxlit
from dmaxlit.engine import DecodeSettings
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.evaluation.decoder_entries import decoder_entries
from dmaxlit.evaluation.suite import Suite
from dmaxlit.evaluation.task_entries import task_entries
from dmaxlit.ranks import Ranks
from dmaxlit.tasks import task
from dmaxlit.tasks.prompts import TemplatedPrompt

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402

from dmaxlit.harness.adapter import DMaxLM  # noqa: E402

ROWS = [{"question": example.prompt, "answer": example.response} for example in task("chain").examples("test", 6)]
PROMPTS = [row["question"] for row in ROWS]


@pytest.fixture(scope="module")
def lm(model_folder):
    return DMaxLM(model_folder, batch_size=3, seed=5)


@pytest.fixture(scope="module")
def chat_lm(chat_model_folder):
    return DMaxLM(chat_model_folder)


def generated(model_folder, prompts, **settings):
    """Return what our own ``generate`` makes of texts, to which no chat template is applied."""
    settings = {"decoder": "spd", "max_new_tokens": 20, **settings}
    module = dmaxlit.load(model_folder)
    return [answer.text for answer in module.generate([TemplatedPrompt(prompt) for prompt in prompts], **settings)]


def requests(contexts, *settings):
    """Return requests as lm-eval makes them, with the given settings in turn."""
    return [
        Instance("generate_until", {}, (context, dict(settings[index % len(settings)])), index)
        for index, context in enumerate(contexts)
    ]


def responses_of(result):
    samples = sorted(result["samples"]["local"], key=lambda sample: sample["doc_id"])
    return [sample["resps"][0][0] for sample in samples]


def test_lm_eval_gets_the_responses_of_generate(model_folder, write_task):
    task = write_task(ROWS, generation_kwargs={"until": ["3"], "do_sample": False, "max_gen_toks": 20})
    arguments = f"pretrained={model_folder},decoder=spd,tau_dec=0.3"
    result = lm_eval.simple_evaluate("dmaxlit", arguments, **task, batch_size=4, device="cpu")
    expected = generated(model_folder, PROMPTS, tau_dec=0.3, stop=["3"])
    assert responses_of(result) == expected
    assert len(set(expected)) > 1
    assert expected != generated(model_folder, PROMPTS, tau_dec=0.3)
    assert result["results"]["local"]["exact_match,none"] == 0
    assert result["config"]["decoder"] == "spd"
    assert result["config"]["tpf"] == result["config"]["num_tokens"] / result["config"]["num_forwards"] > 0


def test_lm_eval_gets_the_responses_of_evaluate(model_folder, write_task, tmp_path):
    decoders = decoder_entries([{"name": "spd", "options": {"tau_dec": 0.3}}])
    suite = Suite(task_entries(["chain"], {"chain": {"operations": 3}}), decoders, num_prompts=4, max_new_tokens=12)
    ranks = Ranks(Fabric(accelerator="cpu", devices=1))
    suite.run(ranks, lambda: dmaxlit.load(model_folder), model_folder, tmp_path / "eval", progress=False)
    (path,) = (tmp_path / "eval" / "chain").glob("spd*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    task = write_task(
        [{"question": row["prompt"], "answer": row["response"]} for row in rows], generation_kwargs={"max_gen_toks": 12}
    )
    arguments = {"pretrained": model_folder, "decoder": "spd", "tau_dec": 0.3}
    result = lm_eval.simple_evaluate("dmaxlit", arguments, **task)
    assert responses_of(result) == [row["response"] for row in rows]
    assert result["results"]["local"]["exact_match,none"] == 1
    counts = {name: sum(row[name] for row in rows) for name in ("num_tokens", "num_forwards")}
    assert {name: result["config"][name] for name in counts} == counts


def test_each_request_has_its_own_settings_and_the_order_is_kept(lm, model_folder):
    stopped, short, sampled = {"until": ["3"], "max_gen_toks": 20}, {"max_gen_toks": 3}, {"temperature": 2.0}
    sampled |= {"max_gen_toks": 20}
    responses = lm.generate_until(requests(PROMPTS, stopped, short, sampled), disable_tqdm=True)
    assert responses[0::3] == generated(model_folder, PROMPTS[0::3], stop=["3"])
    assert responses[1::3] == generated(model_folder, PROMPTS[1::3], max_new_tokens=3)
    assert responses[2::3] == generated(model_folder, PROMPTS[2::3], temperature=2.0, seed=5)


def test_samples_depend_on_the_seed_and_not_on_the_batch(lm, model_folder):
    many = requests(PROMPTS[:1] * 4, {"do_sample": True, "temperature": 3.0, "max_gen_toks": 16})
    samples = lm.generate_until(many, disable_tqdm=True)
    assert len(set(samples)) > 1  # of one prompt
    assert DMaxLM(model_folder, batch_size=1, seed=5).generate_until(many, disable_tqdm=True) == samples
    assert DMaxLM(model_folder, seed=6).generate_until(many, disable_tqdm=True) != samples
    seeded = requests(PROMPTS[:1] * 4, {"temperature": 3.0, "max_gen_toks": 16, "seed": 5})
    assert DMaxLM(model_folder, seed=6).generate_until(seeded, disable_tqdm=True) == samples


def test_lm_evals_seed_is_the_default(model_folder, write_task):
    task = write_task(ROWS[:2], generation_kwargs={"do_sample": True, "temperature": 3.0, "max_gen_toks": 16})
    lm = DMaxLM(model_folder)
    one, same, other = (responses_of(lm_eval.simple_evaluate(lm, **task, torch_random_seed=seed)) for seed in (7, 7, 8))
    assert one == same == generated(model_folder, PROMPTS[:2], temperature=3.0, seed=7, max_new_tokens=16)
    assert one != other


def test_few_shot_examples_and_chats_are_lm_evals(chat_model_folder, write_task):
    task = write_task(
        ROWS,
        generation_kwargs={"until": [], "max_gen_toks": 16},
        num_fewshot=2,
        fewshot_split="test",
        fewshot_config={"sampler": "first_n"},
        description="so ",
    )
    result = lm_eval.simple_evaluate(
        "dmaxlit", {"pretrained": chat_model_folder}, **task, apply_chat_template=True, fewshot_as_multiturn=True
    )
    shots = [
        {"role": role, "content": text}
        for row in ROWS[:2]
        for role, text in (("user", row["question"]), ("assistant", row["answer"]))
    ]
    chats = [
        [{"role": "system", "content": "so "}, *shots, {"role": "user", "content": prompt}] for prompt in PROMPTS[3:]
    ]
    module = dmaxlit.load(chat_model_folder)
    expected = [answer.text for answer in module.generate(chats, max_new_tokens=16)]
    assert responses_of(result)[3:] == expected  # the first rows are no examples for themselves
    assert len(set(expected)) > 1


def test_a_chat_knows_its_messages_also_from_a_cache(chat_lm):
    messages = [{"role": "user", "content": "so 1"}]
    chat = pickle.loads(pickle.dumps(chat_lm.apply_chat_template(messages)))
    assert chat == chat_lm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat_lm.tok_encode(chat) == dmaxlit.data.encoding.encode_prompts(chat_lm.tokenizer, [messages])[0]


def test_the_beginning_of_a_response_follows_the_prompt(chat_lm):
    messages = [{"role": "user", "content": "so 1"}]
    begun = chat_lm.apply_chat_template([*messages, {"role": "assistant", "content": "2 +1"}], False)
    prompt = chat_lm.apply_chat_template(messages)
    assert begun == prompt + "2 +1"
    start = chat_lm.tok_encode("2 +1", add_special_tokens=False)
    assert chat_lm.tok_encode(begun) == chat_lm.tok_encode(prompt) + start


def test_a_long_prompt_loses_its_beginning_which_is_said_once(lm, model_folder):
    prompt = " ".join(PROMPTS * 3)
    room = lm.max_length - 20
    with pytest.warns(DMaxWarning, match=f"prompts: 2 of 3 are longer than the {room} tokens") as caught:
        long, short, _ = lm.generate_until(requests([prompt, PROMPTS[1], prompt], {"max_gen_toks": 20}), True)
    assert len(caught) == 1
    ids = lm.tok_encode(prompt)
    engine = DecodeSettings(max_new_tokens=20).make_engine(dmaxlit.load(model_folder).backbone)
    (expected,) = engine.decode([ids[-room:]], 20)
    assert long == lm.tokenizer.decode(expected.token_ids, skip_special_tokens=True)
    assert [short] == generated(model_folder, PROMPTS[1:2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm.generate_until(requests(PROMPTS[:1], {"max_gen_toks": 20}), disable_tqdm=True)


def test_finished_responses_go_to_lm_evals_cache(model_folder, write_task, tmp_path):
    task = write_task(ROWS[:2], generation_kwargs={"max_gen_toks": 8})
    arguments = {"model": "dmaxlit", "model_args": {"pretrained": model_folder}, "use_cache": str(tmp_path / "cache")}
    first = lm_eval.simple_evaluate(**arguments, **task)
    again = lm_eval.simple_evaluate(**arguments, **task)
    assert responses_of(first) == responses_of(again)
    assert again["config"]["num_forwards"] == 0
    for name, value, change in (("decoder", "one_token", "decoder was 'spd'"), ("seed", 3, "seed was 1234, now 3")):
        other = {**arguments, "model_args": {"pretrained": model_folder, name: value}}
        with pytest.raises(UserError, match=rf"use_cache: expected a new cache, .*: {change}"):
            lm_eval.simple_evaluate(**other, **task)


def test_samples_that_lm_eval_would_take_from_its_cache_are_refused(model_folder, write_task, tmp_path):
    arguments = {"model": "dmaxlit", "model_args": {"pretrained": model_folder}}
    task = write_task(ROWS[:1], generation_kwargs={"max_gen_toks": 8, "temperature": 0.5})
    lm_eval.simple_evaluate(**arguments, **task)
    cached = {**arguments, "use_cache": str(tmp_path / "cache")}
    with pytest.raises(UserError, match=r"do_sample: expected True with --use_cache and temperature 0\.5, got None"):
        lm_eval.simple_evaluate(**cached, **task)
    lm_eval.simple_evaluate(**cached, gen_kwargs="do_sample=True", **task)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "pretrained: expected a folder, .ckpt file, hub id or builtin:NAME, .* got None"),
        ({"pretrained": "builtin:none"}, "unknown built-in model .none."),
        ({"decoder": "none"}, "none"),
        (
            {"tau": 0.5},
            r"model_args: expected pretrained, .*, or an option of decoder 'spd' \(tau_dec, .*\), got 'tau'",
        ),
        ({"decoder": "one_token", "tau_dec": 1}, r"or an option of decoder 'one_token' \(.*\), got 'tau_dec'"),
        ({"tau_dec": 7}, "tau_dec: expected"),
        ({"batch_size": 0}, "batch_size: expected a number of at least 1 or auto, got 0"),
        ({"device": "tpu9"}, "device: expected one that torch can compute on, got 'tpu9'"),
        ({"max_length": 10_000}, "max_length: expected at most the model's 128, got 10000"),
        ({"max_gen_toks": 0}, "max_gen_toks: expected at least 1, got 0"),
        ({"mc_samples": "many"}, "mc_samples: expected a whole number, got 'many'"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"dtype": "int8"}, "dtype: expected 'float32', 'bfloat16' or 'float16', got 'int8'"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(model_folder, arguments, text):
    given = {} if not arguments else {"pretrained": model_folder, **arguments}
    with pytest.raises(UserError, match=text) as caught:
        DMaxLM.create_from_arg_obj(given)
    assert "\n" not in str(caught.value)


def test_one_of_several_processes_is_refused(model_folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^lm_eval: expected one process on one device, got WORLD_SIZE=2 of torchrun"):
        DMaxLM(model_folder)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert DMaxLM(model_folder, device="cpu").world_size == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_default_device_of_lm_eval_is_none_that_the_user_named(model_folder):
    lm = DMaxLM.create_from_arg_obj({"pretrained": model_folder}, {"device": "cuda:0"})
    assert lm.device.type == "cpu"
    with pytest.raises(UserError, match="device: expected one that torch can compute on, got 'cuda:0'"):
        DMaxLM.create_from_arg_obj({"pretrained": model_folder, "device": "cuda:0"}, {"device": "cuda:0"})


def test_a_budget_that_leaves_no_room_is_refused(lm):
    with pytest.raises(UserError, match=r"max_gen_toks: expected fewer than the context of 128 tokens.* got 128"):
        lm.generate_until(requests(PROMPTS, {"max_gen_toks": 128}))


def test_a_model_without_a_chat_template_is_refused(lm):
    with pytest.raises(UserError, match="apply_chat_template: expected a model with a chat template"):
        lm.apply_chat_template([{"role": "user", "content": "so"}])
    with pytest.raises(UserError, match="apply_chat_template: expected a model with a chat template"):
        lm.chat_template(True)


def test_arguments_of_the_model_precede_the_flags_of_lm_eval(model_folder):
    lm = DMaxLM.create_from_arg_string(f"pretrained={model_folder},batch_size=2", {"batch_size": 1, "device": None})
    assert lm.batch_size == 2
    assert DMaxLM(model_folder, batch_size="auto:4").batch_size == 64


def test_the_limit_of_forwards_is_obeyed(model_folder):
    lm = DMaxLM(model_folder, max_forwards=2)
    texts = lm.generate_until(requests(PROMPTS, {"max_gen_toks": 20}), disable_tqdm=True)
    assert texts == generated(model_folder, PROMPTS, max_forwards=2)
    assert 0 < lm.get_model_info()["num_forwards"] <= 2 * len(PROMPTS)


def test_the_weights_have_the_type_and_attention_that_are_asked_for(model_folder):
    lm = DMaxLM(model_folder, dtype="bfloat16", attn_implementation="eager")
    assert lm.get_model_info()["model_dtype"] == "bfloat16"
    assert lm._module.backbone.model.config._attn_implementation == "eager"
