"""``dmaxlit serve``: what it listens at, and what it refuses before a model is loaded."""

import sys
from types import SimpleNamespace

import pytest

import dmaxlit
import dmaxlit.server
from dmaxlit.server import listen


@pytest.fixture
def served(monkeypatch):
    """The applications that would have been served."""
    apps = []

    def serve(app, listener, log_requests, announce):
        announce(f"http://{listener.getsockname()[0]}:80/v1")
        apps.append(
            SimpleNamespace(service=app.state.service, middleware=[m.cls.__name__ for m in app.user_middleware])
        )

    monkeypatch.setattr(dmaxlit.server, "serve", serve)
    monkeypatch.delenv("DMAXLIT_API_KEY", raising=False)
    return apps


MODEL = ("serve", "--model", "builtin:chain-base", "--port", "0", "--probe", "false")


def test_a_model_is_served_with_the_settings_of_the_command_line(dmax, served):
    options = ("--decoder", "threshold", "--decoder.threshold", "0.7", "--batch_size", "3", "--max_body_mib", "0.5")
    options += ("--max_extra_blocks", "2", "--max_mixed_tokens", "5")
    out = dmax(*MODEL, *options).out
    assert out == "chain-base: http://127.0.0.1:80/v1 (Ctrl-C stops)\n"
    (app,) = served
    defaults = app.service._intake._defaults
    assert (defaults.decoder, defaults.decoder_options, defaults.max_new_tokens) == (
        "threshold",
        {"threshold": 0.7},
        96,
    )
    limits = app.service.limits
    assert (limits.batch_size, limits.max_body, limits.max_extra_blocks, limits.max_mixed_tokens) == (3, 2**19, 2, 5)
    assert "KeyCheck" not in app.middleware


def test_the_decoder_of_the_model_is_served_unless_another_is_named(dmax, served, tmp_path):
    module = dmaxlit.load("builtin:chain-base")
    module.set_decoding("edit", tau_edit=0.0)
    module.export(tmp_path / "m")
    dmax("serve", "--model", str(tmp_path / "m"), "--port", "0", "--probe", "false")
    dmax(*MODEL)
    chosen = [(app.service._intake._defaults.decoder, app.service._intake._defaults.decoder_options) for app in served]
    assert chosen == [("edit", {"tau_edit": 0.0}), ("spd", {})]


def test_a_key_comes_from_the_flag_or_the_environment(dmax, served, monkeypatch):
    dmax(*MODEL, "--api_key", "secret", "--name", "mine")
    monkeypatch.setenv("DMAXLIT_API_KEY", "other")
    dmax(*MODEL)
    assert all("KeyCheck" in app.middleware for app in served)
    assert served[0].service.name == "mine"
    assert dmax(*MODEL, "--api_key", " ").refusal == "api_key: expected a key, got an empty text"
    monkeypatch.setenv("DMAXLIT_API_KEY", "schl\udcfcssel")  # of bytes that are no UTF-8
    assert dmax(*MODEL).refusal == "api_key: expected printable ASCII characters, got others"


@pytest.mark.parametrize("key", ["#s3cret", "~", "&x", "null", "12"])
def test_a_key_that_means_something_in_yaml_is_a_key(dmax, served, key):
    assert dmax(*MODEL, f"--api_key={key}").status == 0
    assert "KeyCheck" in served[0].middleware


@pytest.mark.parametrize("line", ["api_key: #s3cret", "api_key:", "api_key: null"])
def test_a_key_that_is_null_in_a_file_is_refused(dmax, served, tmp_path, monkeypatch, line):
    monkeypatch.setenv("DMAXLIT_API_KEY", "other")
    (tmp_path / "server.yaml").write_text(f"{line}\nport: 0\n")
    refusal = dmax(*MODEL, "--config", str(tmp_path / "server.yaml")).refusal
    assert refusal == "api_key: expected a key, got null"


def test_other_machines_are_let_in_on_request_alone(dmax, served):
    assert "no --api_key" in dmax(*MODEL, "--host", "0.0.0.0").err
    assert "no --api_key" not in dmax(*MODEL, "--host", "0.0.0.0", "--api_key", "secret").err
    assert "no --api_key" not in dmax(*MODEL, "--host", "LOCALHOST").err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch_size", "0"), "batch_size: expected at least 1, got 0"),
        (("--max_seconds", "0"), "max_seconds: expected a number above 0, got 0"),
        (("--max_window", "0"), "max_window: expected at least 1, got 0"),
        (("--window", "9"), "window: expected at most --max_window, 4, got 9"),
        (("--max_body_mib", "0"), "max_body_mib: expected at least 1 byte and less than 2**63 bytes, got 0 MiB"),
        (
            ("--max_body_mib", "1e308"),
            "max_body_mib: expected at least 1 byte and less than 2**63 bytes, got 1e+308 MiB",
        ),
        (("--decoder", "spdd"), "unknown decoder 'spdd'"),
        (("--decoder", "wino", "--window", "2"), "window: expected 1 for decoder WinoDecoder"),
        (("--temperature", "-1"), "temperature: expected a number from 0 to 10000, got -1"),
        (("--max_new_tokens", "0"), "max_new_tokens: expected at least 1, got 0"),
    ],
)
def test_settings_that_no_request_could_use_are_refused(dmax, served, options, message):
    assert message in dmax(*MODEL, *options).refusal
    assert not served


def test_a_port_that_is_taken_is_refused_before_the_model_is_loaded(dmax, served):
    with listen("127.0.0.1", 0) as listener:
        port = str(listener.getsockname()[1])
        refusal = dmax("serve", "--model", "no/such/model", "--port", port).refusal
    assert refusal.startswith(f"host, port: expected an address that is free, got 127.0.0.1:{port} (")


def test_packages_that_are_missing_are_named(dmax, monkeypatch):
    monkeypatch.delitem(sys.modules, "dmaxlit.server")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("dmaxlit.server.")]:
        monkeypatch.delitem(sys.modules, name)
    refusal = dmax(*MODEL).refusal
    assert refusal == "serve: expected the packages of the extra serve, found no fastapi; pip install -e '.[serve]'"
