"""``fit`` called again: it goes on, refuses, or has nothing to do."""

import json

import lightning as L
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dmaxlit
from dmaxlit.callbacks._checkpoint_writing import SECONDS_TAG
from dmaxlit.checkpoints import atomic_io
from dmaxlit.cli import resume
from dmaxlit.errors import UserError
from tests.cli.conftest import SHORT, TASK, step_of
from tests.lock_holder import held_by_another

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"
)


@pytest.fixture(autouse=True)
def _all_is_caught(caplog):
    caplog.set_level("INFO")


def test_the_last_two_checkpoints_are_kept(begun, folder):
    assert sorted(path.name for path in folder.iterdir() if "epoch" not in path.name) == [
        "finished.json",
        "last.ckpt",
        "previous.ckpt",
    ]
    assert [step_of(folder / f"{name}.ckpt") for name in ("previous", "last")] == [1, 2]


def test_for_how_long_training_stops_to_save_is_logged(begun, tmp_path):
    events = EventAccumulator(str(tmp_path / "runs" / "lightning_logs" / "version_0")).Reload()
    points = events.Scalars(SECONDS_TAG)
    assert [point.step for point in points] == [0, 1]
    assert all(0 < point.value < 60 for point in points)


def test_a_run_that_may_last_longer_goes_on(dmax, begun, folder, tmp_path, caplog):
    ended = dmax(f"fit --config {begun} {SHORT}")
    assert ended.status == 0
    assert "resuming from runs/checkpoints/last.ckpt, after step 2" in caplog.text
    assert [step_of(folder / f"{name}.ckpt") for name in ("previous", "last")] == [3, 4]
    assert len(list((tmp_path / "runs" / "lightning_logs").iterdir())) == 1


@pytest.mark.parametrize("flags", ["", "--ckpt_path runs/checkpoints/last.ckpt"])
def test_checksums_are_compared_once(dmax, begun, monkeypatch, flags):
    compared = []
    is_whole = atomic_io._is_whole

    def counted(archive, member):
        compared.append((archive.filename, member.filename))
        return is_whole(archive, member)

    monkeypatch.setattr(atomic_io, "_is_whole", counted)
    assert dmax(f"fit --config {begun} {flags}").status == 0
    tensors = [name for name in compared if "/data/" in name[1]]
    assert tensors
    assert sorted(tensors) == sorted(set(tensors))


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise",
    ["multi_block --model.noise.base on_policy", "mmd --model.noise.groups 2", "tsd --model.noise.steps 3"],
    ids=lambda noise: noise.partition(" ")[0],
)
def test_a_run_with_groups_a_frozen_copy_or_soft_targets_goes_on_as_if_it_had_not_stopped(dmax, base, tmp_path, noise):
    weights = {}
    for name, ends in {"whole": (4,), "parts": (2, 4)}.items():
        for end in ends:
            flags = f"--trainer.max_steps {end} --trainer.default_root_dir {name}"
            ended = dmax(f"fit --config {base} --model.noise {noise} {SHORT} {flags}")
            assert ended.status == 0, ended.err
        content = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        assert content["global_step"] == 4
        weights[name] = content["state_dict"]
    for name, weight in weights["whole"].items():
        assert torch.equal(weight, weights["parts"][name]), name


@pytest.mark.slow
def test_batches_of_max_tokens_go_on_where_they_were_also_in_other_micro_batches(dmax, base, tmp_path):
    line = f"fit --config {base} {SHORT} --data.max_tokens 64 --model.noise.stratified true --trainer.default_root_dir"
    accumulate = "--trainer.accumulate_grad_batches 2"
    for ended in (
        dmax(f"{line} whole --trainer.max_steps 3 {accumulate}"),
        dmax(f"{line} parts --trainer.max_steps 1 {accumulate}"),
        dmax(f"{line} parts --trainer.max_steps 3 {accumulate}"),
    ):
        assert ended.status == 0, ended.err
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    for name, weight in whole["state_dict"].items():
        assert torch.equal(weight, parts["state_dict"][name]), name
    for flags, difference in [
        (
            "",
            "micro-batches of an optimiser step is 2 there, 1 here; give --trainer.accumulate_grad_batches 2 to go on",
        ),
        (f"{accumulate} --data.max_tokens 128", "data.max_tokens is 64 there, 128 here; give another "),
        (f"{accumulate} --data.batch_size 3", "most rows of a micro-batch is 4 there, 3 here; give another "),
    ]:
        ended = dmax(f"{line} parts --trainer.max_steps 3 {flags}")
        assert difference in ended.err.splitlines()[-1]


def test_a_finished_run_has_nothing_to_do(dmax, begun, folder, caplog):
    assert dmax(f"fit --config {begun} {SHORT}").status == 0
    before = (folder / "last.ckpt").stat()
    ended = dmax(f"fit --config {begun} {SHORT}")
    assert ended.status == 0
    assert caplog.messages[-1] == (
        "runs/checkpoints/last.ckpt: the run is finished, at step 4; --checkpoint.resume false starts over"
    )
    assert (folder / "last.ckpt").stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("source", ["", "--ckpt_path runs/checkpoints/last.ckpt"])
@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        (
            "--trainer.max_steps 1",
            "trainer.max_steps: expected at least 2, the steps made in runs/checkpoints/last.ckpt, got 1",
        ),
        (
            "--trainer.max_steps 0",
            "trainer.max_steps: expected at least 2, the steps made in runs/checkpoints/last.ckpt, got 0",
        ),
        (
            "--trainer.max_epochs 0",
            "trainer.max_epochs: expected at least 1, the epochs begun in runs/checkpoints/last.ckpt, got 0",
        ),
    ],
)
def test_an_end_that_is_passed_is_refused(dmax, begun, source, flags, refusal):
    advice = "" if source else "; --checkpoint.resume false starts over"
    ended = dmax(f"fit --config {begun} {SHORT} {source} {flags}")
    assert ended.status == 2
    assert ended.err.splitlines()[-1] == f"error: {refusal}{advice}"


def test_starting_over_is_asked_for_and_replaces_both(dmax, begun, folder, caplog):
    ended = dmax(f"fit --config {begun} --trainer.max_steps 1 --model.noise.level 0.25 --checkpoint.resume false")
    assert ended.status == 0
    assert "starting over: the checkpoints in runs/checkpoints are replaced" in caplog.text
    assert step_of(folder / "last.ckpt") == 1
    assert not (folder / "previous.ckpt").exists()


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        ("--model.noise.level 0.25", "model.noise.level is 0.5 there, 0.25 here"),
        ("--seed_everything 1", "seed_everything is 0 there, 1 here"),
        ("--model.optimizer.lr 0.5", "model.optimizer.lr is 0.001 there, 0.5 here"),
        ("--trainer.callbacks+=NextTokenTraining", "objective is 'views' there, 'next token' here"),
        (
            "--trainer.callbacks+=EMAWeightAveraging",
            "callbacks that change training is [] there, ['EMAWeightAveraging'] here",
        ),
        ("--trainer.precision bf16-mixed", "trainer.precision is '32-true' there, 'bf16-mixed' here"),
        ("--model.lora.r 2", "model.lora.r is not set there, 2 here"),
    ],
)
def test_another_run_is_not_continued(dmax, begun, folder, flags, difference):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    ended = dmax(f"fit --config {begun} {SHORT} {flags}")
    assert ended.status == 2
    assert ended.err.splitlines()[-1] == (
        f"error: runs/checkpoints/last.ckpt: belongs to another run: {difference}; give another "
        "--trainer.default_root_dir, or --checkpoint.resume false to start over"
    )
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("there", "here", "differ"), [(1.0, 1, True), (1, 1.0, True), (1, 1, False), (1.0, 1.0, False)]
)
def test_one_batch_is_not_all_of_them(there, here, differ):
    # Not by the command line, whose parser takes 1 for 1.0 if some library has asked for a float or an int before.
    assert resume._is_one_batch_or_all("trainer.limit_train_batches", there, here) == differ


def test_a_default_that_is_spelled_out_is_the_same_run(dmax, begun):
    spelled = "--trainer.precision 32-true --trainer.limit_train_batches 1.0 --trainer.gradient_clip_algorithm norm"
    ended = dmax(f"fit --config {begun} {SHORT} {spelled}")
    assert ended.status == 0, ended.err


def test_defaults_of_earlier_versions_are_those_of_now(tmp_path):
    stored = {"data.num_train": 10_000, "data.distill.num_prompts": 2048, "model.seed": None}
    current = {"data.num_train": None, "data.distill.num_prompts": None, "model.seed": None}
    resume._refuse_other_run(tmp_path, stored, current, None)
    with pytest.raises(UserError, match=r"data.num_train is 10000 there, 9 here"):
        resume._refuse_other_run(tmp_path, stored, current | {"data.num_train": 9}, L.Trainer(logger=False))


def test_a_run_that_writes_checkpoints_to_two_folders_goes_on(dmax, base, tmp_path):
    copies = "--trainer.callbacks+ RunCheckpoint --trainer.callbacks.folder copy --checkpoint.every_n_steps 1"
    for steps in (1, 2):
        ended = dmax(f"fit --config {base} {copies} --trainer.limit_val_batches 0 --trainer.max_steps {steps}")
        assert ended.status == 0, ended.err
        for folder in ("runs/checkpoints", "copy"):
            assert step_of(tmp_path / folder / "last.ckpt") == steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "here", "advice"),
    [
        ("--data.batch_size 2", 2, "--trainer.accumulate_grad_batches 2"),
        ("--data.batch_size 3", 3, "--data.batch_size 4 --trainer.accumulate_grad_batches 1"),
        ("--trainer.accumulate_grad_batches 2", 8, "--trainer.accumulate_grad_batches 1"),
    ],
)
def test_another_number_of_rows_a_step_is_refused_with_the_options_that_go_on(dmax, begun, flags, here, advice):
    ended = dmax(f"fit --config {begun} {SHORT} {flags}")
    assert ended.err.splitlines()[-1] == (
        "error: runs/checkpoints/last.ckpt: belongs to another run: rows of an optimiser step is 4 there, "
        f"{here} here; give {advice} to go on, another --trainer.default_root_dir, or --checkpoint.resume false to "
        "start over"
    )
    assert dmax(f"fit --config {begun} {SHORT} {flags} {advice}").status == 0


def test_grouped_rows_need_as_many_in_a_micro_batch(dmax, base):
    run = f"fit --config {base} --trainer.limit_val_batches 0 --data.group_by_length true --trainer.max_steps"
    assert dmax(f"{run} 1").status == 0
    ended = dmax(f"{run} 2 --data.batch_size 2 --trainer.accumulate_grad_batches 2")
    assert ended.err.splitlines()[-1] == (
        "error: runs/checkpoints/last.ckpt: belongs to another run: batch_size over all ranks is 4 there, 2 here; give "
        "--data.batch_size 4 --trainer.accumulate_grad_batches 1 to go on, another --trainer.default_root_dir, or "
        "--checkpoint.resume false to start over"
    )


@pytest.mark.slow  # with some older libraries Lightning's "int or float" is read as a float, and 1 as all batches
def test_where_batches_are_counted_their_rows_stay_the_same(dmax, base):
    line = f"fit --config {base} {SHORT} --trainer.limit_train_batches 1"
    assert dmax(f"{line} --trainer.max_steps 1").status == 0
    ended = dmax(f"{line} --data.batch_size 2 --trainer.accumulate_grad_batches 2")
    assert "batch_size over all ranks is 4 there, 2 here" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [
        "CosineAnnealingLR --model.lr_scheduler.T_max",
        "dmaxlit.training.lr_schedules.WarmupCosine --model.lr_scheduler.warmup 0 --model.lr_scheduler.total_steps",
    ],
)
def test_a_longer_run_has_the_learning_rates_of_its_own_length(dmax, base, folder, schedule):
    def rate_after(steps, length):
        ended = dmax(
            f"fit --config {base} {SHORT} --trainer.max_steps {steps} --model.lr_scheduler {schedule} {length}"
        )
        assert ended.status == 0, ended.err
        return torch.load(folder / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"][0]["lr"]

    assert rate_after(2, 2) == pytest.approx(0.0)
    assert rate_after(3, 6) == pytest.approx(0.001 / 2)  # half a cosine at its middle
    assert rate_after(6, 6) == pytest.approx(0.0)


def test_a_shorter_schedule_is_another_run(dmax, base):
    line = f"fit --config {base} {SHORT} --model.lr_scheduler CosineAnnealingLR --model.lr_scheduler.T_max"
    assert dmax(f"{line} 9").status == 0
    assert "model.lr_scheduler.T_max is 9 there, 8 here" in dmax(f"{line} 8").err


AVERAGING = "--trainer.callbacks+=EMAWeightAveraging --trainer.callbacks.decay"
WARMUP = "--trainer.callbacks+=BlockWarmup --trainer.callbacks.stages"


@pytest.mark.parametrize(
    ("there", "here", "difference"),
    [
        (f"{AVERAGING} 0.9", f"{AVERAGING} 0.5", "callback.EMAWeightAveraging.decay is 0.9 there, 0.5 here"),
        (
            f"{WARMUP} '{{0: 4, 2: 16}}'",
            f"{WARMUP} '{{0: 4, 3: 16}}'",
            "BlockWarmup.stages.3 is not set there, 16 here",
        ),
        (f"{WARMUP} '{{0: 4, 2: 16}}'", "", "is ['BlockWarmup'] there, [] here"),
    ],
)
def test_a_callback_that_changes_what_is_learned_stays_as_it_is(dmax, base, there, here, difference):
    line = f"fit --config {base} {SHORT} --trainer.max_steps"
    assert dmax(f"{line} 1 {there}").status == 0
    assert difference in dmax(f"{line} 2 {here}").err
    ended = dmax(f"{line} 2 {there}")
    assert ended.status == 0, ended.err


def test_a_run_of_before_such_callbacks_were_stored_goes_on():
    current = {"seed_everything": 0, resume._CALLBACKS: ["BlockWarmup"], "callback.BlockWarmup.stages.0": 8}
    resume._refuse_other_run(None, {"seed_everything": 0}, current, None)
    with pytest.raises(UserError, match="belongs to another run"):
        resume._refuse_other_run(None, {"seed_everything": 0, resume._CALLBACKS: []}, current, None)


def test_what_does_not_change_the_result_may_change(dmax, begun):
    flags = "--data.num_val 1 --data.eval_batch_size 2 --trainer.log_every_n_steps 2 --model.check_noise false"
    assert dmax(f"fit --config {begun} {SHORT} {flags}").status == 0


def test_other_rows_under_the_same_name_are_refused(dmax, begun, tmp_path, corpus):
    copy = tmp_path / "own.jsonl"
    lines = corpus.read_text().splitlines(keepends=True)
    copy.write_text("".join(lines))
    flags = f"--trainer.default_root_dir mine --data.corpus {copy} {SHORT}"
    assert dmax(f"fit --config {begun} {flags} --trainer.max_steps 1").status == 0
    copy.write_text("".join(reversed(lines)))
    ended = dmax(f"fit --config {begun} {flags}")
    assert ended.status == 2
    assert ended.err.splitlines()[-1].startswith(
        "error: data: expected the rows mine/checkpoints/last.ckpt was trained"
    )


def test_the_report_is_made_up_for_when_its_process_was_ended(dmax, base, tmp_path, caplog):
    report = "--trainer.callbacks+ ComparisonReport --trainer.callbacks.num_examples 2"
    report += " --trainer.callbacks.decoders [{name:\\ threshold}]"
    assert dmax(f"fit --config {base} {SHORT} {report}").status == 0
    results = tmp_path / "runs" / "results.json"
    first = json.loads(results.read_text())
    results.unlink()
    (tmp_path / "runs" / "checkpoints" / "finished.json").unlink()  # written after the report
    ended = dmax(f"fit --config {base} {SHORT} {report}")
    assert ended.status == 0, ended.err
    again = json.loads(results.read_text())
    assert [row["label"] for row in again["rows"]] == [row["label"] for row in first["rows"]]
    assert [row["accuracy"] for row in again["rows"]] == [row["accuracy"] for row in first["rows"]]
    assert (again["steps"], again["task"]) == (2, {"name": "chain", "options": dmaxlit.task("chain", **TASK).options()})
    assert dmax(f"fit --config {base} {SHORT} {report}").status == 0
    assert "is finished" in caplog.messages[-1]


def test_checkpoints_can_be_switched_off(dmax, base, tmp_path):
    settings = yaml.safe_load(base.read_text())
    settings["trainer"]["callbacks"] = []
    base.write_text(yaml.safe_dump(settings))
    assert dmax(f"fit --config {base} --trainer.enable_checkpointing false").status == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["lightning_logs"]


def test_two_processes_do_not_train_in_one_folder(dmax, base, folder):
    with held_by_another(folder.parent, "exclusive_folder") as other:
        ended = dmax(f"fit --config {base} {SHORT}")
        assert ended.status == 2
        assert f"trainer.default_root_dir: 'runs' is being written by process {other.pid}" in ended.err
        assert [path.name for path in folder.parent.iterdir()] == [".lock"]
    with held_by_another(folder, "exclusive_folder") as other:  # by a trainer without the command line
        assert "checkpoint: 'runs/checkpoints' is being written by" in dmax(f"fit --config {base} {SHORT}").err
    assert dmax(f"fit --config {base} {SHORT}").status == 0
    assert not list(folder.parent.rglob("*.lock"))
