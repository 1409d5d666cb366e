"""Corpora with filters, several samples and prompts held out."""

import json
from dataclasses import replace

import pytest

from dmaxlit.data import shared_corpus
from dmaxlit.data.resumable_jsonl import manifest_path
from dmaxlit.errors import PromptError, UserError
from dmaxlit.tasks.sources import held_out_path
from tests.data.distilling import PROMPTS, SETTINGS, TASK, kind, rows_of, run

FINISHED = [prompt for prompt in PROMPTS if kind(prompt) != 0]


def test_the_manifest_says_what_was_dropped(fake_module, tmp_path):
    manifest = run(fake_module(), tmp_path / "c.jsonl", replace(SETTINGS, keep="correct", min_length=6, max_length=9))
    expected = {
        "unfinished": sum(kind(prompt) == 0 for prompt in PROMPTS),
        "incorrect": sum(kind(prompt) == 1 for prompt in PROMPTS),
        "empty": 0,
        "too_short": 0,
        "too_long": 0,
    }
    assert manifest.dropped == expected
    assert manifest.kept == 40 - sum(expected.values()) == len(rows_of(tmp_path / "c.jsonl"))
    assert json.loads(manifest_path(tmp_path / "c.jsonl").read_text())["dropped"] == expected


def test_a_corpus_without_filters_says_what_it_said_before(fake_module, tmp_path):
    settings = run(fake_module(), tmp_path / "c.jsonl").settings
    assert not {"num_samples", "held_out", "min_length", "max_length", "duplicates", "similarity"} & settings.keys()


def test_samples_follow_each_other_and_differ(fake_module, tmp_path):
    settings = replace(SETTINGS, keep="all", temperature=0.5, num_samples=3)
    manifest = run(fake_module(random=True), tmp_path / "c.jsonl", settings)
    rows = rows_of(tmp_path / "c.jsonl")
    assert [row["prompt"] for row in rows] == [prompt for prompt in PROMPTS for _ in range(3)]
    assert len({row["response"] for row in rows}) == 120
    assert (manifest.prompts, manifest.settings["num_prompts"], manifest.settings["num_samples"]) == (120, 40, 3)


def test_samples_that_are_alike_can_be_dropped(fake_module, tmp_path):
    settings = replace(SETTINGS, keep="all", temperature=0.5, num_samples=3, duplicates="drop")
    manifest = run(fake_module(), tmp_path / "c.jsonl", settings)  # which samples nothing
    assert [row["prompt"] for row in rows_of(tmp_path / "c.jsonl")] == PROMPTS
    assert manifest.dropped == {"empty": 0, "duplicate": 80}


def test_prompts_held_out_are_those_of_a_larger_set_too(fake_module, tmp_path):
    settings = replace(SETTINGS, keep="all", held_out=0.3)
    manifest = run(fake_module(), tmp_path / "c.jsonl", settings)
    held_out = [row["prompt"] for row in rows_of(held_out_path(tmp_path / "c.jsonl"))]
    kept = [row["prompt"] for row in rows_of(tmp_path / "c.jsonl")]
    assert sorted(held_out + kept) == sorted(PROMPTS)
    assert 4 <= len(held_out) == manifest.held_out <= 20
    assert manifest.prompts == len(kept)
    run(fake_module(), tmp_path / "d.jsonl", replace(settings, num_prompts=20))
    assert [row["prompt"] for row in rows_of(held_out_path(tmp_path / "d.jsonl"))] == [
        prompt for prompt in PROMPTS[:20] if prompt in held_out
    ]


def test_a_corpus_that_replaces_one_leaves_none_of_its_held_out_prompts(fake_module, tmp_path):
    corpus = tmp_path / "c.jsonl"
    own = held_out_path(corpus)
    own.write_text("of the user\n")
    run(fake_module(), corpus, replace(SETTINGS, keep="all"))
    assert own.read_text() == "of the user\n"
    own.unlink()
    run(fake_module(), corpus, replace(SETTINGS, keep="all", held_out=0.3), overwrite=True)
    run(fake_module(), corpus, replace(SETTINGS, keep="all"), overwrite=True)
    assert not own.exists()
    assert len(rows_of(corpus)) == 40


def test_a_file_of_the_user_is_not_replaced_by_the_prompts_held_out(fake_module, tmp_path):
    corpus, settings = tmp_path / "c.jsonl", replace(SETTINGS, keep="all", held_out=0.3)
    own = held_out_path(corpus)
    own.write_text("of the user\n")
    module = fake_module()
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"^held_out: expected no file under .*, got other rows in '.*jsonl'"):
            run(module, corpus, settings, overwrite=overwrite)
    assert (module.calls, own.read_text()) == ([], "of the user\n")
    own.unlink()
    run(module, corpus, settings)
    for path in (corpus, manifest_path(corpus)):
        path.unlink()
    run(module, corpus, settings)  # those of the same prompts are no loss
    own.write_text("changed\n")
    run(module, corpus, replace(settings, num_prompts=20), overwrite=True)
    assert set(map(str, rows_of(own))) <= set(map(str, [{"prompt": prompt} for prompt in PROMPTS]))


def test_a_prompt_that_is_refused_has_its_number_among_all(fake_module, tmp_path):
    prompts = [*PROMPTS[:30], "2 " * 200, PROMPTS[31]]
    settings = replace(SETTINGS, keep="all", held_out=0.3, num_samples=2, temperature=0.5, max_new_tokens=8)
    with pytest.raises(PromptError, match=r"^prompts\[30\]: expected at most"):
        run(fake_module(), tmp_path / "c.jsonl", settings, source=prompts)


def test_a_share_that_leaves_nothing(fake_module, tmp_path):
    with pytest.raises(UserError, match=r"held_out: expected a share that leaves a prompt, got 0\.999999 of 1"):
        run(fake_module(), tmp_path / "c.jsonl", replace(SETTINGS, num_prompts=1, held_out=0.999999))
    assert list(tmp_path.iterdir()) == []


def test_more_tokens_than_the_task_allows_are_refused_before_anything_is_answered(fake_module, tmp_path):
    module = fake_module()
    with pytest.raises(UserError, match=f"min_length: expected at most max_new_tokens, {TASK.max_new_tokens}, got"):
        run(module, tmp_path / "c.jsonl", replace(SETTINGS, min_length=TASK.max_new_tokens + 1))
    assert module.calls == []


def test_nothing_kept_says_why_and_leaves_nothing(fake_module, tmp_path):
    dropped = rf"none kept \({40 - len(FINISHED)} unfinished, {len(FINISHED)} too_short\)"
    with pytest.raises(UserError, match=dropped):
        run(fake_module(), tmp_path / "c.jsonl", replace(SETTINGS, min_length=7))
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_while_rows_are_ordered_loses_no_duplicate(fake_module, tmp_path, monkeypatch):
    settings = replace(SETTINGS, keep="all", temperature=0.5, num_samples=3, duplicates="drop")
    run(fake_module(), tmp_path / "whole.jsonl", settings)
    monkeypatch.setattr(shared_corpus, "_ROWS_AT_ONCE", 7)  # samples of a prompt are apart
    batches, left = shared_corpus._batches, [6]

    def interrupted(*args):
        for records in batches(*args):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            yield records

    monkeypatch.setattr(shared_corpus, "_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(fake_module(), tmp_path / "c.jsonl", settings)
    assert not (tmp_path / "c.jsonl").exists()
    left[0] = 1000
    manifest = run(fake_module(), tmp_path / "c.jsonl", settings)
    assert (tmp_path / "c.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert manifest.dropped == {"empty": 0, "duplicate": 80}
