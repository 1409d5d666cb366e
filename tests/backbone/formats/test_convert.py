import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import dmaxlit
from dmaxlit import UserError
from dmaxlit.backbone.auxiliary import AuxiliarySettings
from dmaxlit.backbone.formats import convert as conversion
from dmaxlit.backbone.formats.convert import convert
from dmaxlit.weights_hash import model_hash
from tests.backbone.formats.llada2_published import (
    CONFIG,
    make_tensors,
    read_published,
    write_published,
    write_tokenizer,
)
from tests.backbone.formats.test_hub import downloading
from tests.backbone.formats.test_llada2 import blockwise, logits_of
from tests.conftest import TINY


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("hub") / "LLaDA2.0-tiny")


@pytest.fixture(scope="module")
def ours(tmp_path_factory, published):
    folder = tmp_path_factory.mktemp("ours") / "model"
    assert convert(published, folder, max_shard_size="40KB") == "transformers"
    return folder


def test_a_round_trip_is_exact_to_the_bit(tmp_path, published, ours):
    assert convert(ours, tmp_path / "back") == "llada2"
    before, _ = read_published(published)
    after, _ = read_published(tmp_path / "back")
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype, name
        assert after[name].view(torch.uint8).equal(tensor.view(torch.uint8)), name
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert json.dumps(config, sort_keys=True) == json.dumps(CONFIG, sort_keys=True)


def test_everything_beside_the_weights_goes_along_and_no_remote_code_is_run(tmp_path, published, ours):
    convert(ours, tmp_path / "back")
    along = {"tokenizer.json", "tokenizer_config.json", "modeling_llada2_moe.py", "configuration_llada2_moe.py"}
    for folder in (ours, tmp_path / "back"):
        for name in along:
            assert (folder / name).read_bytes() == (published / name).read_bytes()
    assert {path.name for path in (tmp_path / "back").iterdir()} == along | {"config.json", "model.safetensors"}


def test_what_is_converted_reads_here_and_in_transformers(published, ours):
    theirs = AutoModelForCausalLM.from_pretrained(ours)
    assert AutoConfig.from_pretrained(ours).dtype == torch.bfloat16
    ids = torch.arange(40)
    expected = logits_of(dmaxlit.load(published).backbone, ids, blockwise(40))
    assert torch.equal(logits_of(dmaxlit.load(ours).backbone, ids, blockwise(40)), expected)
    assert theirs.dtype == torch.bfloat16


def test_shards_stay_below_the_size_given_and_the_index_is_right(ours):
    index = json.loads((ours / "model.safetensors.index.json").read_text())
    tensors, files = read_published(ours)
    assert index["weight_map"] == files
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert len(set(files.values())) > 2
    for file in set(files.values()):
        assert sum(tensors[name].nbytes for name in files if files[name] == file) <= 40_000
        with safe_open(ours / file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}


def test_a_type_can_be_asked_for_and_the_router_bias_keeps_its_own(tmp_path, published):
    convert(published, tmp_path / "half", dtype="float16")
    tensors, _ = read_published(tmp_path / "half")
    types = {name: tensor.dtype for name, tensor in tensors.items()}
    biases = {name for name in types if name.endswith("e_score_correction_bias")}
    assert len(biases) == 2
    assert {types[name] for name in biases} == {torch.float32}
    assert {types[name] for name in types if name not in biases} == {torch.float16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"
    convert(tmp_path / "half", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == {**CONFIG, "torch_dtype": "float16"}


def test_what_was_converted_can_be_trained_exported_and_converted_back(tmp_path, ours):
    module = dmaxlit.load(ours)
    with torch.no_grad():
        module.backbone.model.model.layers[1].mlp.experts.down_proj[3].mul_(2)
    module.export(tmp_path / "trained")
    convert(tmp_path / "trained", tmp_path / "back", dtype="bfloat16")
    tensors, _ = read_published(tmp_path / "back")
    expected = make_tensors()
    expected["model.layers.1.mlp.experts.3.down_proj.weight"] *= 2
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_from_the_hub_everything_goes_along_too(tmp_path, monkeypatch, published):
    repository = tmp_path / "repository"
    shutil.copytree(published, repository)
    beside = ["README.md", "LICENSE", "sglang.yaml", "chat_template.jinja", "additional_chat_templates/tool_use.jinja"]
    (repository / "additional_chat_templates").mkdir()
    for name in beside:
        (repository / name).write_text(f"the content of {name}")
    (repository / "consolidated.safetensors").write_text("")
    downloading(monkeypatch, repository, tmp_path)
    convert("someone/tiny", tmp_path / "out")
    convert(tmp_path / "out", tmp_path / "back")
    for folder in (tmp_path / "out", tmp_path / "back"):
        for name in (*beside, "modeling_llada2_moe.py", "tokenizer.json"):
            assert (folder / name).read_bytes() == (repository / name).read_bytes()
    assert not (tmp_path / "0f1e2d" / "consolidated.safetensors").exists()


def test_an_auxiliary_model_goes_along(tmp_path, ours):
    module = dmaxlit.load(ours)
    module.backbone.train_auxiliary(AuxiliarySettings(config=TINY, span_length=4))
    module.export(tmp_path / "trained")
    convert(tmp_path / "trained", tmp_path / "back", dtype="bfloat16")
    found = dmaxlit.load(tmp_path / "back").backbone.auxiliary
    assert model_hash(found) == model_hash(module.backbone.auxiliary)
    (tmp_path / "secret").write_text("TOP SECRET")
    (tmp_path / "trained" / "auxiliary" / "x.json").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"source: expected files, or links .* got 'x.json', a link to"):
        convert(tmp_path / "trained", tmp_path / "out")


def test_settings_of_engines_go_along_but_no_card_of_the_other_form(tmp_path, ours):
    module = dmaxlit.load(ours)
    module.set_decoding("edit")
    module.export(tmp_path / "trained")
    convert(tmp_path / "trained", tmp_path / "back")
    for name in ("sglang.yaml", "diffusers.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "trained" / name).read_bytes()
    assert not (tmp_path / "back" / "README.md").exists()
    (tmp_path / "trained" / "README.md").write_text("My model")
    convert(tmp_path / "trained", tmp_path / "edited")
    assert (tmp_path / "edited" / "README.md").read_text() == "My model"


def test_the_tokenizer_of_an_export_has_a_class_that_older_engines_know_or_is_the_published_one(tmp_path, published):
    dmaxlit.load(published).export(tmp_path / "out")
    convert(tmp_path / "out", tmp_path / "back")
    settings = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
        == dmaxlit.load(tmp_path / "back").tokenizer.get_vocab()
    )
    convert(tmp_path / "out", tmp_path / "like", like=published)
    for path in (*published.glob("tokenizer*"), *published.glob("*.py")):
        assert (tmp_path / "like" / path.name).read_bytes() == path.read_bytes()
    assert json.loads((tmp_path / "like" / "dmaxlit.json").read_text())["block_length"] == 32


def test_a_base_with_another_tokenizer_is_refused(tmp_path, published, ours):
    other = write_published(tmp_path / "other")
    write_tokenizer(other, special=["<|endoftext|>", "<|mask|>"])
    with pytest.raises(UserError, match="like: expected a tokenizer with the tokens of"):
        convert(ours, tmp_path / "out", like=other)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"[]", b"\xff"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damaged", ["source", "like"])
def test_a_damaged_tokenizer_is_refused_before_anything_is_written(tmp_path, ours, published, damaged, name, content):
    folders = {"source": ours, "like": published}
    folders[damaged] = shutil.copytree(folders[damaged], tmp_path / "damaged")
    (tmp_path / "damaged" / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^(like|pretrained): .*damaged/{name}'") as caught:
        convert(folders["source"], tmp_path / "out", like=folders["like"])
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": "llada2"}, "to: expected the form that .* is not in, got llada2 for a published checkpoint"),
        ({"max_shard_size": "many"}, "max_shard_size: expected a size such as 5GB or 500MB, got 'many'"),
        ({"max_shard_size": "0GB"}, "max_shard_size: expected at least 1 byte"),
        ({"dtype": "int8"}, "dtype: expected float32, bfloat16 or float16, got 'int8'"),
        ({"like": "./nowhere"}, "no such folder"),
    ],
)
def test_bad_settings_are_refused_and_leave_nothing(tmp_path, published, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        convert(published, tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_touched(tmp_path, published):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="output: expected a folder that does not exist yet"):
        convert(published, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_never_was_llada2_does_not_become_one(tmp_path, denoiser):
    denoiser.save(tmp_path / "m", {})
    with pytest.raises(UserError, match="model: expected a model that came from LLaDA2-MoE, got a qwen3"):
        convert(tmp_path / "m", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interruption_leaves_nothing_half_written(tmp_path, published, monkeypatch, error):
    written = []

    def fail(shard, path, **settings):
        written.append(path)
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("dmaxlit.backbone.formats.weight_files.save_file", fail)
    expected = UserError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        conversion.convert(published, tmp_path / "out")
    assert written
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_memory_is_that_of_a_shard_not_of_the_checkpoint(tmp_path):
    """Convert a checkpoint of 300 MB in far less: resident memory is compared in a separate process."""
    config = {**CONFIG, "num_hidden_layers": 9, "hidden_size": 512, "moe_intermediate_size": 256, "num_experts": 32}
    config = {**config, "first_k_dense_replace": 0, "torch_dtype": "float32"}
    tensors = make_tensors(config, dtype=torch.float32)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_published(tmp_path / "m", config, tensors, shards=9)
    del tensors
    code = (
        "import resource, sys, threading, time\n"
        "from dmaxlit.backbone.formats.convert import convert\n"
        "peak = 0\n"
        "def anonymous():\n"  # pages of the files themselves are the system's to drop
        "    return int([l for l in open('/proc/self/status') if l.startswith('RssAnon')][0].split()[1]) * 1024\n"
        "def watch():\n"
        "    global peak\n"
        "    while True:\n"
        "        peak = max(peak, anonymous()); time.sleep(0.002)\n"
        "before = anonymous()\n"
        "threading.Thread(target=watch, daemon=True).start()\n"
        "convert(sys.argv[1], sys.argv[2], max_shard_size='30MB')\n"
        "print(peak - before)\n"
    )
    run = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "m"), str(tmp_path / "out")]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    assert total > 400e6
    assert int(done.stdout) < 120e6


@pytest.mark.parametrize("argument", ["source", "like"])
def test_a_link_out_of_a_checkpoint_is_refused_and_nothing_is_written(tmp_path, published, argument):
    (tmp_path / "secret").write_text("TOP SECRET")
    bad = tmp_path / "bad"
    shutil.copytree(published, bad)
    (bad / "LICENSE.txt").unlink(missing_ok=True)
    (bad / "LICENSE.txt").symlink_to(tmp_path / "secret")
    folders = {"source": published, argument: bad}
    with pytest.raises(UserError, match=f"{argument}: expected files, or links .* got 'LICENSE.txt', a link to"):
        convert(**folders, dest=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_within_a_checkpoint_and_those_of_the_hubs_cache_are_followed(tmp_path, published):
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "1a2b", tmp_path / "models--x" / "blobs"
    shutil.copytree(published, snapshot)
    blobs.mkdir()
    (blobs / "3c").write_text("card")
    (snapshot / "README.md").symlink_to("../../blobs/3c")
    (snapshot / "LICENSE-2.txt").symlink_to("README.md")
    convert(snapshot, tmp_path / "out")
    for name in ("README.md", "LICENSE-2.txt"):
        assert (tmp_path / "out" / name).read_text() == (blobs / "3c").read_text()
        assert not (tmp_path / "out" / name).is_symlink()
