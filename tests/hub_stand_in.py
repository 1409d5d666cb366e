"""A stand-in for the Hugging Face hub on this machine: data sets as the real client asks for them."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 39 + "1"


@contextmanager
def hub_with(data_sets):
    """Serve data sets, and yield the address and the list of requests.

    Args:
        data_sets: For each id the content of its files by path.
    """
    requests = []
    handler = type("Handler", (_Handler,), {"data_sets": data_sets, "requests": requests})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    data_sets: dict[str, dict[str, bytes]]
    requests: list[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.requests.append(f"{self.command} {path}")
        for name, files in self.data_sets.items():
            if path.startswith(f"/datasets/{name}/resolve/"):
                self._file(files, path.split("/resolve/")[1].partition("/")[2])
                return
            api = f"/api/datasets/{name}"
            if path == api or path.startswith(f"{api}/"):
                self._api(name, files, path.removeprefix(api), body)
                return
        self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_POST = do_GET  # noqa: N815 (names that the server calls)

    def _api(self, name, files, path, body):
        listed = [{"type": "file", "path": file, "size": len(data), "oid": _oid(data)} for file, data in files.items()]
        if path.startswith("/tree/"):
            folder = path.removeprefix("/tree/").partition("/")[2]
            answer = [entry for entry in listed if entry["path"].startswith(f"{folder}/" if folder else "")]
        elif path.startswith("/paths-info/"):
            asked = json.loads(body)["paths"]
            answer = [entry for entry in listed if entry["path"] in asked]
        elif path in ("", "/revision/main", f"/revision/{COMMIT}"):
            siblings = [{"rfilename": file} for file in files]
            answer = {"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings, "downloads": 0}
        else:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, files, path):
        if path not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self._send(200, files[path], {"ETag": f'"{_oid(files[path])}"', "X-Repo-Commit": COMMIT})

    def _send(self, status, content, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content):
    return hashlib.sha1(content).hexdigest()
