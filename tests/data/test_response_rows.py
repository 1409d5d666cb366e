import json
from types import SimpleNamespace

import pytest

from dmaxlit.data import response_rows
from dmaxlit.data.response_rows import generate_rows
from dmaxlit.data.resumable_jsonl import PartialCorpus, Progress
from dmaxlit.errors import PromptError, UserError

SETTINGS = {"decoder": "threshold", "seed": 0}
PROMPTS = [str(number) for number in range(20)]


def answer(prompt):
    return SimpleNamespace(text=prompt, finished=int(prompt) % 2 == 0, num_tokens=6, num_forwards=2)


def make_row(index, response):
    assert response.text == PROMPTS[index]
    return (None if index % 5 == 0 else {"response": response.text}), index < 3


def recorded(file):
    return json.loads(file.record.read_text())["progress"]["prompts"] if file.record.exists() else 0


def test_rows_are_in_the_order_of_the_prompts_from_where_the_file_ends(tmp_path, capsys):
    calls = []

    def generate(prompts, begin, take):
        calls.append((list(prompts), begin))
        for index in [3, 0, 1, 2, 18, *range(4, 18)]:
            take(index, answer(prompts[index]))

    output = tmp_path / "c.jsonl"
    file = PartialCorpus(output, SETTINGS)
    file.append([{"response": "before"}], Progress(prompts=1, kept=1))
    counts = generate_rows(file, PROMPTS, generate, make_row, title="here")
    file.finish()
    assert calls == [(PROMPTS[1:], 1)]
    rows = [json.loads(line)["response"] for line in output.read_text().splitlines()]
    assert rows == ["before", *(p for p in PROMPTS if int(p) % 5)]
    assert (counts.prompts, counts.kept, counts.finished, counts.correct) == (20, 17, 9, 2)
    assert (counts.tokens, counts.forwards) == (19 * 6, 19 * 2)
    assert counts.seconds > 0
    assert "here: 100%" in capsys.readouterr().err


def test_a_prompt_that_is_refused_is_named_by_its_index_among_all(tmp_path):
    def generate(prompts, begin, take):
        raise PromptError(2, "too long")

    file = PartialCorpus(tmp_path / "c.jsonl", SETTINGS)
    file.append([{"response": "before"}], Progress(prompts=5, kept=1))
    with pytest.raises(PromptError, match=r"^prompts\[7\]: too long$"):
        generate_rows(file, PROMPTS, generate, make_row, progress_bar=False)


def test_progress_is_recorded_every_few_seconds_and_on_interruption(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    file, seen = PartialCorpus(tmp_path / "c.jsonl", SETTINGS), []

    def generate(prompts, begin, take):
        for index in [0, 1, 2, 4, 3, 5, 6]:  # 4 waits for 3
            clock[0] += 2.0
            take(index, answer(prompts[index]))
            seen.append(recorded(file))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_rows(file, PROMPTS, generate, make_row, progress_bar=False)
    assert seen == [0, 0, 3, 3, 3, 6, 6]
    assert recorded(file) == 7
    assert file.progress.seconds == 14.0
    assert response_rows._RECORD_SECONDS == 5.0


def test_a_refusal_before_the_first_response_writes_nothing(tmp_path):
    def generate(prompts, begin, take):
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        generate_rows(PartialCorpus(tmp_path / "c", SETTINGS), PROMPTS, generate, make_row, progress_bar=False)
    assert list(tmp_path.iterdir()) == []
