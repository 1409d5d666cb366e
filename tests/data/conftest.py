import json
import runpy
from pathlib import Path

import pytest

from dmaxlit.data import encoded_corpus
from dmaxlit.data.corpora import Corpora

FAKE = Path(__file__).with_name("fake_model.py")


@pytest.fixture(scope="session")
def fake_module():
    return runpy.run_path(str(FAKE), run_name="fake_model")["FakeModule"]


@pytest.fixture
def cached(monkeypatch):
    """Let corpora of any size count as large."""
    monkeypatch.setattr(encoded_corpus, "_SMALL", 0)


@pytest.fixture
def corpus(tmp_path):
    rows = []
    for n in range(500):
        if n % 7 == 3:
            rows.append({"text": "so 3 +1 is 4 . " * (1 + n % 40)})
        elif n % 11 == 5:
            rows.append({"prompt": "", "response": "so"})
        else:
            rows.append({"prompt": f"{n % 10} +1 *3 ?", "response": "so " * (1 + n % 13) + f"#### {n % 10}"})
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "corpus.jsonl"


@pytest.fixture
def only_cache(monkeypatch):
    """Refuse to read a corpus."""

    def refuse():
        monkeypatch.setattr(Corpora, "rows", lambda *_: pytest.fail("the corpus is read"))

    return refuse
