import json
import shutil

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.formats.convert import convert
from dmaxlit.backbone.source import BackboneSource
from dmaxlit.cli.plan import _PlanCLI, scenario_of, source_of
from dmaxlit.cli.training import run_cli
from tests.backbone.formats.llada2_published import write_published
from tests.conftest import write_tokenizer

THREE_PASSES = """
import lightning as L
from dmaxlit.training.objective import Objective

class ThreePasses(L.Callback):
    objective = Objective("denoising", passes=3)
"""


def test_a_plan_is_printed_with_a_verdict(dmax, base, tiny):
    outcome = dmax("plan --gpu_memory 80 --config", base)
    assert outcome.status == 0, outcome.err
    for name in ("parameters", "gradients", "optimiser state", "activations", "logits"):
        assert name in outcome.out
    assert outcome.out.splitlines()[-1].startswith("fits: 1.")
    assert "2 views" in " ".join(outcome.out.replace("│", " ").split())


def test_what_does_not_fit_says_why_and_fails(dmax, base):
    outcome = dmax("plan --gpus 2 --gpu_memory 0.5 --config", base)
    assert outcome.status == 1
    assert outcome.out.splitlines()[-1].startswith("does not fit: 1.")
    assert "the largest part is activations" in outcome.out


def test_sharing_and_settings_of_fit_count(dmax, base):
    alone = dmax("plan --gpus 4 --config", base).out
    shared = dmax("plan --gpus 4 --trainer.strategy dmaxlit.training.fsdp.FSDP2Strategy --config", base).out
    assert "each with its own model" in alone
    assert "gradient buckets" in alone
    assert "gradient buckets" not in shared
    assert "shared (FSDP2)" in shared
    assert "1/4 of it" in " ".join(shared.replace("│", " ").split())
    masked = dmax("plan --config", base, "--model.noise", "masked").out
    assert "1 view:" in " ".join(masked.replace("│", " ").split())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            "mmd --model.noise.groups 3",
            [
                "1 view:",
                "2 forwards without gradients",
                "of 7 forwards of the frozen copy",
                "embedding and 2 of 2 layers",
            ],
        ),
        ("tsd", ["1 view:", "16 forwards without gradients", "those of teachers, and one gradient"]),
        ("tsd --model.noise.steps 3", ["1 view:", "3 forwards without gradients"]),
        ("multi_block --model.noise.base on_policy", ["2 views:"]),
        ("on_policy --model.noise.alternate true", ["1 view:", "1 forward without gradients"]),
        ("rollout_k", ["2 views:", "2 forwards without gradients"]),
        ("rollout_k --model.noise.decoder_options.top_k 20", ["2 views:", "2 forwards without gradients"]),
    ],
)
def test_passes_without_gradients_and_a_frozen_copy_are_counted(dmax, base, monkeypatch, flags, expected):
    monkeypatch.setenv("COLUMNS", "200")
    outcome = dmax(f"plan --config {base} --model.noise {flags}")
    assert outcome.status == 0, outcome.err
    assert [text for text in expected if text not in outcome.out] == []
    assert ("frozen copy" in outcome.out) == flags.startswith("mmd")
    if flags.startswith("mmd"):
        adapted = dmax(f"plan --config {base} --model.noise {flags} --model.lora.r 4").out
        assert "of 7 forwards" in adapted
        assert "embedding and" not in adapted


def test_a_callback_that_replaces_the_losses_has_passes_of_its_own(tiny, tmp_path, monkeypatch):
    (tmp_path / "denoising.py").write_text(THREE_PASSES)
    monkeypatch.syspath_prepend(tmp_path)
    lines = [f"--model.backbone.pretrained={tiny}", "--data.task=chain", "--model.noise=on_policy"]
    views = planned(lines)
    assert (views.views, views.clean_copy) == (2, True)
    for callback, passes, at_once in (("NextTokenTraining", 1, False), ("denoising.ThreePasses", 3, True)):
        scenario = planned([*lines, f"--trainer.callbacks+={callback}", "--trainer.callbacks+=ViewDiagnostics"])
        assert (scenario.views, scenario.rollout_forwards, scenario.clean_copy) == (passes, 0, False)
        assert scenario.whole_logits == at_once
    assert not planned([*lines, "--trainer.callbacks=NextTokenTraining"]).clean_copy
    both = ["--trainer.callbacks+=NextTokenTraining", "--trainer.callbacks+=denoising.ThreePasses"]
    with pytest.raises(UserError, match="expected at most one that replaces the losses of the views, got 'next token'"):
        planned([*lines, *both])


def test_a_table_reads_the_model_once(dmax, base, monkeypatch):
    read = []
    resolve = BackboneSource.resolve
    monkeypatch.setattr(BackboneSource, "resolve", lambda *args, **more: read.append(more) or resolve(*args, **more))
    assert dmax(f"plan --config {base} --table").status == 0
    assert len(read) == 1


def test_features_of_a_sharded_model_or_of_a_missing_layer_are_refused(dmax, base):
    plan = f"plan --config {base} --model.noise mmd"
    sharded = dmax(f"{plan} --trainer.strategy dmaxlit.training.fsdp.FSDP2Strategy")
    assert sharded.refusal == "noise: expected an unsharded model, since features need a whole frozen copy of it"
    assert dmax(f"{plan} --model.noise.layer 7").refusal.startswith("noise.layer: expected 0 to 1")


def test_a_plan_reads_no_weights(dmax, base, tiny, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for path in tiny.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    assert dmax("plan --config", base, "--model.backbone.pretrained", folder).status == 0


def cells(out):
    """The cells of each line of a table."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]


def test_a_table_says_what_fits_on_which_gpus(dmax, base):
    pytest.importorskip("peft")
    sizes = "--model.backbone.pretrained null --model.backbone.tokenizer chain --model.backbone.config"
    config = {"model_type": "qwen3", "hidden_size": 16384, "intermediate_size": 49152, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 1024}
    outcome = dmax(f"plan --table --config {base} {sizes} '{json.dumps(config)}' --model.optimizer AdamW")
    assert outcome.status == 0, outcome.err
    rows = cells(outcome.out)
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "16"]
    needs = [[float(cell.partition(":")[0]) for cell in row[1:]] for row in rows]
    for row in needs:
        assert row[0] > row[1] > row[3]
        assert row[0] > row[2] > row[3]
    for column in zip(*needs, strict=True):
        assert column[1] > column[2] > column[3] > column[4]
    for row, of_row in zip(rows, needs, strict=True):
        for cell, need in zip(row[1:], of_row, strict=True):
            smallest = next((name for name, room in CARDS if need <= room), "none")
            assert cell.partition(": ")[2] == smallest
    assert "share the model (FSDP2)" in outcome.out
    one = dmax(f"plan --gpu_memory 999 --config {base} {sizes} '{json.dumps(config)}' --model.optimizer AdamW")
    assert f"fits: {needs[0][0]:.1f} of 999 GiB" in one.out


CARDS = [("24 GB", 23.5), ("40 GB", 39.0), ("80 GB", 79.0), ("141 GB", 139.0)]


def test_a_table_shares_no_model_whose_optimiser_needs_whole_matrices(dmax, base):
    outcome = dmax("plan --table --model.optimizer MuonAdamW --config", base)
    assert "MuonAdamW needs whole matrices" in outcome.out
    assert len({tuple(row[1:]) for row in cells(outcome.out)}) == 1


def test_a_table_has_its_own_gpus(dmax, base):
    assert dmax("plan --table --gpus 8 --config", base).refusal == (
        "gpus: expected none with --table, which has several of them, got 8"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--gpus 0", "gpus: expected"),
        ("--gpu_memory -1", "gpu_memory: expected"),
        ("--gpus x", "--gpus: "),
        ("--data.batch_size 0", "batch_size: expected at least 1, got 0"),
        ("--network_gbits 0", "network_gbits: expected a number above 0, got 0.0"),
        ("--network_gbits nan", "network_gbits: expected a number above 0, got nan"),
        ("--tflops 400", "tflops: expected --network_gbits with it, got 400.0 alone"),
        ("--table --network_gbits 100", "network_gbits: expected none with --table, got 100.0"),
        ("--network_gbits 100 --gpu_memory 80", "gpu_memory: expected none with --network_gbits, got 80.0"),
    ],
)
def test_bad_arguments_are_refused(dmax, base, line, message):
    assert message in dmax(f"plan --config {base} {line}").refusal


def test_the_network_s_table_says_how_long_gpus_exchange_and_compute(dmax, base, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    shared = "--trainer.strategy dmaxlit.training.fsdp.FSDP2Strategy"
    outcome = dmax(f"plan {shared} --network_gbits 100 --gpus_per_node 2 --link_gbytes 50 --tflops 20 --config", base)
    assert outcome.status == 0, outcome.err
    assert "qwen3, shared (FSDP2), " in outcome.out
    rows = [line.replace("│", "").split() for line in outcome.out.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "16", "32", "64"]
    assert rows[0][-2:] == ["100%", "-"]
    assert "20 TFLOP/s on a GPU, 50 GB/s within a node of 2 GPUs\nand 100 Gbit/s between nodes" in outcome.out
    one = dmax("plan --network_gbits 100 --gpus 16 --config", base).out
    assert "each with its own model (DDP)" in one
    assert [line.split()[1] for line in one.splitlines() if line.startswith("│")] == ["16"]


def test_a_published_checkpoint_is_planned_from_its_config_alone(dmax, tmp_path, shipped_configs):
    published, converted = write_published(tmp_path / "published"), tmp_path / "converted"
    convert(published, converted)
    for folder in (published, converted):
        for path in folder.glob("*.safetensors"):
            path.unlink()
    line = (
        f"plan --gpus 8 --config {shipped_configs / 'llada2_mini_oput.yaml'} --config {shipped_configs / 'fsdp.yaml'}"
    )
    outcome = [dmax(f"{line} --model.backbone.pretrained {folder}") for folder in (published, converted)]
    assert outcome[0].status == 0, outcome[0].err
    assert "glm4_moe on 8 GPUs, shared (FSDP2)" in outcome[0].out
    assert "expert parallelism is not offered" in outcome[0].out
    assert outcome[0].out == outcome[1].out


def test_a_hub_that_cannot_be_reached_is_said_by_name(dmax, base, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("model", "model.backbone.pretrained"):
        outcome = dmax("plan --config", base, f"--{name}", "someone/none")
        assert outcome.refusal == f"{name}: 'someone/none' is not a local folder, and the hub cannot be reached"


def planned(lines):
    """Return the scenario of the arguments of ``fit``."""
    settings = run_cli("fit", lines, cli=_PlanCLI)
    return scenario_of(settings, source_of(settings))


def test_a_plan_has_a_row_for_the_highest_id_of_a_tokenizer_that_leaves_ids_out(tiny, tmp_path):
    tokenizer = write_tokenizer(tmp_path / "t", {"a": 0, "<eos>": 50})
    model = [f"--model.backbone.pretrained={tiny}", f"--model.backbone.tokenizer={tokenizer}"]
    scenario = planned([*model, "--data.task=chain"])
    assert scenario.model.get_input_embeddings().num_embeddings == 52  # with the mask


@pytest.mark.parametrize(
    ("stored", "max_length", "of_data", "context"),
    [
        (None, None, None, 128),  # what the model has positions for
        (64, None, None, 64),  # the checkpoint's value is the default
        (64, 96, None, 96),  # a setting goes before it, up or down
        (64, 48, None, 48),
        (64, 999, None, 128),  # but never beyond the positions
        (None, 100, None, 96),  # only whole blocks count
        (64, None, 40, 32),  # rows may be shorter than the context
    ],
)
def test_plan_and_training_agree_on_the_length_of_a_row(tiny, tmp_path, stored, max_length, of_data, context):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    metadata = json.loads((folder / "dmaxlit.json").read_text()) | ({"max_length": stored} if stored else {})
    (folder / "dmaxlit.json").write_text(json.dumps(metadata))
    lines = [f"--model.backbone.pretrained={folder}", "--data.task=chain"]
    lines += [f"--model.backbone.max_length={max_length}"] if max_length else []
    lines += [f"--data.max_length={of_data}"] if of_data else []
    scenario = planned(lines)
    denoiser = Denoiser(pretrained=str(folder), max_length=max_length)
    assert scenario.length == context
    trained = min(denoiser.max_length, of_data or denoiser.max_length) // denoiser.block_length * denoiser.block_length
    assert trained == context


@pytest.mark.parametrize(
    ("options", "rows", "length"),
    [
        ("--data.batch_size=8", 8, 128),
        ("--data.batch_size=8 --data.max_tokens=512", 4, 128),
        ("--data.batch_size=2 --data.max_tokens=512", 2, 128),
        ("--data.batch_size=8 --data.max_tokens=100", 1, 96),  # longer rows are refused
    ],
)
def test_the_tokens_of_a_batch_are_bounded_by_max_tokens(tiny, options, rows, length):
    lines = [f"--model.backbone.pretrained={tiny}", "--data.task=chain", *options.split()]
    scenario = planned(lines)
    assert (scenario.rows, scenario.length) == (rows, length)


def test_plan_refuses_the_model_that_training_refuses(dmax, tmp_path, base):
    config = {"model_type": "mistral", "sliding_window": 32, "hidden_size": 32, "num_hidden_layers": 1}
    line = f"--config {base} --model.backbone.pretrained null --model.backbone.tokenizer chain"
    line += f" --model.backbone.config '{json.dumps(config)}'"
    refusals = [dmax(f"{command} {line}").refusal for command in ("plan", "fit")]
    assert "the sliding window of mistral" in refusals[0]
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize("name", ["max_length", "max_tokens"])
@pytest.mark.parametrize("length", [0, 3])
def test_rows_shorter_than_a_block_are_refused(dmax, base, name, length):
    assert dmax(f"plan --config {base} --data.{name} {length}").refusal == (
        f"data.{name}: expected at least one block of 16, got {length}"
    )


@pytest.mark.parametrize("precision", ["bf16", "bf16-mixed", "bf16-true"])
def test_every_name_of_a_precision_is_known(tiny, precision):
    lines = [f"--model.backbone.pretrained={tiny}", "--data.task=chain", f"--trainer.precision={precision}"]
    scenario = planned(lines)
    assert scenario.compute_dtype == torch.bfloat16
    assert scenario.model.dtype == (torch.bfloat16 if precision == "bf16-true" else torch.float32)
    assert scenario.casts_weights == (precision != "bf16-true")


@pytest.mark.parametrize(
    ("options", "weights", "trained"),
    [
        ("--trainer.precision=16-true", torch.float16, torch.float16),
        ("--trainer.precision=64", torch.float64, torch.float64),
        ("--model.backbone.dtype=bfloat16", torch.bfloat16, torch.float32),  # as training has them
        ("--model.backbone.dtype=bfloat16 --trainer.precision=bf16-mixed", torch.bfloat16, torch.float32),
    ],
)
def test_weights_and_adapters_have_the_type_that_they_are_trained_in(tiny, options, weights, trained):
    pytest.importorskip("peft")
    lines = [f"--model.backbone.pretrained={tiny}", "--data.task=chain", "--model.lora.r=2", *options.split()]
    scenario = planned(lines)
    parameters = [*scenario.model.parameters(), *scenario.extra]
    assert {p.dtype for p in parameters if not p.requires_grad} == {weights}
    assert {p.dtype for p in parameters if p.requires_grad} == {trained}


def test_data_without_a_batch_size_are_refused(dmax, base, tmp_path):
    (tmp_path / "own_data.py").write_text(
        "from dmaxlit.data import SelfDistilledDataModule\n"
        "class Own(SelfDistilledDataModule):\n"
        "    def __init__(self, size: int = 3) -> None:\n"
        "        super().__init__(task='chain', batch_size=size)\n"
    )
    refusal = dmax("plan --config", base, "--data", "own_data.Own").refusal
    assert refusal.startswith("data: expected a data module with the option batch_size")


def test_data_of_one_s_own_need_no_other_option_than_the_batch_size(dmax, base, tmp_path):
    (tmp_path / "own_rows.py").write_text(
        "from dmaxlit.data import SelfDistilledDataModule\n"
        "class Own(SelfDistilledDataModule):\n"
        "    def __init__(self, batch_size: int = 3) -> None:\n"
        "        super().__init__(task='chain', batch_size=batch_size)\n"
    )
    ended = dmax("plan --config", base, "--data", "own_rows.Own")
    assert ended.status == 0, ended.err
