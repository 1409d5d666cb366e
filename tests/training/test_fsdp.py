"""FSDP2 in one process: what it writes and refuses."""

import errno
import itertools
import json
import threading
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch.utils.data import DataLoader

from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone.auxiliary import AuxiliarySettings
from dmaxlit.callbacks import RunCheckpoint
from dmaxlit.checkpoints.lightning_file import read_checkpoint
from dmaxlit.checkpoints.part_checksums import ChecksumWriter
from dmaxlit.checkpoints.run_folder import RunFolder
from dmaxlit.checkpoints.sharded import check_shards, is_sharded_checkpoint, weights_of_shards
from dmaxlit.noise import MaskedNoise
from dmaxlit.training.fsdp import FSDP2Strategy
from dmaxlit.training.muon import MuonAdamW
from dmaxlit.training.sharded_module import local_gradients, prepare_backbone
from tests.conftest import TINY, limited_files, make_denoiser
from tests.one_process_fsdp import assert_same, fit
from tests.test_module import QUIET, loader, sgd

pytestmark = [
    pytest.mark.usefixtures("no_group_is_left"),
    pytest.mark.filterwarnings(
        "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*destroy_process_group", "ignore:.*barrier"
    ),
]


class WhileItIsWritten(L.Callback):
    """Lets the save of step 2 last until step 3 is over, and notes what is there meanwhile."""

    def __init__(self, monkeypatch, folder, error=None):
        self.folder, self.go_on, self.weights, self.seen = folder, threading.Event(), None, None
        write_data, writes = ChecksumWriter.write_data, itertools.count(1)

        def slow(*args):
            if next(writes) == 2:
                assert self.go_on.wait(60)
                if error is not None:
                    raise error
            return write_data(*args)

        monkeypatch.setattr(ChecksumWriter, "write_data", slow)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 2:
            found = self.folder.candidates()
            self.seen = [(path.name, read_checkpoint(path)["global_step"]) for path in found], trainer.strategy.is_saved
            self.weights = {name: p.full_tensor().clone() for name, p in pl_module.named_parameters()}

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 3:
            self.go_on.set()


def fit_while_saving(tmp_path, monkeypatch, error=None):
    folder = RunFolder(tmp_path / "checkpoints")
    watch = WhileItIsWritten(monkeypatch, folder, error)
    saves = RunCheckpoint(every_minutes=None, every_n_steps=1, folder=str(folder.path))
    strategy = FSDP2Strategy(async_save=True)
    try:
        fit(
            DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd),
            **{"max_steps": 4, "strategy": strategy, "callbacks": [watch, saves], "enable_checkpointing": True},
        )
    finally:
        assert watch.seen == ([("last.ckpt", 1)], False)  # what a kill would leave
    return folder, watch


def test_a_checkpoint_that_is_written_while_training_goes_on_is_of_its_own_step(tmp_path, monkeypatch):
    kept = {}
    promote = RunFolder.promote

    def keep(self, origin):
        kept[read_checkpoint(self.next)["global_step"]] = weights_of_shards(self.next)
        promote(self, origin)

    monkeypatch.setattr(RunFolder, "promote", keep)
    folder, watch = fit_while_saving(tmp_path, monkeypatch)
    assert list(kept) == [1, 2, 3, 4]
    assert_same(watch.weights, {name: kept[2][name] for name in watch.weights}, atol=0)  # its head is tied
    assert [read_checkpoint(path)["global_step"] for path in folder.candidates()] == [4, 3]
    check_shards(folder.last, contents=True)


def test_a_save_that_fails_while_training_goes_on_ends_the_run_with_one_line(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"cannot write .*No space.*; the last one written is .*last.ckpt of step 1"
    ) as caught:
        fit_while_saving(tmp_path, monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    assert "\n" not in str(caught.value)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 1


def test_only_parts_are_written_while_training_goes_on():
    with pytest.raises(UserError, match="async_save: expected save_distributed_checkpoint true, got false"):
        FSDP2Strategy(save_distributed_checkpoint=False, async_save=True)


def test_rank_zero_says_that_it_cannot_make_the_folder_before_it_leaves_the_others(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    said = []

    def save(is_global_zero, broadcast):
        monkeypatch.setattr(FSDP2Strategy, "is_global_zero", is_global_zero)
        monkeypatch.setattr(FSDP2Strategy, "broadcast", broadcast)
        with pytest.raises(UserError, match=r"^checkpoint: cannot write '.*last.ckpt' \(.*Not a directory"):
            FSDP2Strategy().save_checkpoint({}, tmp_path / "file" / "last.ckpt")

    save(True, lambda self, value: said.append(value) or value)
    heard = iter(said)
    save(False, lambda self, value: next(heard))
    assert [*map(type, said)][1:] == [NotADirectoryError]
    assert list(heard) == []


def test_a_save_that_breaks_off_leaves_no_mixture_of_two_checkpoints(tmp_path, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    trainer = fit(module)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    monkeypatch.setattr("dmaxlit.training.fsdp.save", stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.strategy.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(), tmp_path / "x.ckpt")
    assert not is_sharded_checkpoint(tmp_path / "x.ckpt")


def test_a_checkpoint_of_one_file_is_replaced_by_one_of_either_form(tmp_path):
    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    whole = fit(module, strategy=FSDP2Strategy(save_distributed_checkpoint=False))
    for _ in range(2):
        whole.save_checkpoint(tmp_path / "x.ckpt")
        assert (tmp_path / "x.ckpt").is_file()
    parts = fit(DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd))
    parts.save_checkpoint(tmp_path / "x.ckpt")
    assert is_sharded_checkpoint(tmp_path / "x.ckpt")


def test_an_error_that_is_not_the_system_s_is_not_told_as_one(tmp_path, monkeypatch):
    def stop(*args, **options):
        raise RuntimeError("Connection closed by peer")

    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    trainer = fit(module)
    monkeypatch.setattr("dmaxlit.training.fsdp.save", stop)
    with pytest.raises(RuntimeError, match="closed by peer"):
        trainer.strategy.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(), tmp_path / "x.ckpt")


def test_parts_that_are_empty_are_not_looked_at():
    class Held:
        param_groups = ({"params": [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(0, 4))]},)

    for parameter in Held.param_groups[0]["params"]:
        parameter.grad = torch.full_like(parameter, 2.0)
    (part,) = local_gradients(Held)
    assert part.tolist() == [2.0] * 3


def test_a_part_that_may_not_grow_is_told_in_one_line(tmp_path):
    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    trainer = fit(module)
    with limited_files(10_000), pytest.raises(UserError, match=r"cannot write .*x.ckpt' \(.*File too large") as caught:
        trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert "\n" not in str(caught.value)
    assert not is_sharded_checkpoint(tmp_path / "x.ckpt")


class OnGPU(L.Callback):
    """Keeps a tensor that is written as one of a GPU."""

    def state_dict(self):
        return {"kept": torch.ones(2)}

    def load_state_dict(self, state):
        self.read = state["kept"]


def test_tensors_of_callbacks_are_read_to_main_memory(tmp_path, monkeypatch):
    def fitted(**options):
        module, callback = DMaxModule(make_denoiser(), optimizer=sgd), OnGPU()
        trainer = L.Trainer(**{**QUIET, "devices": 1, "max_steps": 1}, strategy=FSDP2Strategy(), callbacks=callback)
        trainer.fit(module, loader(), **options)
        return trainer, callback

    trainer, _ = fitted()
    with monkeypatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
        trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert fitted(ckpt_path=tmp_path / "x.ckpt")[1].read.tolist() == [1, 1]


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy])
def test_strategies_by_which_training_would_be_another_are_refused(strategy):
    trainer = SimpleNamespace(training=True, strategy=strategy.__new__(strategy))
    refusal = rf"^strategy: expected .*FSDP2Strategy.*, got {strategy.__name__}.*$"
    with pytest.raises(UserError, match=refusal) as caught:
        prepare_backbone(SimpleNamespace(trainer=trainer, device_mesh=None), make_denoiser())
    assert "\n" not in str(caught.value)
    trainer.training = False
    prepare_backbone(SimpleNamespace(trainer=trainer, device_mesh=None), make_denoiser())


@pytest.mark.parametrize("strategy", ["auto", "ddp", "ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_of_one_device_and_of_ddp_are_not(strategy):
    trainer = L.Trainer(**QUIET, devices=1, strategy=strategy)
    trainer.training = True
    prepare_backbone(SimpleNamespace(trainer=trainer, device_mesh=None), make_denoiser())


def test_muon_is_refused_where_matrices_are_sharded():
    with pytest.raises(UserError, match="MuonAdamW: expected whole matrices"):
        fit(DMaxModule(make_denoiser(), optimizer=MuonAdamW))


class Scores(L.Callback):
    """Logs a value at the validation after each step."""

    def __init__(self, values):
        self.values = values

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("score", self.values[trainer.global_step - 1], sync_dist=True)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_resumed_run_goes_on_from_its_best(tmp_path):
    def run(values, **options):
        keeper = RunCheckpoint(every_minutes=None, folder=str(tmp_path), monitor="score", mode="max")
        settings = {"max_steps": len(values), "val_check_interval": 1, "num_sanity_val_steps": 0}
        settings |= {"callbacks": [Scores(values), keeper], "enable_checkpointing": True, "strategy": FSDP2Strategy()}
        trainer = L.Trainer(**{**QUIET, "devices": 1, **settings})
        module = DMaxModule(make_denoiser(), optimizer=sgd)
        trainer.fit(module, loader(), DataLoader([0]), **options)
        return json.loads((tmp_path / "best.json").read_text())["step"], keeper.best_model_path

    assert run([0.5, 0.4]) == (1, str(tmp_path / "best.ckpt"))
    assert run([0.5, 0.4, 0.3], ckpt_path=tmp_path / "last.ckpt") == (1, str(tmp_path / "best.ckpt"))
    assert is_sharded_checkpoint(tmp_path / "best.ckpt")


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"auxiliary": AuxiliarySettings(config=TINY)}, "strategy: expected one that does not shard the model"),
        ({"compile": True}, "compile: expected false under a strategy that shards the model"),
    ],
)
def test_what_cannot_be_sharded_is_refused(options, refusal):
    with pytest.raises(UserError, match=refusal):
        fit(DMaxModule(make_denoiser(), MaskedNoise(), optimizer=sgd, **options))
