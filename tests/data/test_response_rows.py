import json
from types import SimpleNamespace

import pytest

from dmaxlit.data import parts
from dmaxlit.data.response_rows import generate_rows
from dmaxlit.data.resumable_jsonl import PartialCorpus, Progress
from dmaxlit.data.shared_corpus import SharedCorpus
from dmaxlit.errors import PromptError, UserError

SETTINGS = {"decoder": "threshold", "seed": 0}
PROMPTS = [str(number) for number in range(20)]


def answer(prompt):
    return SimpleNamespace(text=prompt, finished=int(prompt) % 2 == 0, num_tokens=6, num_forwards=2)


def make_row(index, response):
    assert response.text == PROMPTS[index]
    return (None if index % 5 == 0 else {"response": response.text}), index < 3


def measure(prompts):
    return [len(prompt) for prompt in prompts]


def fill(output, generate, batch_size=64, measure=measure, **options):
    with SharedCorpus(output, SETTINGS) as file:
        counts = generate_rows(file, PROMPTS, measure, generate, make_row, batch_size, **options)
        file.finish({"settings": SETTINGS})
    return counts


def begun_in_order(output, prompts):
    """Leave what an earlier release left of an interrupted file: the rows of the first prompts, in order."""
    PartialCorpus(output, SETTINGS).append([{"response": "before"}], Progress(prompts=prompts, kept=1))


def recorded(output):
    record = output.with_name(f".{output.stem}.rank0{output.suffix}.progress.json")
    return json.loads(record.read_text())["progress"]["prompts"] if record.exists() else 0


def test_rows_are_in_the_order_of_the_prompts_from_where_the_file_ends(tmp_path, capsys):
    calls, output = [], tmp_path / "c.jsonl"

    def generate(prompts, indices, take, tick):
        calls.append((list(prompts), list(indices)))
        for position in [3, 0, 1, 2, 18, *range(4, 18)]:
            take(position, answer(prompts[position]))
            tick(1)

    begun_in_order(output, 1)
    counts = fill(output, generate, title="here")
    longest_first = [*range(10, 20), *range(1, 10)]
    assert calls == [([str(index) for index in longest_first], longest_first)]
    rows = [json.loads(line)["response"] for line in output.read_text().splitlines()]
    assert rows == ["before", *(p for p in PROMPTS if int(p) % 5)]
    assert (counts.prompts, counts.kept, counts.finished, counts.correct) == (20, 17, 9, 2)
    assert (counts.tokens, counts.forwards) == (19 * 6, 19 * 2)
    assert counts.seconds > 0
    shown = capsys.readouterr().err
    assert "here: 100%" in shown
    assert "tokens/s" in shown


def test_a_prompt_that_is_refused_is_named_by_its_index_among_all(tmp_path):
    def refuse(prompts, *_):
        raise PromptError(prompts.index("7"), "too long")

    begun_in_order(tmp_path / "c.jsonl", 5)
    for options in ({"measure": refuse, "generate": None}, {"generate": refuse}):
        with pytest.raises(PromptError, match=r"^prompts\[7\]: too long$"):
            fill(tmp_path / "c.jsonl", progress_bar=False, **options)
        assert not (tmp_path / ".c.rank0.jsonl.partial").exists()


@pytest.mark.parametrize(("batch_size", "expected"), [(64, [0, 0, 3, 3, 3, 6, 6]), (2, [0, 2, 2, 4, 4, 6, 6])])
def test_progress_is_recorded_every_batch_or_few_seconds_and_on_interruption(
    tmp_path, monkeypatch, batch_size, expected
):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    output, seen = tmp_path / "c.jsonl", []

    def generate(prompts, indices, take, tick):
        for position in [0, 1, 2, 4, 3, 5, 6]:
            clock[0] += 2.0
            take(position, answer(prompts[position]))
            seen.append(recorded(output))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(output, generate, batch_size, progress_bar=False)
    assert seen == expected
    assert recorded(output) == 7
    assert parts.Parts(output, SETTINGS).part(0).progress.seconds == 14.0
    assert parts._RECORD_SECONDS == 5.0


def test_a_refusal_before_the_first_response_writes_nothing(tmp_path):
    def generate(*_):
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        fill(tmp_path / "c", generate, progress_bar=False)
    assert list(tmp_path.iterdir()) == []
