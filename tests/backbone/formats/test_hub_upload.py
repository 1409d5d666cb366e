"""Uploads, against a server of our own that speaks what the real client asks for."""

import json
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from dmaxlit import UserError
from dmaxlit.backbone.formats.hub_upload import check_repository, upload
from dmaxlit.backbone.formats.model_card import card_hash
from dmaxlit.errors import DMaxWarning


class Hub(BaseHTTPRequestHandler):
    """The part of the hub that an upload of small files needs."""

    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        state = self.server.state
        state["requests"].append((self.command, self.path, body))
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/whoami-v2":
            self.answer({"name": "user", "type": "user", "auth": {}})
        elif self.path.endswith("/repos/create"):
            self.answer({"url": f"{state['url']}/user/model"}, state["write_status"])
        elif "/resolve/" in self.path:
            self.answer_file(state["content"].get(self.path.split("/resolve/main/")[1]))
        elif "/tree/" in self.path:
            self.answer([{"type": "file", "path": path, "size": 1, "oid": 40 * "a"} for path in state["files"]])
        elif "/preupload/" in self.path:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self.answer({"files": files})
        elif "/commit/" in self.path and state["write_status"] != 200:
            self.answer({"error": "Forbidden"}, state["write_status"])
        elif "/commit/" in self.path:
            self.answer({"commitUrl": f"{state['url']}/user/model/commit/{40 * 'a'}", "commitOid": 40 * "a"})
        else:
            self.answer({"sha": 40 * "a", "id": "user/model", "siblings": [], "private": state["private"]})

    def answer_file(self, content):
        self.send_response(200 if content is not None else 404)
        self.send_header("X-Repo-Commit", 40 * "a")
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", str(len(content or b"")))
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command == "GET" and content is not None:
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = handle_request  # noqa: N815 (the names that http.server calls)


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    url = f"http://127.0.0.1:{server.server_port}"
    server.state = {"requests": [], "url": url, "write_status": 200, "files": [], "content": {}, "private": True}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("HUGGINGFACE_CO_URL_TEMPLATE", "ENDPOINT"):
        monkeypatch.setattr(constants, name, getattr(constants, name).replace(constants.ENDPOINT, url))
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", url)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server.state
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "README.md").write_text("---\nlibrary_name: dmaxlit\n---\n# model\n")
    return path


def bodies(hub, part):
    return [body for _, path, body in hub["requests"] if part in path]


@pytest.mark.parametrize("private", [False, True])
def test_a_folder_is_uploaded_in_one_commit(hub, folder, private):
    assert upload(folder, "user/model", private).endswith("/user/model")
    (created,) = bodies(hub, "/repos/create")
    asked = json.loads(created)
    assert asked["name"] == "model"
    assert (asked.get("private", False) or asked.get("visibility") == "private") is private
    (commit,) = bodies(hub, "/commit/")
    lines = [json.loads(line) for line in commit.splitlines()]
    assert {line["value"]["path"] for line in lines if line["key"] == "file"} == {"config.json", "README.md"}


def test_what_only_an_earlier_export_had_is_deleted_and_the_users_files_stay(hub, folder):
    old = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)] + ["model[1].safetensors"]
    old += ["model.safetensors.index.json", "auxiliary/config.json", "sglang.yaml", "diffusers.json"]
    old += ["generation_config.json", "chat_template.jinja", "additional_chat_templates/x.jinja", "added_tokens.json"]
    hub["files"] = [*old, ".gitattributes", "config.json", "dmaxlit.json", "pictures/model.png", "model.gguf"]
    hub["files"] += ["model-8bit/model.safetensors", "model-8bit/model-00001-of-00002.safetensors", "my/tokenizer.json"]
    upload(folder, "user/model")
    (commit,) = bodies(hub, "/commit/")
    lines = [json.loads(line) for line in commit.splitlines()]
    assert sorted(line["value"]["path"] for line in lines if line["key"] == "deletedFile") == sorted(old)


@pytest.mark.parametrize("private", [False, True])
def test_nothing_is_published_that_shall_be_private(hub, folder, private):
    hub["private"] = False
    if private:
        with pytest.raises(UserError, match=r"^private: expected a private .*, got the public 'user/model'$"):
            upload(folder, "user/model", private)
    else:
        upload(folder, "user/model", private)
    assert len(bodies(hub, "/commit/")) == (not private)


def sent(hub):
    """Return the content of the files of the last commit."""
    lines = [json.loads(line) for line in bodies(hub, "/commit/")[-1].splitlines()]
    return {line["value"]["path"]: b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}


def test_a_card_that_was_edited_on_the_hub_stays_and_one_of_ours_is_renewed(hub, folder):
    metadata = json.dumps({"card": card_hash(b"ours")}).encode()
    hub["content"] = {"README.md": b"ours", "dmaxlit.json": metadata}
    upload(folder, "user/model")
    assert sent(hub)["README.md"] == (folder / "README.md").read_bytes()
    for damaged in (metadata, b"{"):
        hub["content"] = {"README.md": b"edited", "dmaxlit.json": damaged}
        with pytest.warns(DMaxWarning, match=r"^push_to_hub: README.md of 'user/model' was edited there, and"):
            upload(folder, "user/model")
        assert sent(hub).keys() == {"config.json"}
    (folder / "README.md").write_bytes(b"edited")
    upload(folder, "user/model")  # the same here: nothing to say


def test_a_card_that_was_edited_here_is_renewed_too(hub, folder):
    (folder / "dmaxlit.json").write_text(json.dumps({"card": card_hash(b"ours"), "block_length": 8}))
    for text in (b"edited here", b"edited here once more"):
        (folder / "README.md").write_bytes(text)
        upload(folder, "user/model")
        hub["content"] = {name: sent(hub)[name] for name in ("README.md", "dmaxlit.json")}
        assert hub["content"]["README.md"] == text
    assert json.loads(hub["content"]["dmaxlit.json"])["block_length"] == 8


def test_files_of_the_user_go_along_and_hidden_ones_do_not(hub, folder):
    for name in (".env", "pictures/model.png", "pictures/.env", ".git/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    upload(folder, "user/model")
    assert sent(hub).keys() == {"config.json", "README.md", "pictures/model.png"}


def test_a_wrong_token_is_refused_before_anything_is_created(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"^push_to_hub: expected a token that may write to 'user/model'") as error:
        upload(folder, "user/model")
    assert "\n" not in str(error.value)
    assert "hf_wrong" not in str(error.value)
    assert bodies(hub, "/repos/create") == []


def test_a_repository_of_someone_else_is_refused(hub, folder):
    hub["write_status"] = 403
    with pytest.raises(UserError, match=r"^push_to_hub: expected a token that may write to 'other/model'"):
        upload(folder, "other/model")


def test_without_a_token_nothing_is_sent(hub, folder, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    for name in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"^push_to_hub: expected a token of the hub \(`hf auth login`"):
        upload(folder, "user/model")
    assert hub["requests"] == []


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(hub, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^push_to_hub: cannot reach the hub") as error:
        upload(folder, "user/model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "model", "a/b/c", "user/mo del", "user/--x"])
def test_what_names_no_repository_is_refused(name):
    with pytest.raises(UserError, match=r"^push_to_hub: expected USER/NAME, got "):
        check_repository(name)
