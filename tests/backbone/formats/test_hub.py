import shutil
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

from dmaxlit import UserError
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.auxiliary import AuxiliarySettings
from dmaxlit.backbone.formats import hub
from dmaxlit.weights_hash import model_hash
from tests.conftest import TINY


def answering(monkeypatch, result):
    request = {}

    def snapshot_download(name, **patterns):
        if "revision" not in patterns:
            request.update(name=name, **patterns)
        if isinstance(result, Exception):
            raise result
        return str(result)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return request


def test_a_model_on_the_hub_is_read_with_its_block_length_and_nothing_that_runs_is_asked_for(
    tmp_path, monkeypatch, denoiser
):
    denoiser.save(tmp_path / "snapshot", {})
    request = answering(monkeypatch, tmp_path / "snapshot")
    assert Denoiser(pretrained="someone/tiny").block_length == 8
    assert request["name"] == "someone/tiny"
    assert request["allow_patterns"] == ["*.json", "*.txt", "*.jinja", "*.model"]
    assert request["ignore_patterns"] == ["*/*"]


ANSWER: Any = SimpleNamespace(headers={}, request=None)
NOT_FOUND = RepositoryNotFoundError("404 Client Error.\nmore", response=ANSWER)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("Got: ConnectError\nmore"), "the hub cannot be reached"),
        (NOT_FOUND, "404"),
        (OSError("No space left on device"), "No space left on device"),
        (httpx.ReadError("reset\nby peer"), r"the hub cannot be reached \(ReadError: reset by peer\)"),
        (httpx.ReadTimeout(""), r"the hub cannot be reached \(ReadTimeout\)"),
        (httpx.RemoteProtocolError("no response"), "the hub cannot be reached .RemoteProtocolError: no response"),
        (httpx.ProxyError("403 Forbidden"), "the hub cannot be reached .ProxyError: 403 Forbidden"),
    ],
)
def test_what_the_hub_does_not_give_is_said_in_one_line(monkeypatch, error, message):
    answering(monkeypatch, error)
    with pytest.raises(UserError, match=f"pretrained: 'someone/none' is not a local folder, and .*{message}") as caught:
        hub.fetch("someone/none")
    assert "\n" not in str(caught.value)


def test_a_name_that_cannot_be_a_hub_id_is_refused():
    with pytest.raises(UserError, match="pretrained: 'a b' is not a local folder"):
        hub.fetch("a b")


def test_a_repository_without_a_model_is_refused(tmp_path, monkeypatch):
    answering(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"expected a model with a config.json, found none in 'someone/data'"):
        hub.fetch("someone/data")


def test_the_commit_of_a_model_from_the_hub_is_known(tmp_path, monkeypatch):
    folder = tmp_path / "models--a--b" / "snapshots" / "0f1e2d"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **patterns: str(folder))
    assert hub.hub_commit("a/b") == "0f1e2d"
    assert (
        hub.hub_commit(str(folder)) is hub.hub_commit("builtin:chain-base") is hub.hub_commit("run/last.ckpt") is None
    )


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("someone/corpus", "someone/corpus"),
        ("openai/gsm8k:main", "openai/gsm8k"),
        ("data/rows.jsonl", None),
        ("data/rows.jsonl.gz", None),
        ("data/rows.ndjson", None),
        ("data/*", None),
        ("./corpus", None),
        ("corpus", None),
    ],
)
def test_a_source_of_records_is_a_data_set_on_the_hub_or_files(source, name):
    assert hub.data_set_of(source) == name


def test_a_folder_is_not_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "someone/corpus").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.data_set_of("someone/corpus") is None


def downloading(monkeypatch, repository, cache):
    """Let the hub hold a folder, of which the cache gets what the hub's own filter lets through."""

    def snapshot_download(name, revision="0f1e2d", allow_patterns=None, ignore_patterns=None):
        files = [str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (cache / revision / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository / file, cache / revision / file)
        return str(cache / revision)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)


def test_the_auxiliary_model_of_an_export_is_downloaded_and_other_folders_are_not(tmp_path, monkeypatch, denoiser):
    denoiser.train_auxiliary(AuxiliarySettings(config=TINY, span_length=4))
    repository = tmp_path / "repository"
    denoiser.save(repository, {})
    shutil.copytree(repository, repository / "other")
    (repository / "auxiliary" / "code.py").write_text("")
    downloading(monkeypatch, repository, tmp_path)
    loaded = Denoiser(pretrained="someone/tiny")
    assert model_hash(loaded.auxiliary) == model_hash(denoiser.auxiliary)
    assert {path.name for path in (tmp_path / "0f1e2d").iterdir() if path.is_dir()} == {"auxiliary"}
    assert not (tmp_path / "0f1e2d" / "auxiliary" / "code.py").exists()


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("sharded", [False, True])
def test_only_the_weights_that_a_model_is_loaded_from_are_downloaded(tmp_path, monkeypatch, denoiser, sharded):
    repository = tmp_path / "repository"
    denoiser.save(repository, {})
    if sharded:
        denoiser.model.save_pretrained(repository, max_shard_size="20KB")
        (repository / "model.safetensors").unlink()
    loaded = files_in(repository)
    others = ["consolidated", "consolidated-00001-of-00002", "model.fp16", "pytorch_model", "adapter_model"]
    for name in others:
        (repository / f"{name}.safetensors").write_text("")
    downloading(monkeypatch, repository, tmp_path)
    assert model_hash(Denoiser(pretrained="someone/tiny").model) == model_hash(denoiser.model)
    assert len([name for name in loaded if name.endswith(".safetensors")]) > sharded
    assert files_in(tmp_path / "0f1e2d") == loaded - {"README.md"}


def test_a_damaged_index_is_refused_before_weights_are_downloaded(tmp_path, monkeypatch, denoiser):
    repository = tmp_path / "repository"
    denoiser.save(repository, {})
    (repository / "model.safetensors.index.json").write_text("{}")
    downloading(monkeypatch, repository, tmp_path)
    with pytest.raises(UserError, match="is not an index of shards"):
        Denoiser(pretrained="someone/tiny")
    assert "model.safetensors" not in files_in(tmp_path / "0f1e2d")


def test_an_auxiliary_model_with_another_tokenizer_is_refused_before_its_weights_are_downloaded(
    tmp_path, monkeypatch, denoiser
):
    denoiser.save(tmp_path / "repository", {})
    denoiser.tokenizer.add_tokens(["new"])
    downloading(monkeypatch, tmp_path / "repository", tmp_path)
    with pytest.raises(UserError, match="token 'new' is missing there"):
        denoiser.train_auxiliary(AuxiliarySettings(pretrained="someone/tiny", span_length=4))
    assert "model.safetensors" not in files_in(tmp_path / "0f1e2d")


def test_chat_templates_beside_the_default_one_are_downloaded(tmp_path, monkeypatch, denoiser):
    repository = tmp_path / "repository"
    denoiser.tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    denoiser.save(repository, {})
    assert "additional_chat_templates/tool_use.jinja" in files_in(repository)
    downloading(monkeypatch, repository, tmp_path)
    templates = Denoiser(pretrained="someone/tiny").tokenizer.chat_template
    assert templates == {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
