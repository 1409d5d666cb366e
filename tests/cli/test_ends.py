"""Training that a callback or the clock ends leaves its last step; a longer run goes on as if it had not ended."""

import json

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dmaxlit.callbacks.run_checkpoint import RunCheckpoint

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"
)

OWN = '''
import lightning as L
import torch
from dmaxlit.noise import OnPolicyNoise


class DrawingNoise(OnPolicyNoise):
    """OPUT that uses the global random generator, so that it matters where that is."""

    def views(self, clean, generator):
        self.temperature = float(0.9 + torch.rand(()) / 5)
        return (yield from super().views(clean, generator))


class StopAt(L.Callback):
    """Stops in a hook, the n-th time it is called."""

    def __init__(self, hook: str, count: int):
        self.left = count
        setattr(self, hook, self.stop)

    def stop(self, trainer, *args, **kwargs):
        self.left -= not trainer.sanity_checking
        trainer.should_stop = trainer.should_stop or self.left == 0
'''


@pytest.fixture
def own(base, tmp_path):
    """A run of eight steps, four an epoch, with validation after every third batch of it."""
    (tmp_path / "own_ends.py").write_text(OWN)
    settings = yaml.safe_load(base.read_text())
    settings["model"]["noise"] = {"class_path": "own_ends.DrawingNoise", "init_args": {"level": 0.5}}
    settings["data"]["batch_size"] = 2
    settings["trainer"] |= {"max_steps": 8, "val_check_interval": 3, "callbacks": []}
    settings["checkpoint"] = {"every_minutes": None}
    base.write_text(yaml.safe_dump(settings))
    return base


@pytest.fixture
def fit(dmax, own, tmp_path, monkeypatch):
    """Run ``fit`` and return the last checkpoint, and the steps that were saved."""
    steps = []
    save = RunCheckpoint.save

    def counted(self, trainer, wait=True):
        save(self, trainer, wait)
        steps.append(trainer.global_step)

    monkeypatch.setattr(RunCheckpoint, "save", counted)

    def run(root, *flags):
        steps.clear()
        ended = dmax(["fit", "--config", str(own), "--trainer.default_root_dir", root, *" ".join(flags).split()])
        assert ended.status == 0, ended.err
        path = tmp_path / root / "checkpoints" / "last.ckpt"
        return (torch.load(path, weights_only=True) if path.exists() else None), list(steps)

    return run


def assert_same(checkpoint, expected):
    assert checkpoint["global_step"] == expected["global_step"]
    assert checkpoint["epoch"] == expected["epoch"]
    for name, value in expected["state_dict"].items():
        assert torch.equal(checkpoint["state_dict"][name], value), name
    states = [one["optimizer_states"][0]["state"] for one in (checkpoint, expected)]
    for number, state in states[1].items():
        for name, value in state.items():
            assert torch.equal(states[0][number][name], value), name


def stopper(hook, count):
    return f"--trainer.callbacks own_ends.StopAt --trainer.callbacks.hook {hook} --trainer.callbacks.count {count}"


@pytest.fixture(scope="module")
def straights():
    """Checkpoints of runs that nothing stopped, by their flags."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "count", "flags", "step"),
    [
        ("on_train_batch_end", 2, "", 2),
        ("on_train_batch_end", 3, "", 3),  # where validation is due as well
        ("on_train_batch_end", 4, "", 4),  # the last batch of the epoch
        ("on_train_batch_start", 2, "", 2),
        ("on_validation_end", 1, "", 3),
        ("on_validation_batch_end", 1, "", 3),
        ("on_train_epoch_end", 1, "", 4),
        ("on_train_epoch_start", 2, "", 4),
        ("on_train_batch_end", 1, "--trainer.min_steps 3", 4),  # then the epoch is completed
        ("on_train_batch_end", 1, "--trainer.accumulate_grad_batches 3 --trainer.max_steps 4", 1),
        ("on_train_batch_end", 5, "--trainer.accumulate_grad_batches 3 --trainer.max_steps 4", 3),
        ("on_validation_end", 1, "--trainer.accumulate_grad_batches 2 --trainer.max_steps 4", 2),
    ],
)
def test_wherever_it_is_stopped_the_last_step_is_kept_and_gone_on_from(
    fit, straights, tmp_path, hook, count, flags, step
):
    if flags not in straights:
        straights[flags] = fit("straight", flags)[0]
    stopped, saved = fit("stopped", flags, stopper(hook, count))
    assert stopped["global_step"] == step
    assert saved == [step]  # once
    record = json.loads((tmp_path / "stopped" / "checkpoints" / "finished.json").read_text())
    assert record["step"] == step
    longer, _ = fit("stopped", flags)
    assert_same(longer, straights[flags])


@pytest.mark.slow
def test_the_clock_ends_it_and_more_time_lets_it_go_on(fit, caplog):
    caplog.set_level("INFO")
    unlimited = "--trainer.max_steps 100000"
    stopped, saved = fit("stopped", unlimited, "--trainer.max_time 00:00:00:01")
    step = stopped["global_step"]
    assert saved == [step]
    assert fit("stopped", unlimited, "--trainer.max_time 00:00:00:01")[1] == []
    assert f"the run is finished, at step {step}" in caplog.messages[-1]
    longer, _ = fit("stopped", f"--trainer.max_steps {step + 2}", "--trainer.max_time 00:00:01:30")
    assert_same(longer, fit("straight", f"--trainer.max_steps {step + 2}")[0])


PATIENCE = (
    "--trainer.max_steps 40 --trainer.callbacks EarlyStopping --trainer.callbacks.monitor train/loss "
    "--trainer.callbacks.min_delta 1000 --trainer.callbacks.check_on_train_epoch_end {} --trainer.callbacks.patience "
)


@pytest.mark.slow
@pytest.mark.parametrize(("at_epoch_end", "steps"), [("true", (8, 12)), ("false", (7, 11))])
def test_more_patience_lets_it_go_on(fit, at_epoch_end, steps):
    patience = PATIENCE.format(at_epoch_end)
    stopped, saved = fit("stopped", f"{patience} 1")
    assert stopped["global_step"] == steps[0]
    assert saved == [steps[0]]
    longer, saved = fit("stopped", f"{patience} 2")
    assert saved == [steps[1]]
    assert_same(longer, fit("straight", f"{patience} 2")[0])


def test_killed_after_its_last_step_it_is_stopped_there_all_the_same(fit, tmp_path):
    flags = stopper("on_train_batch_end", 2)
    fit("killed", flags)
    finished = tmp_path / "killed" / "checkpoints" / "finished.json"
    record = finished.read_text()
    finished.unlink()
    stopped, saved = fit("killed", flags)
    assert (stopped["global_step"], saved, finished.read_text()) == (2, [], record)


@pytest.mark.slow
@pytest.mark.parametrize("moves", [0, 1])
def test_killed_before_the_last_checkpoint_has_its_name_it_is_not_finished_until_it_has(fit, tmp_path, moves, caplog):
    caplog.set_level("INFO")
    fit("killed", "--checkpoint.every_n_steps 4")
    folder = tmp_path / "killed" / "checkpoints"
    (folder / "last.ckpt").rename(folder / ".next.ckpt")
    if not moves:  # else the one before it has moved already, as those of several files are
        (folder / "previous.ckpt").rename(folder / "last.ckpt")
    for _ in range(2):
        last, saved = fit("killed", "--checkpoint.every_n_steps 4")
        assert (last["global_step"], saved) == (8, [])
    assert "the run is finished, at step 8" in caplog.messages[-1]
    assert sorted(path.name for path in folder.iterdir()) == ["finished.json", "last.ckpt", "previous.ckpt"]


@pytest.mark.slow
def test_points_after_the_last_step_are_logged_again_after_a_kill(dmax, base, tmp_path, monkeypatch):
    """Also the validation that was due after the last step: all are void when the same command goes on."""
    options = "--trainer.val_check_interval 1 --trainer.callbacks+ SPDValidation --trainer.callbacks.max_new_tokens 16"
    options += " --trainer.callbacks.curve null"
    line = f"fit --config {base} {options} --trainer.default_root_dir"

    def points(folder):
        log = EventAccumulator(str(tmp_path / folder / "lightning_logs" / "version_0")).Reload()
        names = [name for name in log.Tags()["scalars"] if "seconds" not in name and "per_second" not in name]
        return {name: [point.step for point in log.Scalars(name)] for name in names}

    assert dmax(line, "whole").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoint, "on_train_end", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dmax(line, "killed")
    assert dmax(line, "killed").status == 0
    whole = points("whole")
    assert whole["train/loss"] == [0, 1]
    assert any(name.startswith("val") or name.startswith("decode") for name in whole), whole
    assert points("killed") == whole
