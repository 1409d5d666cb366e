"""A server for tests that answers as a function says, and counts what happens."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], Any]


class FakeServer(ThreadingHTTPServer):
    """Answers as a function says; counts what happens."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply: Callable[[dict[str, Any]], Reply] = echo
        self.models: Reply = 200, {}, {"object": "list", "data": [{"id": "m", "object": "model"}]}
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.lock, self.running, self.most_running = threading.Lock(), 0, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self._send(self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.paths.append(self.path)
            self.server.running += 1
            self.server.most_running = max(self.server.most_running, self.server.running)
        reply = self.server.reply(body)
        with self.server.lock:
            self.server.running -= 1
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        status, headers, content = reply
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client that left
            super().handle()

    def log_message(self, *_: Any) -> None:
        pass


def completion(text: str, reason: str = "stop", **choice: Any) -> Reply:
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason, **choice}],
        "usage": {"prompt_tokens": 1, "completion_tokens": len(text), "total_tokens": 1 + len(text)},
    }
    return 200, {}, body


def echo(body: dict[str, Any]) -> Reply:
    return completion(body["messages"][-1]["content"].upper())


def failure(status: int, message: str = "no", **headers: str) -> Reply:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, {"error": {"message": message}}


@contextmanager
def running_server() -> Iterator[FakeServer]:
    fake = FakeServer()
    thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield fake
    fake.shutdown()
    fake.server_close()
