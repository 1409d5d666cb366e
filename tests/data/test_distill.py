import contextlib
import hashlib
import json
import signal
from dataclasses import asdict, replace

import pytest
import torch

from dmaxlit import DMaxModule
from dmaxlit.data.distill import DistillSettings, Manifest, distill, manifest_path
from dmaxlit.errors import UserError
from dmaxlit.files import weights_hash
from dmaxlit.tasks import ChainTask
from dmaxlit.version import __version__
from tests.conftest import make_denoiser

SETTINGS = DistillSettings(num_prompts=40, batch_size=2)
TASK = ChainTask("easy")
PROMPTS = [example.prompt for example in TASK.examples("train", 40)]


def run(module, output, settings=SETTINGS, source=TASK, **options):
    return distill(module, source, output, settings, progress=False, **options)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def kind(prompt):
    return sum(map(ord, prompt)) % 5


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
    assert {(d, n, b, o["threshold"]) for _, d, n, b, o in module.calls} == {
        ("threshold", TASK.max_new_tokens, 2, 0.95)
    }
    settings = replace(SETTINGS, decoder="spd", decoder_options={"tau_dec": 0.3}, max_new_tokens=7)
    module = fake_module()
    run(module, tmp_path / "b.jsonl", settings)
    assert {(d, n, *o.items()) for _, d, n, _, o in module.calls} == {("spd", 7, ("tau_dec", 0.3))}


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


@pytest.mark.parametrize("fail_at", [0, 1, 4])
@pytest.mark.parametrize("torn", [b"", b'{"prompt": "torn'])
def test_an_interrupted_run_is_resumed_without_losing_or_duplicating_a_row(fake_module, tmp_path, fail_at, torn):
    whole = run(fake_module(random=True), tmp_path / "whole.jsonl")
    output = tmp_path / "c.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(fake_module(fail_at, random=True), output)
    assert not output.exists()
    assert not manifest_path(output).exists()
    with (tmp_path / "c.jsonl.partial").open("ab") as file:
        file.write(torn)
    module = fake_module(random=True)
    torch.manual_seed(fail_at)
    manifest = run(module, output)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert replace(manifest, seconds=0.0) == replace(whole, seconds=0.0)
    assert len(module.calls) == 5 - fail_at


@pytest.mark.slow
def test_a_killed_process_is_resumed_without_losing_or_duplicating_a_row(
    fake_module, fake_script, run_script, tmp_path
):
    output = tmp_path / "c.jsonl"
    killed = run_script(fake_script, output)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    recorded = json.loads((tmp_path / "c.jsonl.progress.json").read_text())["progress"]
    assert recorded["prompts"] == 16
    assert (tmp_path / "c.jsonl.partial").stat().st_size > recorded["offset"]
    assert not output.exists()
    module = fake_module()
    run(module, output)
    assert [prompt for prompts, *_ in module.calls for prompt in prompts] == PROMPTS[16:]
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
            run(fake_module(1), output)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = fake_module()
    other.backbone.model[0].weight.data.add_(1)
    for module, settings, source, name in [
        (other, SETTINGS, TASK, "model"),
        (fake_module(), replace(SETTINGS, num_prompts=39), TASK, "num_prompts"),
        (fake_module(), replace(SETTINGS, decoder_options={"threshold": 0.9}), TASK, "decoder_options"),
        (fake_module(), SETTINGS, ChainTask("easy", seed=1), "task_options"),
        (fake_module(), replace(SETTINGS, max_new_tokens=64), PROMPTS, "task"),
    ]:
        with pytest.raises(UserError, match=f"other settings: {name} was"):
            run(module, output, settings, source)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    manifest = run(other, output, overwrite=True)
    assert manifest.settings["model"] == weights_hash(other)


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
