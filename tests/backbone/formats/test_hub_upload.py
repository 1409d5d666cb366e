"""Uploads, against a server of our own that speaks what the real client asks for."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from dmaxlit import UserError
from dmaxlit.backbone.formats.hub_upload import check_repository, upload


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
            self.answer({"sha": 40 * "a", "id": "user/model", "siblings": []})

    do_GET = do_POST = handle_request  # noqa: N815 (the names that http.server calls)


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    url = f"http://127.0.0.1:{server.server_port}"
    server.state = {"requests": [], "url": url, "write_status": 200, "files": []}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
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
    old = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    old += ["model.safetensors.index.json", "auxiliary/config.json", "sglang.yaml", "diffusers.json"]
    old += ["generation_config.json", "chat_template.jinja"]
    hub["files"] = [*old, ".gitattributes", "config.json", "dmaxlit.json", "pictures/model.png", "model.gguf"]
    upload(folder, "user/model")
    (commit,) = bodies(hub, "/commit/")
    lines = [json.loads(line) for line in commit.splitlines()]
    assert sorted(line["value"]["path"] for line in lines if line["key"] == "deletedFile") == sorted(old)


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
