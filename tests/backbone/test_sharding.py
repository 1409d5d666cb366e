"""FSDP2 on two CPU processes: the same training as one process on the same global batch, and checkpoints of parts."""

import errno
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import lightning as L
import pytest
import torch
from transformers import AutoModelForCausalLM

from dmaxlit import DMaxModule, UserError, load
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.backbone.sharding import is_sharded
from dmaxlit.callbacks import RunCheckpoint
from dmaxlit.checkpoints.lightning_file import read_checkpoint
from dmaxlit.checkpoints.part_checksums import ChecksumWriter
from dmaxlit.checkpoints.run_folder import RunFolder
from dmaxlit.checkpoints.sharded import check_shards, is_sharded_checkpoint, weights_of_shards
from dmaxlit.cli import main as cli
from dmaxlit.training.fsdp import FSDP2Strategy
from dmaxlit.training.muon import MuonAdamW
from dmaxlit.training.sharded_module import local_gradients
from tests import sharded_run
from tests.backbone.formats.llada2_published import read_published, write_published
from tests.conftest import limited_files, make_denoiser
from tests.test_module import QUIET, loader, sgd

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*destroy_process_group", "ignore:.*barrier"
)


def run(folder, **settings):
    """Train in separate processes that write to ``folder``; return the folder."""
    folder.mkdir()
    payload = json.dumps({"folder": str(folder), **settings})
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.sharded_run", payload]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def weights_of(folder):
    return torch.load(folder / "weights.pt", weights_only=True)


def assert_same(one, two, atol=2e-6):
    assert set(one) == set(two)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=atol, rtol=1e-4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    module = DMaxModule(make_denoiser(sharpen=3.0))
    module.set_task("chain", {"operations": 3})
    module.export(folder)
    return str(folder)


@pytest.fixture(scope="module")
def one(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("one")
    sharded_run.main(1, 8, str(folder), model, clip=1.0)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory, model):
    """Train in two processes that share the model, each with half of every batch, and decode now and then."""
    folder = tmp_path_factory.mktemp("two") / "run"
    return run(folder, devices=2, batch_size=4, model=model, clip=1.0, decode=True)


@pytest.mark.slow
def test_two_processes_that_share_the_model_equal_one(one, two):
    assert_same(weights_of(one), weights_of(two))


@pytest.mark.slow
def test_each_process_holds_half_and_decoding_is_reported(two, model):
    payload = json.loads((two / "report.json").read_text())
    total = sum(p.numel() for p in load(model).parameters())
    assert payload["share"] <= 0.51 * total
    assert {"decode/spd/tpf", "decode/threshold/accuracy"} <= set(payload["logged"])
    assert len(json.loads((two / "report" / "results.json").read_text())["rows"]) == 8


@pytest.mark.slow
def test_the_report_exports_the_trained_model(two):
    exported = AutoModelForCausalLM.from_pretrained(two / "report" / "model").state_dict()
    assert_same(weights_of(two), {name: exported[name] for name in weights_of(two)}, atol=0)


@pytest.mark.slow
def test_a_checkpoint_of_parts_is_exported_and_read_by_everyone(two, tmp_path, capsys):
    checkpoint = two / "step=4.ckpt"
    assert is_sharded_checkpoint(checkpoint)
    assert len(list(checkpoint.glob("*.distcp"))) == 2
    cli(["export", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "m")])
    ours, theirs = load(checkpoint), AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert ours.task_name == "chain"
    ids = torch.randint(0, 30, (2, 12))
    torch.testing.assert_close(theirs(ids).logits, ours.backbone.model(ids).logits)
    assert_same(weights_of(two), ours.backbone.model.state_dict(), atol=0)
    assert load(tmp_path / "m").generate(["3 +1 ?"], max_new_tokens=8)[0].num_tokens > 0


@pytest.mark.slow
def test_training_goes_on_from_parts_with_deferred_weights_and_checkpointed_activations(one, two, model, tmp_path):
    resumed = run(
        tmp_path / "resumed",
        **{"devices": 2, "batch_size": 4, "model": model, "clip": 1.0, "defer": True},
        **{"checkpointing": True, "resume": str(two / "step=2.ckpt")},
    )
    assert_same(weights_of(one), weights_of(resumed))


# ---- one process is enough for the rest -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_group_is_left():
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):  # such as the port, which processes of other tests would take over
        del os.environ[name]
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def fit(module, **trainer):
    built = L.Trainer(**{**QUIET, "max_steps": 2, "strategy": FSDP2Strategy(), "devices": 1, **trainer})
    built.fit(module, loader())
    return built


def test_parameters_are_sharded_and_stay_in_their_own_type_in_mixed_precision():
    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    dtypes = []
    module.backbone.model.base_model.layers[0].mlp.register_forward_hook(lambda m, args, out: dtypes.append(out.dtype))
    fit(module, precision="bf16-mixed")
    assert is_sharded(module.backbone)
    assert set(dtypes) == {torch.bfloat16}
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert all(p.full_tensor().isfinite().all() for p in module.parameters())


def test_adapters_are_sharded_and_merged_too(tmp_path):
    pytest.importorskip("peft")
    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd, lora=LoraSettings(r=2))
    trainer = fit(module)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    module.export(tmp_path / "m")
    alone, exported = load(tmp_path / "x.ckpt"), load(tmp_path / "m")
    assert_same(alone.state_dict(), exported.state_dict(), atol=0)
    before = DMaxModule(make_denoiser(sharpen=3.0)).state_dict()
    moved = [name for name, weight in exported.state_dict().items() if not torch.equal(weight, before[name])]
    assert any("q_proj" in name for name in moved)
    assert any("embed" in name for name in moved)


def test_muon_is_refused_where_matrices_are_sharded():
    with pytest.raises(UserError, match="MuonAdamW: expected whole matrices"):
        fit(DMaxModule(make_denoiser(), optimizer=MuonAdamW))


def test_deferred_weights_are_read_without_a_sharding_strategy_too(model):
    denoiser = Denoiser(pretrained=model, defer=True)
    assert denoiser.embedding.is_meta
    module = DMaxModule(denoiser, optimizer=sgd)
    L.Trainer(**QUIET, max_steps=0).fit(module, loader())
    assert_same(load(model).backbone.state_dict(), denoiser.state_dict(), atol=0)
    position = torch.arange(8)[None]
    allowed = torch.ones(1, 8, 8, dtype=torch.bool)
    torch.testing.assert_close(  # the buffers, too
        denoiser.eval().hidden(allowed, position, input_ids=position),
        load(model).backbone.hidden(allowed, position, input_ids=position),
    )


def test_a_model_made_from_its_config_has_no_weights_to_defer():
    with pytest.raises(UserError, match=r"backbone\.defer: expected a pretrained model"):
        make_denoiser(defer=True)


@pytest.fixture
def checkpoint(tmp_path):
    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    fit(module).save_checkpoint(tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


def test_parts_that_would_run_code_are_refused(checkpoint):
    class Evil:
        def __reduce__(self):
            return (json.dumps, ("x",))

    (checkpoint / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"cannot be read.*it names json.dumps") as caught:
        load(checkpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [".metadata", "meta.pt", "__0_0.distcp"])
def test_damaged_parts_are_refused(checkpoint, name):
    (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:40])
    with pytest.raises(UserError, match="checkpoint: ") as caught:
        load(checkpoint)
    assert "\n" not in str(caught.value)


def test_a_folder_that_lacks_a_part_or_some_of_it_is_noticed_without_reading_it(checkpoint):
    part = checkpoint / "__0_0.distcp"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"may be damaged \(__0_0.distcp: expected \d+ bytes, got \d+\)"):
        check_shards(checkpoint)
    part.unlink()
    with pytest.raises(UserError, match=r"may be damaged \(.*No such file.*__0_0.distcp"):
        check_shards(checkpoint)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_a_byte_that_has_changed_is_refused_by_the_name_of_its_part(checkpoint, name):
    check_shards(checkpoint, contents=True)
    content = bytearray((checkpoint / name).read_bytes())
    if name == ".metadata":
        content.append(0)  # behind the pickle, where nobody reads it
    else:
        content[-1] ^= 1
    (checkpoint / name).write_bytes(content)
    refusal = rf"x\.ckpt' cannot be read, it may be damaged \(wrong checksum of {re.escape(name)}\)$"
    with pytest.raises(UserError, match=refusal):
        load(checkpoint)
    with pytest.raises(UserError, match=refusal):
        L.Trainer(**{**QUIET, "max_steps": 3, "strategy": FSDP2Strategy(), "devices": 1}).fit(
            DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd), loader(), ckpt_path=checkpoint
        )


def test_parts_of_earlier_versions_have_no_checksums(checkpoint):
    (checkpoint / "checksums.json").unlink()
    check_shards(checkpoint, contents=True)
    load(checkpoint)


@pytest.mark.parametrize("content", ["{", "[1]", '{"../x": "00"}'])
def test_damaged_checksums_are_refused(checkpoint, content):
    (checkpoint / "checksums.json").write_text(content)
    with pytest.raises(UserError, match="may be damaged"):
        load(checkpoint)


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


def test_a_save_that_breaks_off_leaves_no_mixture_of_two_checkpoints(checkpoint, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    trainer = fit(module)
    monkeypatch.setattr("dmaxlit.training.fsdp.save", stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.strategy.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(), checkpoint)
    assert not is_sharded_checkpoint(checkpoint)


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


@pytest.mark.slow
def test_a_published_mixture_of_experts_is_converted_shared_trained_and_published_again(tmp_path):
    write_published(tmp_path / "published")
    glm, back = str(tmp_path / "glm"), tmp_path / "back"
    cli(["convert", str(tmp_path / "published"), glm])
    (tmp_path / "one").mkdir()
    sharded_run.main(1, 8, str(tmp_path / "one"), glm, clip=1.0)
    two = run(tmp_path / "two", devices=2, batch_size=4, model=glm, clip=1.0, defer=True)
    assert_same(weights_of(tmp_path / "one"), weights_of(two), atol=5e-5)
    cli(["convert", str(two / "step=4.ckpt"), str(back), "--to", "llada2", "--like", str(tmp_path / "published")])
    (trained, _), (published, _) = read_published(back), read_published(tmp_path / "published")
    assert set(trained) == set(published)
    name = "model.layers.1.mlp.experts.0.gate_proj.weight"
    assert not torch.equal(trained[name].float(), published[name].float())
