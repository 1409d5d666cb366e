"""FSDP2 on two CPU processes: the same training as one process on the same global batch, and checkpoints of parts."""

import json

import lightning as L
import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForCausalLM

from dmaxlit import DMaxModule, UserError, load
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.backbone.sharding import is_sharded
from dmaxlit.checkpoints.sharded import is_sharded_checkpoint
from dmaxlit.cli import main as cli
from dmaxlit.noise import MaskedNoise
from tests import sharded_run
from tests.backbone.formats.llada2_published import read_published, write_published
from tests.conftest import make_denoiser
from tests.one_process_fsdp import assert_same, fit
from tests.test_module import QUIET, loader, sgd

pytestmark = [
    pytest.mark.usefixtures("no_group_is_left"),
    pytest.mark.filterwarnings(
        "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*destroy_process_group", "ignore:.*barrier"
    ),
]


def run(processes, folder, *runs):
    """Make runs in two processes, one after the other; each writes to its ``folder``."""
    payload = json.dumps([{"devices": 2, "batch_size": 4, "clip": 1.0, **settings} for settings in runs])
    codes = processes.run([payload], folder / "log", module="tests.sharded_run", ranks=2)
    assert codes == [0, 0], (folder / "log.0").read_text()[-3000:]


def weights_of(folder):
    return torch.load(folder / "weights.pt", weights_only=True)


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
def published(tmp_path_factory):
    """Write a mixture of experts as it is published, and converted."""
    folder = tmp_path_factory.mktemp("published")
    write_published(folder / "published")
    cli(["convert", str(folder / "published"), str(folder / "glm")])
    return folder


@pytest.fixture(scope="module")
def shared(processes, tmp_path_factory, model, published):
    """Train two models in two processes, which share each model and start once; each takes half of every batch."""
    folders = [tmp_path_factory.mktemp(name) for name in ("two", "experts")]
    tiny, experts = map(str, folders)
    run(
        processes,
        tmp_path_factory.mktemp("logs"),
        {"folder": tiny, "model": model, "decode": True},
        {"folder": experts, "model": str(published / "glm"), "defer": True},
    )
    return folders


@pytest.fixture(scope="module")
def two(shared):
    return shared[0]


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
def test_training_goes_on_from_parts_with_deferred_weights_and_checkpointed_activations(
    processes, one, two, model, tmp_path
):
    settings = {"model": model, "defer": True, "checkpointing": True, "resume": str(two / "step=2.ckpt")}
    run(processes, tmp_path, {"folder": str(tmp_path), **settings})
    assert_same(weights_of(one), weights_of(tmp_path))


# ---- one process is enough for the rest -----------------------------------------------------------------------------


def test_parameters_are_sharded_and_stay_in_their_own_type_in_mixed_precision():
    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    dtypes = []
    module.backbone.model.base_model.layers[0].mlp.register_forward_hook(lambda m, args, out: dtypes.append(out.dtype))
    fit(module, precision="bf16-mixed")
    assert is_sharded(module.backbone)
    assert set(dtypes) == {torch.bfloat16}
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert all(p.full_tensor().isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_routers_in_float32_are_sharded_beside_a_model_in_bfloat16(published, tmp_path, precision):
    def make():
        denoiser = Denoiser(pretrained=str(published / "glm"), dtype="bfloat16", block_length=8)
        return DMaxModule(denoiser, MaskedNoise(level=0.5), lambda p: torch.optim.SGD([q for _, q in p], lr=0.01))

    sharded, alone, types = make(), make(), []
    routers = [name for name, p in alone.named_parameters() if p.dtype == torch.float32]
    assert all(name.endswith("gate.weight") for name in routers)
    if not routers:
        pytest.skip("transformers before 5.24 reads routers in the model's type")
    router = sharded.get_submodule(routers[0].rpartition(".")[0])
    router.register_forward_hook(lambda module, args, out: types.append(module.weight.dtype))
    trainer = fit(sharded, precision=precision)
    assert set(types) == {torch.float32}
    L.Trainer(**QUIET, max_steps=2, precision=precision).fit(alone, loader())
    trained = {name: p.full_tensor() for name, p in sharded.named_parameters()}
    for name, weight in alone.named_parameters():
        torch.testing.assert_close(trained[name], weight.data, atol=0.05, rtol=0.05)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    read = load(tmp_path / "x.ckpt").named_parameters()
    assert_same(dict(read), {name: weight.float() for name, weight in trained.items()}, atol=0)


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


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_float32_adapters_are_in_the_units_of_their_layers_of_16_bits(precision, tmp_path):
    pytest.importorskip("peft")

    def make():
        denoiser = make_denoiser(sharpen=3.0, dtype="bfloat16")
        small = lambda params: torch.optim.SGD([p for _, p in params], lr=0.01)  # noqa: E731
        return DMaxModule(denoiser, MaskedNoise(level=0.5), small, lora=LoraSettings(r=2))

    sharded, alone = make(), make()
    alone.load_state_dict(sharded.state_dict())  # adapters are drawn
    trainer = fit(sharded, precision=precision)
    L.Trainer(**QUIET, max_steps=2, precision=precision).fit(alone, loader())
    layers = sharded.backbone.model.base_model.layers
    assert [m for m in sharded.modules() if isinstance(m, FSDPModule)] == [sharded.backbone, *layers]
    for name, weight in alone.named_parameters():
        full = sharded.get_parameter(name).full_tensor()
        assert full.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16)
        torch.testing.assert_close(full, weight.data, atol=0.05, rtol=0.05)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    sharded.export(tmp_path / "m")
    one, two = (load(tmp_path / name, dtype="bfloat16").state_dict() for name in ("x.ckpt", "m"))
    assert_same(one, two, atol=0)


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


@pytest.mark.slow
def test_a_published_mixture_of_experts_is_converted_shared_trained_and_published_again(published, shared, tmp_path):
    two, like, back = shared[1], published / "published", tmp_path / "back"
    sharded_run.main(1, 8, str(tmp_path), str(published / "glm"), clip=1.0)
    assert_same(weights_of(tmp_path), weights_of(two), atol=5e-5)
    cli(["convert", str(two / "step=4.ckpt"), str(back), "--to", "llada2", "--like", str(like)])
    (trained, _), (before, _) = read_published(back), read_published(like)
    assert set(trained) == set(before)
    name = "model.layers.1.mlp.experts.0.gate_proj.weight"
    assert not torch.equal(trained[name].float(), before[name].float())
