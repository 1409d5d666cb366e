import contextlib
import hashlib
import itertools
import json
from dataclasses import asdict, replace

import pytest
import torch

from dmaxlit import DMaxModule
from dmaxlit.data.answer_server import AnswerServer
from dmaxlit.data.chat_turns import ChatTurns
from dmaxlit.data.corpus_reader import read_corpus
from dmaxlit.data.distill import distill
from dmaxlit.data.encoding import encode_pair, encode_prompt
from dmaxlit.data.messages import Conversation
from dmaxlit.data.resumable_jsonl import manifest_path
from dmaxlit.errors import PromptError, UserError
from dmaxlit.files import read_json
from dmaxlit.tasks import ChainTask, task
from dmaxlit.tasks.prompts import TemplatedPrompt
from dmaxlit.tasks.records import BadRows
from dmaxlit.tasks.sources import held_out_path
from dmaxlit.version import __version__
from dmaxlit.weights_hash import weights_hash
from tests.conftest import make_denoiser
from tests.data.distilling import PROMPTS, SETTINGS, TASK, kind, rows_of, run
from tests.engine.models import lively_denoiser


def test_every_finished_answer_is_kept_in_order(fake_module, tmp_path):
    output, module = tmp_path / "c.jsonl", fake_module()
    manifest = run(module, output)
    kept = [prompt for prompt in PROMPTS if kind(prompt) != 0]
    assert 0 < len(kept) < 40
    assert rows_of(output) == [{"prompt": p, "response": module.answer(p).text} for p in kept]
    assert (manifest.prompts, manifest.finished, manifest.kept) == (40, len(kept), len(kept))
    assert manifest.correct == sum(kind(prompt) > 1 for prompt in PROMPTS)
    assert manifest.tpf == 3.0


def test_only_right_answers_are_kept_on_request(fake_module, tmp_path):
    manifest = run(fake_module(), tmp_path / "c.jsonl", replace(SETTINGS, keep="correct"))
    assert [row["prompt"] for row in rows_of(tmp_path / "c.jsonl")] == [p for p in PROMPTS if kind(p) > 1]
    assert manifest.kept == manifest.correct < manifest.finished


def test_all_answers_are_kept_on_request(fake_module, tmp_path):
    run(fake_module(), tmp_path / "c.jsonl", replace(SETTINGS, keep="all"))
    assert [row["prompt"] for row in rows_of(tmp_path / "c.jsonl")] == PROMPTS


def test_the_decoder_gets_its_options_and_the_tasks_budget(fake_module, tmp_path):
    module = fake_module()
    run(module, tmp_path / "a.jsonl")
    expected = {"decoder": "threshold", "decoder_options": {"threshold": 0.95}, "max_new_tokens": TASK.max_new_tokens}
    assert module.calls[0][1].items() >= {**expected, "batch_size": 2}.items()
    settings = replace(SETTINGS, decoder="spd", decoder_options={"tau_dec": 0.3}, max_new_tokens=7)
    module = fake_module()
    run(module, tmp_path / "b.jsonl", settings)
    expected = {"decoder": "spd", "decoder_options": {"tau_dec": 0.3}, "max_new_tokens": 7}
    assert module.calls[0][1].items() >= expected.items()


def test_the_row_is_the_text_that_is_judged_which_ends_at_the_task_s_stop_texts(tmp_path, monkeypatch):
    module = DMaxModule(lively_denoiser()).eval()
    settings = replace(SETTINGS, num_prompts=4, keep="all", max_new_tokens=12)
    run(module, tmp_path / "whole.jsonl", settings)
    assert "stop" not in read_json(manifest_path(tmp_path / "whole.jsonl"))["settings"]
    text = rows_of(tmp_path / "whole.jsonl")[0]["response"]
    stop = text.split()[3]
    monkeypatch.setattr(ChainTask, "stop", (stop,))
    monkeypatch.setattr(ChainTask, "examples", judged_by(ChainTask.examples, seen := []))
    manifest = run(module, tmp_path / "cut.jsonl", settings)
    rows = rows_of(tmp_path / "cut.jsonl")
    assert rows[0]["response"] == text.partition(stop)[0]
    assert {row["response"] for row in rows} | {""} >= set(seen)  # an empty one makes no row
    assert len(seen) == manifest.finished > 0
    assert manifest.settings["stop"] == [stop]
    with pytest.raises(UserError, match=r"was made with other settings: stop was None, now \["):
        run(module, tmp_path / "whole.jsonl", settings)


def judged_by(examples, seen):
    """Return ``examples`` with checkers that note the texts they judge."""
    return lambda *args: [replace(one, checker=lambda text: seen.append(text) or True) for one in examples(*args)]


def test_the_manifest_records_the_origin_of_the_corpus(fake_module, tmp_path):
    output = tmp_path / "c.jsonl"
    manifest = run(fake_module(), output)
    written = json.loads(manifest_path(output).read_text())
    assert written == asdict(manifest)
    assert written["version"] == __version__
    assert written["seconds"] > 0
    settings = written["settings"]
    assert settings["model"] == weights_hash(fake_module())
    assert (settings["task"], settings["task_options"]) == ("chain", TASK.options())
    assert (settings["decoder"], settings["decoder_options"], settings["seed"]) == ("threshold", {"threshold": 0.95}, 0)
    assert settings["prompts"] == hashlib.sha256(json.dumps(PROMPTS).encode()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "c.jsonl.manifest.json"]


def test_the_weights_hash_knows_every_weight_type_and_shape(fake_module):
    def changed(change):
        module = fake_module()
        change(module.backbone.model)
        return weights_hash(module)

    hashes = {
        changed(change)
        for change in (
            lambda model: None,
            lambda model: model[0].weight.data[0, 0].add_(1e-6),
            lambda model: model.to(torch.bfloat16),
            lambda model: model[0].register_buffer("more", torch.zeros(1)),
        )
    }
    assert len(hashes) == 4
    assert weights_hash(fake_module()) in hashes


@pytest.mark.parametrize("fails", [False, True])
def test_decoding_is_in_eval_mode_and_every_mode_is_restored(tmp_path, fails):
    module = DMaxModule(make_denoiser()).train()
    layers = module.backbone.model.model.layers
    layers[1].eval()
    modes = set()

    def note(*_):
        modes.add((layers[0].training, layers[1].training, module.backbone.training))
        if fails:
            raise KeyboardInterrupt

    layers[0].register_forward_hook(note)
    settings = replace(SETTINGS, num_prompts=3, keep="all", max_new_tokens=8)
    with pytest.raises(KeyboardInterrupt) if fails else contextlib.nullcontext():
        run(module, tmp_path / "c.jsonl", settings)
    assert modes == {(False, False, False)}
    assert module.training
    assert module.backbone.training
    assert (layers[0].training, layers[1].training) == (True, False)


def test_prompts_of_ones_own(fake_module, tmp_path):
    settings = replace(SETTINGS, max_new_tokens=9)
    manifest = run(fake_module(), tmp_path / "c.jsonl", settings, PROMPTS[:7])
    assert (manifest.prompts, manifest.correct, manifest.settings["task"]) == (7, None, None)
    assert manifest.settings["num_prompts"] == 7


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (TASK, {"num_prompts": 0}, "num_prompts: expected at least 1, got 0"),
        (TASK, {"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        (TASK, {"max_new_tokens": 0}, "max_new_tokens: expected at least 1, got 0"),
        (TASK, {"decoder": "nope"}, "unknown decoder 'nope'"),
        (TASK, {"decoder_options": {"tau": 1}}, "decoder 'threshold': unknown option tau"),
        (TASK, {"decoder_options": {"temperature": 1.0}}, r"expected no temperature, .* its own \(--temperature\)"),
        (TASK, {"decoder_options": {"seed": 1}}, r"expected no seed, which is a setting of its own \(--seed\)"),
        (TASK, {"temperature": -1.0}, "temperature: expected a number from 0 to 10000, got -1.0"),
        (TASK, {"temperature": float("nan")}, "temperature: expected a number from 0 to 10000, got nan"),
        (TASK, {"top_p": 0.0}, "top_p: expected a number above 0 and at most 1, got 0.0"),
        (TASK, {"keep": "some"}, "keep: expected 'finished', 'correct' or 'all', got 'some'"),
        ([], {"max_new_tokens": 9}, "prompts: expected at least one, got none"),
        (PROMPTS, {}, "max_new_tokens: expected a number"),
        (PROMPTS, {"max_new_tokens": 9, "keep": "correct"}, "keep: expected a task for 'correct'"),
    ],
)
def test_bad_settings_are_refused(fake_module, tmp_path, source, settings, message):
    with pytest.raises(UserError, match=message):
        run(fake_module(), tmp_path / "c.jsonl", replace(SETTINGS, **settings), source)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_corpus_is_refused_and_leaves_nothing(fake_module, tmp_path):
    unfinished = [prompt for prompt in PROMPTS if kind(prompt) == 0]
    settings = replace(SETTINGS, max_new_tokens=9)
    with pytest.raises(UserError, match=f"got 0 finished of {len(unfinished)}, none kept"):
        run(fake_module(), tmp_path / "c.jsonl", settings, unfinished)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_shown(fake_module, tmp_path, capsys):
    distill(fake_module(), TASK, tmp_path / "c.jsonl", SETTINGS)
    assert "40/40" in capsys.readouterr().err


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALLS = [{"type": "function", "function": {"name": "add", "arguments": {"a": 3}}}]
DIALOGUES = [
    Conversation([{"role": "system", "content": "be brief"}, {"role": "user", "content": "5 +4 ?"}]),
    Conversation(
        [
            {"role": "user", "content": "4 +1 ?"},
            {"role": "assistant", "tool_calls": CALLS},
            {"role": "tool", "content": "5", "name": "add"},
            {"role": "user", "content": "3 +1 ?"},
        ],
        TOOLS,
    ),
]


def test_an_answer_to_a_dialogue_is_the_last_turn_of_its_row(fake_module, tmp_path):
    output, settings = tmp_path / "c.jsonl", replace(SETTINGS, max_new_tokens=9, keep="all")
    run(fake_module(), output, settings, [*DIALOGUES, "5 +3 ?"])
    first, second, text = rows_of(output)
    answers = [{"role": "assistant", "content": f"so answer is #### {value}"} for value in (9, 4)]
    assert first == {"messages": [*DIALOGUES[0], answers[0]]}
    assert second == {"messages": [*DIALOGUES[1], answers[1]], "tools": TOOLS}
    assert text == {"prompt": "5 +3 ?", "response": "so answer is #### 8"}
    read = list(read_corpus(str(output), "train", BadRows("error"), chat=ChatTurns(tool_turns="template")))
    assert [row.prompt for row in read] == [*DIALOGUES, "5 +3 ?"]
    assert [getattr(row.prompt, "tools", None) for row in read] == [None, TOOLS, None]
    assert [row.response for row in read] == [*(answer["content"] for answer in answers), text["response"]]


def test_other_tools_are_other_prompts(fake_module, tmp_path):
    settings = replace(SETTINGS, max_new_tokens=9, keep="all")
    hashes = {
        run(fake_module(), tmp_path / f"{n}.jsonl", settings, [Conversation(DIALOGUES[0], tools)]).settings["prompts"]
        for n, tools in enumerate([None, TOOLS, TOOLS * 2])
    }
    assert len(hashes) == 3


TURNS = [{"role": "system", "content": "7"}, {"role": "user", "content": "3 +1 ?"}]
TEMPLATE = "{% for m in messages %}{{ 'so ' if m.role == 'system' }}{{ m.content }} {% endfor %}"


@pytest.mark.parametrize(
    ("prompt", "template"),
    [
        (TURNS, TEMPLATE),
        *itertools.product([TURNS[1:], TemplatedPrompt("7 9 3 +1 ?", TURNS), "3 +1 ?"], [TEMPLATE, None]),
    ],
    ids=range(7),
)
def test_training_sees_the_tokens_that_were_decoded(tmp_path, prompt, template):
    """The prompt as it was encoded, the answer as it was decoded, and the end of the turn."""
    module = DMaxModule(make_denoiser())
    module.tokenizer.chat_template = template
    settings = replace(SETTINGS, max_new_tokens=9, keep="all")
    run(module, tmp_path / "c.jsonl", settings, [prompt])
    (row,) = read_corpus(str(tmp_path / "c.jsonl"), "train", BadRows("error"))
    encoded = encode_pair(module.tokenizer, row.prompt, row.response, 8, "block")
    asked = encode_prompt(module.tokenizer, prompt)
    (answer,) = module.generate_batch([prompt], settings.decoding())
    assert encoded.ids[: len(asked) + len(answer.token_ids)] == asked + answer.token_ids


def test_prompts_held_out_have_the_form_of_the_others(fake_module, tmp_path):
    module = fake_module()
    module.tokenizer.chat_template = TEMPLATE
    prompts = [TemplatedPrompt(text, [TURNS[0], {"role": "user", "content": text}]) for text in PROMPTS]
    settings = replace(SETTINGS, max_new_tokens=9, keep="all", held_out=0.3)
    run(module, tmp_path / "c.jsonl", settings, prompts)
    held_out = rows_of(held_out_path(tmp_path / "c.jsonl"))
    rows = rows_of(tmp_path / "c.jsonl")
    assert len(rows) + len(held_out) == 40
    asked = [row["messages"] for row in held_out] + [row["messages"][:-1] for row in rows]
    assert sorted(map(str, asked)) == sorted(str(prompt.messages) for prompt in prompts)
    # A corpus in which such prompts are texts is another one.
    assert read_json(manifest_path(tmp_path / "c.jsonl"))["settings"]["rows"] == "messages"
    run(module, tmp_path / "d.jsonl", replace(settings, held_out=0.0), [[TURNS[0]], [*TURNS]][1:])
    assert "rows" not in read_json(manifest_path(tmp_path / "d.jsonl"))["settings"]


def test_a_text_to_continue_is_refused_where_a_corpus_has_no_form_for_it(fake_module, tmp_path):
    module, settings = fake_module(), replace(SETTINGS, max_new_tokens=9, keep="all")
    prompts = ["3 +1 ?", TemplatedPrompt("4 +1 ?")]
    run(module, tmp_path / "c.jsonl", settings, prompts)
    assert [row["prompt"] for row in rows_of(tmp_path / "c.jsonl")] == prompts
    module.tokenizer.chat_template = TEMPLATE
    for one, refusal in (
        (module, "as `fit` applies the model's chat template to all prompts of a corpus, got a text to continue"),
        (AnswerServer("http://localhost/v1", "m"), "for the endpoint chat, got a text to continue"),
    ):
        with pytest.raises(PromptError, match=rf"^prompts\[1\]: expected a conversation,? {refusal} \(chat: false\)$"):
            run(one, tmp_path / "d.jsonl", settings, prompts)
    assert len(module.calls) == 1
    assert not (tmp_path / "d.jsonl").exists()


class Unjudged(ChainTask):
    def record(self):
        raise UserError("sandbox: expected one")


def test_answers_that_cannot_be_judged_here_are_not_decoded(fake_module, tmp_path):
    module = fake_module()
    with pytest.raises(UserError, match=r"^sandbox: expected one$"):
        run(module, tmp_path / "c.jsonl", source=Unjudged())
    assert module.calls == []
    assert list(tmp_path.iterdir()) == []


class Running(Unjudged):
    runs_answers = True


def test_programs_are_run_only_if_that_decides_what_is_kept(fake_module, tmp_path):
    manifest = run(fake_module(), tmp_path / "c.jsonl", source=Running())
    assert manifest.correct is None
    assert manifest.finished == manifest.kept > 0
    with pytest.raises(UserError, match=r"^sandbox: expected one$"):
        run(fake_module(), tmp_path / "d.jsonl", replace(SETTINGS, keep="correct"), source=Running())


def test_all_prompts_are_answered_where_nobody_says_how_many(fake_module, tmp_path):
    prompts = [{"prompt": prompt, "answer": "1"} for prompt in PROMPTS[:7]]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    settings = replace(SETTINGS, num_prompts=None, max_new_tokens=9)
    manifest = run(fake_module(), tmp_path / "c.jsonl", settings, task("jsonl", train=str(tmp_path / "q.jsonl")))
    assert manifest.settings["num_prompts"] == manifest.prompts == 7
    with pytest.raises(UserError, match=r"^task: expected training prompts, found none$"):
        run(fake_module(), tmp_path / "d.jsonl", settings, task("jsonl", test=str(tmp_path / "q.jsonl")))
