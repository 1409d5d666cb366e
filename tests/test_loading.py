"""A checkpoint is loaded as an export of it is, bit for bit, without its weights being written again."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dmaxlit import DMaxModule, UserError, load
from dmaxlit.backbone.auxiliary import AuxiliarySettings
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.backbone.source import BackboneSource
from dmaxlit.backbone.tokenizer import load_tokenizer
from dmaxlit.checkpoints.lightning_file import checkpoint_metadata, checkpoint_to_folder
from dmaxlit.checkpoints.scratch import scratch_folder
from dmaxlit.data.prompt_reader import read_prompts
from dmaxlit.engine import Trace
from dmaxlit.files import require_other_files
from dmaxlit.loading import usable_device
from tests.conftest import make_denoiser

EXPERTS = {"model_type": "mixtral", "num_local_experts": 4}


def write(path, denoiser, lora=None):
    """Write what ``fit`` stores of a model, with its metadata."""
    module = DMaxModule(denoiser, lora=lora)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # adapters begin at zero
    payload = checkpoint_metadata(module.backbone, module.metadata())
    torch.save({"dmaxlit": payload, "state_dict": module.state_dict(), "global_step": 1}, path)
    return path


def assert_same(one, other):
    assert type(one.backbone.model) is type(other.backbone.model)
    for tensors in ("named_parameters", "named_buffers"):
        expected, came = ({n: t for n, t in getattr(module, tensors)()} for module in (one, other))
        assert expected.keys() == came.keys()
        for name, tensor in expected.items():
            assert tensor.dtype == came[name].dtype, name
            assert torch.equal(tensor, came[name]), name
    configs = [module.backbone.model.config.to_dict() | {"_name_or_path": ""} for module in (one, other)]
    assert configs[0] == configs[1]
    generation = [module.backbone.model.generation_config.to_dict() for module in (one, other)]
    assert generation[0] == generation[1]
    assert one.tokenizer.get_vocab() == other.tokenizer.get_vocab()
    assert one.tokenizer.special_tokens_map == other.tokenizer.special_tokens_map
    assert one.metadata() == other.metadata()
    prompts, options = ["3 +1 *3 ?"], {"max_new_tokens": 8}
    assert one.generate(prompts, **options)[0].token_ids == other.generate(prompts, **options)[0].token_ids


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("config", "lora"),
    [({}, None), ({"tie_word_embeddings": True}, LoraSettings(r=2)), (EXPERTS, None)],
)
def test_a_checkpoint_is_loaded_as_its_export_is(tmp_path, config, lora, dtype):
    path = write(tmp_path / "x.ckpt", make_denoiser(**config), lora)
    checkpoint_to_folder(path, tmp_path / "folder")
    assert_same(load(tmp_path / "folder", dtype=dtype), load(path, dtype=dtype))


def test_no_weights_are_written_to_the_temporary_folder(tmp_path, monkeypatch):
    path = write(tmp_path / "x.ckpt", make_denoiser(intermediate_size=8192))
    assert path.stat().st_size > 3 * 2**20
    sizes, genuine = [], BackboneSource.resolve

    def resolve(folder, **options):
        sizes.extend(file.stat().st_size for file in Path(folder).iterdir())
        return genuine(folder, **options)

    monkeypatch.setattr("dmaxlit.checkpoints.stored_backbone.BackboneSource.resolve", resolve)
    load(path)
    assert 0 < sum(sizes) < 2**20


def test_a_model_does_not_depend_on_the_file_it_was_loaded_from(tmp_path):
    path = write(tmp_path / "x.ckpt", make_denoiser())
    module = load(path)
    before = module.backbone.embedding.clone()
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(module.backbone.embedding, before)


def test_a_block_length_can_be_given(tmp_path):
    path = write(tmp_path / "x.ckpt", make_denoiser())
    assert [load(path, block_length=length).backbone.block_length for length in (None, 4)] == [8, 4]


def test_a_scratch_folder_is_removed_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail():
        with scratch_folder("x") as folder:
            (folder / "file").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_is_removed_though_its_process_is_killed(tmp_path):
    code = (
        "import os, pathlib\n"
        "from dmaxlit.checkpoints.scratch import scratch_folder\n"
        "with scratch_folder('x') as folder:\n"
        "    (folder / 'file').write_text('x')\n"
        "    print(folder.exists(), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (-9, "True\n"), ended.stderr
    deadline = time.monotonic() + 10
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    refusal = r"TMPDIR: cannot write the tokenizer to '.*' \(No space left on device\)"
    with pytest.raises(UserError, match=refusal), scratch_folder("the tokenizer"):
        raise OSError(28, os.strerror(28))


def test_the_probe_is_skipped_by_name(tmp_path, monkeypatch):
    path = write(tmp_path / "x.ckpt", make_denoiser())
    checkpoint_to_folder(path, tmp_path / "folder")

    def refuse(denoiser):
        raise UserError("no denoiser")

    monkeypatch.setattr("dmaxlit.backbone.denoiser.check_behavior", refuse)
    for source in (path, tmp_path / "folder"):
        with pytest.raises(UserError, match=r"^no denoiser$"):
            load(source)
        assert load(source, probe=False).generate("3 ?", max_new_tokens=4)


@pytest.mark.parametrize("name", ["stories", "gsm8k"])
def test_a_folder_named_like_a_task_is_loaded_with_its_own_tokenizer(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    denoiser = make_denoiser()
    DMaxModule(denoiser).export(name)
    assert load(name).tokenizer.get_vocab() == denoiser.tokenizer.get_vocab()
    denoiser.train_auxiliary(AuxiliarySettings(pretrained=name, span_length=4))
    assert denoiser.auxiliary.model.vocab_size == len(denoiser.tokenizer)


@pytest.mark.parametrize("device", ["meta", "cuda:77", "nonsense"])
def test_a_device_that_cannot_compute_is_refused_before_anything_is_loaded(device):
    with pytest.raises(UserError, match=f"device: expected one that torch can compute on, got '{device}' ") as caught:
        load("./gone", device=device)
    assert "\n" not in str(caught.value)


def test_the_device_may_be_chosen_by_what_there_is():
    assert load("builtin:chain-base", device="auto", probe=False).device.type == usable_device("auto")


def test_too_little_memory_names_the_device_and_another_fault_does_not(monkeypatch):
    def fail(module, device):
        raise error

    monkeypatch.setattr(DMaxModule, "to", fail)
    error: Exception = torch.OutOfMemoryError("tried to allocate\nmuch")
    refusal = "device: expected cpu to have memory for 'builtin:chain-base' in bfloat16, got too little"
    with pytest.raises(UserError, match=refusal):
        load("builtin:chain-base", dtype="bfloat16", probe=False)
    error = RuntimeError("a fault of ours")
    with pytest.raises(RuntimeError, match="a fault of ours"):
        load("builtin:chain-base", probe=False)


def test_a_tilde_is_the_home_folder_whatever_a_path_is_of(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    module, trace = DMaxModule(make_denoiser()), Trace()
    module.export("~/m")
    write(tmp_path / "home" / "x.ckpt", make_denoiser())
    module.generate("3 ?", max_new_tokens=4, trace=trace)
    trace.save("~/t.safetensors")
    assert sorted(Trace.load("~/t.safetensors").rows) == [0]
    trace.to_html("~/t.html")
    (tmp_path / "home" / "p.txt").write_text("3 ?\n")
    assert [row.prompt for row in read_prompts("~/p.txt")] == ["3 ?"]
    for name in ("~/m", "~/x.ckpt"):
        assert load(name, probe=False).tokenizer.get_vocab() == module.tokenizer.get_vocab()
    assert len(load_tokenizer("~/m")) == len(module.tokenizer)
    with pytest.raises(UserError, match=r"output: expected another file than --prompts, got '~/p.txt'"):
        require_other_files({"output": "~/p.txt"}, {"--prompts": [tmp_path / "home" / "p.txt"]})
    with pytest.raises(UserError, match=r"pretrained: expected a model folder, .* got '~nobody/m'"):
        load("~nobody/m")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
