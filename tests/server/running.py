"""A server in a thread of this process, and clients of it."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai

from dmaxlit.engine import DecodeSettings
from dmaxlit.module import DMaxModule
from dmaxlit.server import Limits, create_app, listen
from dmaxlit.server.run import make_server
from tests.engine.models import lively_denoiser

NAME = "tiny"
PROMPT = "9 is so with ?"  # whose responses are as long as they may be, in a forward or more for each token
PATIENCE = 60.0  # seconds, on a busy machine


def tiny_module(**options: Any) -> DMaxModule:
    return DMaxModule(lively_denoiser(**options)).eval()


class Running:
    """A server that runs."""

    def __init__(self, module, server, service, url):
        self.module, self.server, self.service, self.url = module, server, service, url
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)
        self.http = httpx.Client(base_url=url, timeout=PATIENCE)

    def async_client(self):
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)

    def complete(self, prompt, **options):
        """Return the first choice of a completion, with token ids; options that openai lacks go into the body."""
        return self.client.completions.create(
            model=NAME, prompt=prompt, extra_body={"return_token_ids": True, **options}
        ).choices[0]

    def refusal(self, body, path="/v1/completions", **options):
        """Return status and error of a request that is refused."""
        response = self.http.post(path, **({"json": body} if isinstance(body, dict) else {"content": body}), **options)
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "\n" not in error["message"]
        return response.status_code, error

    def metric(self, name):
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@contextlib.contextmanager
def running(
    module: DMaxModule, limits: Limits | None = None, defaults: DecodeSettings | None = None, key: str | None = None
) -> Iterator[Running]:
    """Serve a model for a while."""
    app = create_app(module, NAME, defaults or DecodeSettings(max_new_tokens=24), limits, key)
    server = make_server(app)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_for(lambda: server.started)
        run = Running(module, server, app.state.service, f"http://127.0.0.1:{listener.getsockname()[1]}")
        try:
            yield run
        finally:
            run.client.close()
            run.http.close()
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the server hangs"


def wait_for(condition):
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happens"
        time.sleep(0.005)


class Gate:
    """Holds up the forwards of a model while it is closed, and slows them down."""

    def __init__(self, module, monkeypatch, delay=0.0):
        self._open, self.forwards = threading.Event(), 0
        self._open.set()
        inner = module.backbone.hidden

        def hidden(*arguments, **named):
            self.forwards += 1
            time.sleep(delay)
            assert self._open.wait(PATIENCE)
            return inner(*arguments, **named)

        monkeypatch.setattr(module.backbone, "hidden", hidden)

    def close(self):
        self._open.clear()

    def open(self):
        self._open.set()
