import contextlib
import hashlib
import json
import signal
from dataclasses import replace

import pytest

import dmaxlit
from dmaxlit.data import shared_corpus
from dmaxlit.data.manifest import Manifest
from dmaxlit.data.resumable_jsonl import PartialCorpus, manifest_path
from dmaxlit.errors import UserError
from dmaxlit.files import write_json
from dmaxlit.tasks import ChainTask, JsonlTask
from dmaxlit.weights_hash import weights_hash
from tests.data.distilling import PROMPTS, SETTINGS, TASK, kind, rows_of, run
from tests.lock_holder import held_by_another


@pytest.mark.parametrize("fail_at", [0, 1, 7, 40])
@pytest.mark.parametrize("torn", [b"", b'{"prompt": "torn'])
def test_an_interrupted_run_is_resumed_without_losing_or_duplicating_a_row(fake_module, tmp_path, fail_at, torn):
    whole = run(fake_module(random=True), tmp_path / "whole.jsonl")
    output = tmp_path / "c.jsonl"
    with pytest.raises(KeyboardInterrupt) if fail_at < 40 else contextlib.nullcontext():
        run(fake_module(fail_at, random=True), output)
    if fail_at < 40:
        assert not output.exists()
        assert not manifest_path(output).exists()
    with (tmp_path / ".c.rank0.jsonl.partial").open("ab") as file:
        file.write(torn)
    module = fake_module(random=True)
    manifest = run(module, output)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert replace(manifest, seconds=0.0) == replace(whole, seconds=0.0)
    answered = {PROMPTS[number ^ 1] for number in range(fail_at)}  # in pairs, the second of a pair first
    left = [prompt for prompt in PROMPTS if prompt not in answered]
    assert [prompts for prompts, *_ in module.calls] == ([left] if left else [])


@pytest.mark.slow
def test_a_killed_process_is_resumed_without_losing_or_duplicating_a_row(fake_module, processes, tmp_path):
    output = tmp_path / "c.jsonl"
    codes = processes.run([output], tmp_path / "log", module="tests.data.fake_model")
    assert codes == [-signal.SIGKILL], (tmp_path / "log").read_text()
    recorded = json.loads((tmp_path / ".c.rank0.jsonl.progress.json").read_text())["progress"]
    assert recorded["prompts"] == 4
    assert (tmp_path / ".c.rank0.jsonl.partial").stat().st_size > recorded["offset"]
    assert not output.exists()
    module = fake_module()
    run(module, output)
    assert [prompt for prompts, *_ in module.calls for prompt in prompts] == PROMPTS[4:]
    run(fake_module(), tmp_path / "whole.jsonl")
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_resuming_with_another_batch_size_is_allowed(fake_module, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(fake_module(2), tmp_path / "c.jsonl")
    run(fake_module(), tmp_path / "c.jsonl", replace(SETTINGS, batch_size=3, check_decoder=False))
    assert [row["prompt"] for row in rows_of(tmp_path / "c.jsonl")] == [p for p in PROMPTS if kind(p) != 0]


@pytest.mark.parametrize("whole", [True, False])
def test_other_settings_are_refused_by_name_or_overwritten(fake_module, tmp_path, whole):
    output = tmp_path / "c.jsonl"
    if whole:
        run(fake_module(), output)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(fake_module(3), output)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = fake_module()
    other.backbone.model[0].weight.data.add_(1)
    for module, settings, source, name in [
        (other, SETTINGS, TASK, "model"),
        (fake_module(), replace(SETTINGS, num_prompts=39), TASK, "num_prompts"),
        (fake_module(), replace(SETTINGS, decoder_options={"threshold": 0.9}), TASK, "decoder_options.threshold"),
        (fake_module(), SETTINGS, ChainTask("easy", seed=1), "task_options.seed"),
        (fake_module(), replace(SETTINGS, max_new_tokens=64), PROMPTS, "task"),
    ]:
        with pytest.raises(UserError, match=f"other settings: {name} was"):
            run(module, output, settings, source)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    manifest = run(other, output, overwrite=True)
    assert manifest.settings["model"] == weights_hash(other)


@pytest.mark.parametrize("whole", [True, False])
def test_other_reference_answers_are_refused(fake_module, tmp_path, whole):
    questions, output = tmp_path / "q.jsonl", tmp_path / "c.jsonl"
    rows = [{"prompt": prompt, "answer": "3"} for prompt in PROMPTS[:12]]
    write_rows(questions, rows)
    settings, source = replace(SETTINGS, num_prompts=12), {"train": str(questions)}
    with contextlib.nullcontext() if whole else pytest.raises(KeyboardInterrupt):
        run(fake_module() if whole else fake_module(3), output, settings, JsonlTask(**source))
    write_rows(questions, [{**row, "answer": "4"} for row in rows])
    with pytest.raises(UserError, match="other settings: answers was"):
        run(fake_module(), output, settings, JsonlTask(**source))
    records = [path for path in tmp_path.iterdir() if path.name.endswith((".manifest.json", ".progress.json"))]
    for path in records:  # of a version that did not record them
        content = json.loads(path.read_text())
        content["settings"].pop("answers")
        path.write_text(json.dumps(content))
    assert records
    run(fake_module(), output, settings, JsonlTask(**source))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_whole_corpus_is_left_alone(fake_module, tmp_path):
    output, module = tmp_path / "c.jsonl", fake_module()
    first = run(fake_module(), output)
    assert run(module, output) == first
    assert isinstance(first, Manifest)
    assert module.calls == []


def test_a_foreign_file_is_not_overwritten(fake_module, tmp_path):
    output = tmp_path / "c.jsonl"
    output.write_text("mine")
    with pytest.raises(UserError, match=r"c.jsonl: exists and has no manifest"):
        run(fake_module(), output)
    assert output.read_text() == "mine"


def test_a_refusal_changes_no_file(fake_module, tmp_path):
    chain_base = dmaxlit.load("builtin:chain-base")
    output, long = tmp_path / "c.jsonl", [*PROMPTS[:3], "3 " * 5000]
    refused = [
        (fake_module(), replace(SETTINGS, decoder="nope"), TASK, "unknown decoder"),
        (chain_base, replace(SETTINGS, num_prompts=4, max_new_tokens=9), long, r"prompts\[3\]: expected at most"),
        (fake_module(), replace(SETTINGS, max_new_tokens=9), [p for p in PROMPTS if kind(p) == 0], "none kept"),
    ]
    for state in ("absent", "begun", "whole"):
        if state == "begun":
            with pytest.raises(KeyboardInterrupt):
                run(fake_module(9), output)
        if state == "whole":
            run(fake_module(), output)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        for module, settings, source, message in refused:
            for overwrite in (False, True):
                if state != "absent" and (not overwrite or message == "none kept"):
                    continue
                with pytest.raises(UserError, match=message):
                    run(module, output, settings, source, overwrite=overwrite)
                assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_old_corpus_stays_until_the_new_one_is_complete(fake_module, tmp_path):
    output = tmp_path / "c.jsonl"
    run(fake_module(), output)
    before = output.read_bytes()
    other = replace(SETTINGS, keep="all")
    with pytest.raises(KeyboardInterrupt):
        run(fake_module(9), output, other, overwrite=True)
    assert output.read_bytes() == before
    module = fake_module()
    run(module, output, other, overwrite=True)  # resumes
    assert [prompts for prompts, *_ in module.calls] == [[PROMPTS[8], *PROMPTS[10:]]]
    assert [row["prompt"] for row in rows_of(output)] == PROMPTS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "c.jsonl.manifest.json"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("at", [1, 2])
def test_killed_at_the_end_the_rest_is_done_by_the_next_call(fake_module, tmp_path, monkeypatch, at, overwrite):
    output = tmp_path / "c.jsonl"
    whole = run(fake_module(), tmp_path / "whole.jsonl")
    if overwrite:
        run(fake_module(), output, replace(SETTINGS, keep="all"))
    name = ["sync", "write_json"][at - 1]
    with monkeypatch.context() as patch:

        def killed(path, *_):
            if name == "sync" or path == manifest_path(output):
                raise KeyboardInterrupt
            write_json(path, *_)

        patch.setattr(f"dmaxlit.data.resumable_jsonl.{name}", killed)
        with pytest.raises(KeyboardInterrupt):
            run(fake_module(), output, overwrite=overwrite)
    assert output.exists()
    module = fake_module()
    manifest = run(module, output, overwrite=overwrite)
    assert module.calls == []
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert replace(manifest, seconds=0.0) == replace(whole, seconds=0.0)
    assert not PartialCorpus.record_path(output).exists()


def test_a_manifest_of_another_shape_is_refused(fake_module, tmp_path):
    output = tmp_path / "c.jsonl"
    run(fake_module(), output)
    content = json.loads(manifest_path(output).read_text())
    manifest_path(output).write_text(json.dumps({**content, "more": 1}))
    with pytest.raises(UserError, match=r"manifest.json: expected the manifest of a corpus"):
        run(fake_module(), output)
    manifest_path(output).write_text(json.dumps({**content, "settings": ["a"]}))
    with pytest.raises(UserError, match=r"manifest.json: expected settings, got a value of type list"):
        run(fake_module(), output)


def test_two_processes_do_not_write_one_corpus(fake_module, tmp_path):
    output = tmp_path / "c.jsonl"
    with held_by_another(output) as other:
        with pytest.raises(UserError, match=f"is being written by process {other.pid} on"):
            run(fake_module(), output)
        assert [path.name for path in tmp_path.iterdir()] == [".c.jsonl.lock"]
    manifest = run(fake_module(), output)
    with held_by_another(output):
        assert run(fake_module(), output) == manifest  # nothing is left to write


def test_a_corpus_that_another_process_has_just_finished_is_taken(fake_module, tmp_path, monkeypatch):
    output = tmp_path / "c.jsonl"
    whole = run(fake_module(), output)
    genuine, answers = shared_corpus.whole_manifest, []

    def late(*args):
        answers.append(genuine(*args))
        return answers[-1] if len(answers) > 1 else None

    monkeypatch.setattr(shared_corpus, "whole_manifest", late)
    module = fake_module()
    assert run(module, output) == whole
    assert module.calls == []


def test_another_chat_template_makes_another_corpus(fake_module, tmp_path):
    output, module = tmp_path / "c.jsonl", fake_module()
    assert run(module, output).settings["chat_template"] is None
    module.tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(UserError, match=r"other settings: chat_template was None, now '[0-9a-f]{64}'"):
        run(module, output)
    template = run(module, output, overwrite=True).settings["chat_template"]
    assert template == hashlib.sha256(b'["{{ messages[0].content }}"]').hexdigest()
