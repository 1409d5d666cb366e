"""Sessions with a tiny untrained model, with and without a chat template."""

import io

import pytest

import dmaxlit
from dmaxlit.cli.chat.session import ChatSession
from dmaxlit.engine import DecodeSettings

# The fixtures of the command line.
from tests.cli.conftest import dmax, tiny  # noqa: F401

TEMPLATE = "{% for turn in messages %}{{ turn.content }} {% endfor %}"
SETTINGS = DecodeSettings("threshold", {"threshold": 0.5}, max_new_tokens=40)


@pytest.fixture
def module(tiny):  # noqa: F811
    return dmaxlit.load(tiny, probe=False)


@pytest.fixture
def session(module):
    module.tokenizer.chat_template = TEMPLATE
    return ChatSession(module, SETTINGS)


@pytest.fixture
def chat(dmax, tiny, tmp_path, monkeypatch):  # noqa: F811
    """Run ``chat`` with lines on a pipe."""
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(lines, flags="--chat_template t.jinja"):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        settings = "--decoder threshold --decoder.threshold 0.5 --max_new_tokens 40 --probe false"
        return dmax(f"chat --model {tiny} {settings} {flags}")

    return run
