import json
import os
import random
import threading
import time
from types import SimpleNamespace

import pytest

from dmaxlit.data import answer_bar, lock_watch, response_rows, shared_corpus
from dmaxlit.data.parts import PartWriter
from dmaxlit.data.response_rows import generate_rows
from dmaxlit.data.resumable_jsonl import manifest_path
from dmaxlit.data.shared_corpus import SharedCorpus
from dmaxlit.errors import UserError
from dmaxlit.ranks import LostRankError
from tests.data.simulated_ranks import Disk, Killed, run_ranks
from tests.lock_holder import held_by_another

SETTINGS = {"seed": 0}
PROMPTS = ["x" * (1 + index * 7 % 11) for index in range(40)]
BATCH = 3


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lock_watch, "_SECONDS", 0.01)
    monkeypatch.setattr(lock_watch, "_LAST_WORDS", 0.1)
    monkeypatch.setattr(response_rows, "_WAIT", 0.01)
    monkeypatch.setattr(answer_bar, "_SECONDS", 0.0)


def answer(index):
    return SimpleNamespace(
        text=f"{index} é", finished=index % 7 != 0, num_tokens=index + 1, num_forwards=index // 2 + 1
    )


def make_row(index, response):
    return ({"n": index, "text": response.text} if response.finished else None), index % 2 == 0


def generator(answered):
    def generate(prompts, indices, take, tick):
        assert [prompts[position] for position in range(len(prompts))] == [PROMPTS[index] for index in indices]
        order = list(range(len(indices)))
        random.Random(len(indices)).shuffle(order)
        for position in order:
            answered.append(indices[position])
            take(position, answer(indices[position]))
            tick(1)

    return generate


def write(output, ranks=None, generate=None, progress_bar=False, make_row=make_row):
    with SharedCorpus(output, SETTINGS, ranks) as file:
        if file.whole is not None:
            return file.whole
        answers = generate or generator([])
        counts = generate_rows(file, PROMPTS, lambda some: list(map(len, some)), answers, make_row, BATCH, progress_bar)
        file.ranks.from_main(lambda: file.finish({"settings": SETTINGS, "counts": {**vars(counts), "seconds": 0}}))
        return counts


def contents(folder):
    """Return all files but the locks, which those killed at the very end leave behind."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The file of one process, which is that of plain Python."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder / "c.jsonl")
    rows = [{"n": index, "text": f"{index} é"} for index in range(40) if index % 7]
    assert (folder / "c.jsonl").read_text() == "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    counts = json.loads(manifest_path(folder / "c.jsonl").read_text())["counts"]
    assert (counts["prompts"], counts["kept"], counts["finished"], counts["correct"]) == (40, 34, 34, 20)
    assert (counts["tokens"], counts["forwards"]) == (sum(range(1, 41)), sum(n // 2 + 1 for n in range(40)))
    return contents(folder)


@pytest.mark.parametrize("size", [2, 3])
def test_the_file_of_several_ranks_is_that_of_one(whole, tmp_path, capsys, size):
    answered = []
    results = run_ranks(size, lambda ranks: write(tmp_path / "c.jsonl", ranks, generator(answered), progress_bar=True))
    assert all(result == results[0] for result in results)
    assert contents(tmp_path) == whole
    assert sorted(answered) == list(range(40))
    shown = capsys.readouterr().err
    assert "40/40" in shown
    assert " tokens/s" in shown
    again = run_ranks(size, lambda ranks: write(tmp_path / "c.jsonl", ranks, generate=None))
    assert [result["counts"] for result in again] == [json.loads(whole["c.jsonl.manifest.json"])["counts"]] * size


@pytest.mark.parametrize("seed", range(12))
def test_killed_anywhere_and_started_again_by_any_number_of_ranks_no_row_is_lost_or_doubled(
    whole, tmp_path, monkeypatch, seed
):
    draw, answered, at_risk = random.Random(seed), [], 0
    for attempt in range(40):
        size, last = draw.randint(1, 3), draw.randint(1, 60) if attempt < 6 else None
        with monkeypatch.context() as patch:
            Disk(patch, last)
            results = run_ranks(size, lambda ranks: write(tmp_path / "c.jsonl", ranks, generator(answered)))
        if not any(isinstance(result, BaseException) for result in results):
            break
        assert any(isinstance(result, Killed) for result in results)
        at_risk += size * BATCH
        complete = (tmp_path / "c.jsonl").exists()
        assert not complete or (tmp_path / "c.jsonl").read_bytes() == whole["c.jsonl"]
    write(tmp_path / "c.jsonl")
    assert contents(tmp_path) == whole
    assert set(answered) == set(range(40))
    assert len(answered) <= 40 + at_risk  # all but the last batches had been recorded


@pytest.mark.parametrize("dies", [0, 1, 2])
def test_when_a_rank_dies_the_others_stop_and_one_says_which(whole, tmp_path, monkeypatch, dies):
    genuine = os.unlink

    def unlink(path, *args, **options):
        if not str(path).endswith(f"rank{dies}.jsonl.lock"):  # which a killed process leaves behind
            genuine(path, *args, **options)

    monkeypatch.setattr("os.unlink", unlink)

    def generate_of(rank):
        def generate(prompts, indices, take, tick):
            take(0, answer(indices[0]))
            if rank == dies:
                raise Killed
            while True:  # a long batch
                tick(0)

        return generate

    begin = time.monotonic()
    results = run_ranks(3, lambda ranks: write(tmp_path / "c.jsonl", ranks, generate_of(ranks.rank)))
    assert time.monotonic() - begin < 10
    speaker = 1 if dies == 0 else 0
    assert [type(result) for result in results] == [
        Killed if rank == dies else LostRankError if rank == speaker else SystemExit for rank in range(3)
    ]
    expected = f"devices: expected 3 processes until the end, but rank {dies} has ended"
    assert str(results[speaker]).startswith(expected)
    monkeypatch.undo()
    answered = []
    write(tmp_path / "c.jsonl", generate=generator(answered))
    assert len(answered) == 37  # the answers of all three are kept
    assert contents(tmp_path) == whole


def test_what_one_rank_refuses_stops_the_others_and_is_said_once(tmp_path):
    def generate_of(rank):
        def generate(prompts, indices, take, tick):
            if rank == 1:
                raise UserError("grader: expected a sandbox, got none")
            while True:
                tick(0)

        return generate

    results = run_ranks(3, lambda ranks: write(tmp_path / "c.jsonl", ranks, generate_of(ranks.rank)))
    assert str(results[0]) == "grader: expected a sandbox, got none"
    assert [result.code for result in results[1:]] == [0, 0]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_the_ranks_do_not_share_is_noticed_before_anything_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_corpus, "_PATIENCE", 0.0)
    threads = []  # of the ranks; the main one asks first

    def holder(path):
        threads.append(threading.get_ident())
        return "process 7 on one" if threads[-1] == threads[0] else "another process"

    monkeypatch.setattr(shared_corpus, "holder", holder)
    results = run_ranks(2, lambda ranks: write(tmp_path / "new" / "c.jsonl", ranks, generate=None))
    assert str(results[0]).startswith(f"output: expected a folder that all processes share, got '{tmp_path / 'new'}'")
    assert results[1].code == 0
    assert list(tmp_path.iterdir()) == []


def test_two_starts_at_the_same_time_are_one_refusal(tmp_path):
    with held_by_another(tmp_path / "c.jsonl") as other:
        results = run_ranks(2, lambda ranks: write(tmp_path / "c.jsonl", ranks))
        assert f"is being written by process {other.pid} on" in str(results[0])
        assert results[1].code == 0
        assert [path.name for path in tmp_path.iterdir()] == [".c.jsonl.lock"]


def test_rows_that_are_not_there_are_missed_and_nothing_is_lost(whole, tmp_path):
    answered = []
    with SharedCorpus(tmp_path / "c.jsonl", SETTINGS) as file:
        writer = PartWriter(file.parts.part(0), lambda: 1.0)
        for index in (0, 2):
            writer.add(response_rows._record(index, answer(index), *reversed(make_row(index, answer(index)))))
        writer.record()
        with pytest.raises(
            UserError, match=r"output: expected the rows of 40 prompts in '.*', found none of prompt 2;"
        ):
            file.merge(40)
    write(tmp_path / "c.jsonl", generate=generator(answered))
    assert sorted(answered) == [1, *range(3, 40)]
    assert contents(tmp_path) == whole


def test_a_damaged_part_is_one_line(tmp_path):
    with SharedCorpus(tmp_path / "c.jsonl", SETTINGS) as file:
        writer = PartWriter(file.parts.part(0), lambda: 1.0)
        writer.add(response_rows._record(3, answer(3), True, {}))
        writer.record()
        path = tmp_path / ".c.rank0.jsonl.partial"
        path.write_bytes(path.read_bytes().replace(b"index", b'in"x"'))
        with pytest.raises(UserError, match=r"\.c\.rank0\.jsonl\.partial: is damaged at byte 0; delete it and"):
            file.remaining(40)
