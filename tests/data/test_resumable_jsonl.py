import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dmaxlit.data.resumable_jsonl import PartialCorpus, Progress, difference, generate_rows
from dmaxlit.errors import UserError
from dmaxlit.files import read_json, write_json

SETTINGS = {"decoder": "threshold", "seed": 0}
ROWS = [{"prompt": "á", "response": f"{i}"} for i in range(4)]


def begun(tmp_path):
    output = tmp_path / "c.jsonl"
    partial = PartialCorpus(output, SETTINGS)
    partial.append(ROWS[:2], Progress(prompts=3, kept=2))
    return output


def rows_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_corpus_is_absent_until_it_is_whole(tmp_path):
    output = begun(tmp_path)
    assert not output.exists()
    partial = PartialCorpus(output, SETTINGS)
    partial.append(ROWS[2:], replace(partial.progress, prompts=5))
    assert not output.exists()
    partial.finish()
    assert rows_of(output) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


@pytest.mark.parametrize("torn", [b"", b'{"prompt": "half', b'{"prompt": "whole but not recorded", "response": "r"}\n'])
def test_what_was_not_recorded_is_cut_off(tmp_path, torn):
    output = begun(tmp_path)
    with (tmp_path / "c.jsonl.partial").open("ab") as file:
        file.write(torn)
    partial = PartialCorpus(output, SETTINGS)
    assert (partial.progress.prompts, partial.progress.kept) == (3, 2)
    partial.append(ROWS[2:], replace(partial.progress))
    partial.finish()
    assert rows_of(output) == ROWS


def test_rows_without_a_record_are_discarded(tmp_path):
    output = begun(tmp_path)
    PartialCorpus.record_path(output).unlink()
    partial = PartialCorpus(output, SETTINGS)
    assert partial.progress == Progress()
    partial.append(ROWS[:1], Progress())
    partial.finish()
    assert rows_of(output) == ROWS[:1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SETTINGS, "seed": 1}, "c.jsonl: was begun with other settings: seed was 0, now 1"),
        ({"decoder": "threshold"}, "seed was 0, now None"),
        ({**SETTINGS, "keep": "all"}, "keep was None, now 'all'"),
    ],
)
def test_other_settings_are_refused_by_name_or_overwritten(tmp_path, settings, message):
    output = begun(tmp_path)
    with pytest.raises(UserError, match=message):
        PartialCorpus(output, settings)
    assert PartialCorpus(output, SETTINGS).progress.kept == 2
    fresh = PartialCorpus(output, settings, overwrite=True)
    assert fresh.progress == Progress()
    assert (tmp_path / "c.jsonl.partial").read_bytes() == b""


def test_lost_rows_are_noticed(tmp_path):
    output = begun(tmp_path)
    (tmp_path / "c.jsonl.partial").write_bytes(b"{}\n")
    with pytest.raises(UserError, match=r"c.jsonl.partial: is shorter than .*progress.json says"):
        PartialCorpus(output, SETTINGS)


def test_a_damaged_record_is_refused(tmp_path):
    output = begun(tmp_path)
    PartialCorpus.record_path(output).write_text("{")
    with pytest.raises(UserError, match=r"c.jsonl.progress.json: cannot be read"):
        PartialCorpus(output, SETTINGS)


def test_discard_leaves_nothing(tmp_path):
    output = begun(tmp_path)
    PartialCorpus(output, SETTINGS).discard()
    assert list(tmp_path.iterdir()) == []


def test_settings_are_compared_as_json(tmp_path):
    output = tmp_path / "c.jsonl"
    PartialCorpus(output, {"a": (1, 2)}).append(ROWS, Progress())
    assert PartialCorpus(output, {"a": [1, 2]}).progress.offset > 0


def test_prompts_are_answered_in_chunks_of_four_batches_from_where_the_file_ends(tmp_path, capsys):
    prompts, calls = [str(number) for number in range(20)], []

    def generate(chunk, begin, advance):
        calls.append((begin, len(chunk)))
        advance(len(chunk))
        return [
            SimpleNamespace(text=prompt, finished=int(prompt) % 2 == 0, num_tokens=6, num_forwards=2)
            for prompt in chunk
        ]

    def make_row(index, response):
        assert response.text == prompts[index]
        return (None if index % 5 == 0 else {"response": response.text}), index < 3

    output = tmp_path / "c.jsonl"
    file = PartialCorpus(output, SETTINGS)
    file.append([{"response": "before"}], Progress(prompts=1, kept=1))
    counts = generate_rows(file, prompts, 2, generate, make_row, title="here")
    file.finish()
    assert calls == [(1, 8), (9, 8), (17, 3)]
    assert [row["response"] for row in rows_of(output)] == ["before", *(p for p in prompts if int(p) % 5)]
    assert (counts.prompts, counts.kept, counts.finished, counts.correct) == (20, 17, 9, 2)
    assert (counts.tokens, counts.forwards) == (19 * 6, 19 * 2)
    assert counts.seconds > 0
    assert "here: 100%" in capsys.readouterr().err


def test_difference_names_the_first():
    assert difference({"a": 1}, {"a": 1}) is None
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 3}) == "b was 2, now 3"


def test_json_files_hold_the_old_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr("os.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a.json: "):
        read_json(tmp_path / "a.json")
