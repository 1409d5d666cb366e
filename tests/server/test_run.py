"""A process serves until a signal, ends what it decodes, and listens where it may."""

import os
import signal
import socket
import threading

import httpx
import pytest

from dmaxlit import UserError
from dmaxlit.engine import DecodeSettings
from dmaxlit.server import Limits, create_app, listen, serve
from tests.server.running import PATIENCE, PROMPT, Gate, wait_for


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_what_is_being_decoded_ends_and_the_process_goes_on(module, monkeypatch, number):
    gate = Gate(module, monkeypatch, delay=0.01)
    app = create_app(module, "tiny", DecodeSettings(max_new_tokens=24), Limits())
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    urls, responses = [], []

    def ask():
        responses.append(httpx.post(f"{urls[0]}/completions", json={"prompt": PROMPT}, timeout=PATIENCE))

    def ask_and_stop():
        wait_for(lambda: urls)
        asking = threading.Thread(target=ask)
        asking.start()
        wait_for(lambda: gate.forwards)
        os.kill(os.getpid(), number)
        asking.join(PATIENCE)

    thread = threading.Thread(target=ask_and_stop)
    thread.start()
    with listen("127.0.0.1", 0) as listener:
        serve(app, listener, announce=urls.append)
    thread.join(PATIENCE)
    (response,) = responses
    assert response.status_code == 200
    assert response.json()["choices"][0]["text"] == module.generate(PROMPT, max_new_tokens=24)[0].text
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert not app.state.service.scheduler.is_alive


def test_a_second_interrupt_ends_the_process_at_once(module, monkeypatch):
    gate = Gate(module, monkeypatch, delay=0.01)
    app = create_app(module, "tiny", DecodeSettings(max_new_tokens=100), Limits())
    urls = []

    def ask_and_stop():
        wait_for(lambda: urls)
        with httpx.stream("POST", f"{urls[0]}/completions", json={"prompt": PROMPT, "stream": True}, timeout=PATIENCE):
            gate.close()
            os.kill(os.getpid(), signal.SIGINT)
            wait_for(lambda: not app.state.service.scheduler.is_alive)
            os.kill(os.getpid(), signal.SIGINT)
            wait_for(lambda: ended)

    ended: list[bool] = []
    thread = threading.Thread(target=ask_and_stop)
    thread.start()
    with listen("127.0.0.1", 0) as listener, pytest.raises(KeyboardInterrupt):
        serve(app, listener, announce=urls.append)
    ended.append(True)
    gate.open()
    thread.join(PATIENCE)


def test_an_address_that_cannot_be_used_is_named():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=rf"host, port: expected an address that is free, got 127.0.0.1:{port} \("):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match="host, port: expected an address that is free"):
        listen(".example.com", 80)  # no name, so nobody is asked for it
    for number in (-1, 65536):
        with pytest.raises(UserError, match=f"port: expected a number from 0 to 65535, got {number}"):
            listen("127.0.0.1", number)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_address_of_ipv6():
    try:
        listener = listen("::1", 0)
    except UserError:
        pytest.skip("no loopback of IPv6")
    with listener:
        assert listener.family == socket.AF_INET6


def test_an_app_that_cannot_start_is_an_error_and_serves_nothing(module):
    app = create_app(module, "tiny", api_key="\udcfc")  # which no header could hold
    with listen("127.0.0.1", 0) as listener, pytest.raises((RuntimeError, SystemExit)):  # as uvicorn has it
        serve(app, listener)
