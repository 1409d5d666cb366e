"""Data sets of the hub, read by the real client from a stand-in of its server."""

import json
import logging

import datasets
import huggingface_hub
import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import task
from dmaxlit.tasks.records import BadRows, read_records
from tests.hub_stand_in import hub_with

CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train.jsonl}
  - {split: test, path: main/test.jsonl}
- config_name: socratic
  data_files:
  - {split: test, path: socratic/test.jsonl}
---
"""


def rows(number, count):
    lines = [{"question": f"What is {i} + {number}?", "answer": f"#### {i + number}"} for i in range(count)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


GSM8K = {
    "README.md": CARD.encode(),
    "main/train.jsonl": rows(1, 30),
    "main/test.jsonl": rows(2, 5),
    "socratic/test.jsonl": rows(3, 7),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Point the hub's client to the stand-in; return the requests it gets."""
    cache = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch, hub_with({"openai/gsm8k": GSM8K}) as (address, requests):
        point_to(patch, address, cache)
        yield requests


def point_to(patch, address, cache):
    patch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "".join(template[1:]))
    patch.setattr(datasets.config, "HF_ENDPOINT", address)
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache / "hub"))
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache / "datasets"))


def test_a_benchmark_is_read_from_the_hub_by_id_configuration_and_split(hub):
    gsm8k = task("gsm8k")
    assert gsm8k.count("test") == 5
    first = gsm8k.examples("test", 1)[0]
    assert "What is 0 + 2?" in first.prompt
    assert first.check("#### 2")
    assert gsm8k.count("train") + gsm8k.count("val") == 30
    assert any(request.endswith("/main/test.jsonl") for request in hub)
    assert not any("socratic/test.jsonl" in request for request in hub)


def test_rows_of_the_hub_have_locations(hub):
    location, row = list(read_records("openai/gsm8k:socratic", "test", BadRows("error")))[-1]
    assert location == "openai/gsm8k:socratic, split test, row 7"
    assert row == {"question": "What is 6 + 3?", "answer": "#### 9"}


@pytest.mark.parametrize(
    ("source", "split"),
    [
        ("openai/gsm8k:other", "test"),
        ("openai/gsm8k", "test"),  # it has several configurations
        ("openai/gsm8k:main", "validation"),
        ("openai/gsm9k", "test"),
    ],
)
def test_what_the_hub_does_not_have_is_refused_in_one_line(hub, source, split):
    expected = rf"^corpus: '{source}' is no file, and no hub data set with a split '{split}': \w+Error: [^\n]+$"
    with pytest.raises(UserError, match=expected):
        list(read_records(source, split, BadRows("error")))


def test_an_unreachable_hub_is_one_line_without_the_attempts_of_its_client(monkeypatch, tmp_path, caplog, capfd):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    point_to(monkeypatch, "http://127.0.0.1:1", tmp_path)
    with caplog.at_level(logging.WARNING, "huggingface_hub"):
        with pytest.raises(UserError, match=r"^gsm8k: cannot read .* ConnectionError: Couldn't reach 'openai/gsm8k'"):
            task("gsm8k").count("test")
        assert logging.getLogger("huggingface_hub").level == logging.WARNING
    assert caplog.messages == []
    assert capfd.readouterr().err == ""
