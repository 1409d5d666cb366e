import gzip
import json
import os
from pathlib import Path

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks.records import BadRows, read_records
from dmaxlit.tasks.sources import files_of, is_collection, require_outside

NAMES = ["b.jsonl", "a/c.json", "a/b/d.jsonl.gz", "e.ndjson"]
LEFT_OUT = [".hidden.jsonl", ".git/x.json", "b.jsonl.manifest.json", "b.jsonl.progress.json", "b.jsonl.partial", "x.md"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES + LEFT_OUT:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(name).encode() + b"\n"
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return tmp_path / "data"


def rows(source):
    return list(read_records(source, "train", BadRows("error")))


def test_a_folder_is_its_files_in_the_order_of_their_paths(folder):
    expected = [(f"data/{name}, row 1", name) for name in ("a/b/d.jsonl.gz", "a/c.json", "b.jsonl", "e.ndjson")]
    assert rows("data") == rows("data/") == expected
    assert [name for _, name in rows(str(folder))] == [name for _, name in expected]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("data/*.jsonl", ["b.jsonl"]),
        ("data/**/*.json*", ["a/b/d.jsonl.gz", "a/c.json", "b.jsonl"]),
        ("data/[be].*json*", ["b.jsonl", "e.ndjson"]),
        ("data/?.jsonl", ["b.jsonl"]),
    ],
)
def test_a_pattern_is_the_files_that_match(folder, pattern, names):
    assert [name for _, name in rows(pattern)] == names


def test_prompts_held_out_of_a_corpus_count_only_by_themselves(folder):
    (folder / "b.held_out.jsonl").write_text('"held out"\n')
    assert [name for _, name in rows("data")] == ["a/b/d.jsonl.gz", "a/c.json", "b.jsonl", "e.ndjson"]
    assert [name for _, name in rows("data/*.jsonl")] == ["b.jsonl"]
    assert [name for _, name in rows("data/*.held_out.jsonl")] == ["held out"]


def test_parquet_in_a_folder(folder):
    from datasets import Dataset

    Dataset.from_list([{"prompt": "p"}]).to_parquet(folder / "z.parquet")
    assert rows("data")[-1] == ("data/z.parquet, row 1", {"prompt": "p"})


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(folder):
    (folder / "[b].jsonl").write_text('"x"\n')
    assert not is_collection("data/[b].jsonl")
    assert rows("data/[b].jsonl") == [("data/[b].jsonl, row 1", "x")]
    (folder / "[c]").mkdir()
    assert not is_collection("data/[c]/new.jsonl")
    assert is_collection("data/[c]/*.jsonl")
    assert is_collection("data/[cd]/new.jsonl")


def test_plain_texts_count_only_where_they_are_wanted(folder):
    (folder / "t").mkdir()
    (folder / "t" / "b.txt").write_text("one\ntwo\n")
    (folder / "t" / "a.txt.gz").write_bytes(gzip.compress(b"zip"))
    expected = [("data/t/a.txt.gz", "zip"), ("data/t/b.txt", "one\ntwo\n")]
    for source in ("data/t", "data/t/*", "data/**/*.txt*"):
        assert list(read_records(source, "train", BadRows("error"), texts=True)) == expected
        with pytest.raises(UserError, match=r"expected a .jsonl, .json or .parquet file"):
            rows(source)
    assert len(rows("data")) == len(NAMES)


@pytest.mark.parametrize("source", ["data", "data/*"])
def test_rows_and_plain_texts_together_are_refused(folder, source):
    (folder / "notes.txt").write_text("read me")
    (folder / "x.md").unlink()
    with pytest.raises(UserError) as caught:
        list(read_records(source, "train", BadRows("error"), texts=True))
    first = "data/a/b/d.jsonl.gz" if source == "data" else "data/b.jsonl"
    assert str(caught.value) == (
        f"corpus: expected files of rows or of plain text in {source!r}, got {first!r} and 'data/notes.txt'; "
        "a pattern such as '*.jsonl' names one kind"
    )


def test_links_in_a_circle_end(folder):
    os.symlink(folder, folder / "again")
    os.symlink("nowhere.jsonl", folder / "broken.jsonl")
    assert len(files_of("data", "corpus")) == len(NAMES)


@pytest.mark.parametrize("name", ["n" * 5000 + ".jsonl", "n\0.jsonl"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(UserError, match="corpus: no such file"):
        rows(name)


@pytest.mark.parametrize(
    ("source", "refusal"),
    [
        ("data/*.csv", "corpus: expected a .jsonl, .json or .parquet file in 'data/*.csv', found none"),
        ("empty", "corpus: expected a .jsonl, .json or .parquet file in 'empty', found none"),
        ("data/*.md", "corpus: expected a .jsonl, .json or .parquet file, got 'data/x.md', which 'data/*.md' matches"),
    ],
)
def test_what_has_no_files_of_records_is_refused(folder, source, refusal):
    (folder.parent / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        rows(source)
    assert str(caught.value) == refusal


FLAGS = ("--prompts", "--task.test")
SOURCES = ["data", "data/*.jsonl", "data/*", "data/**/*.jsonl", "data/**", "data/a/*/*.jsonl", "./d*/?.jsonl", "link/*"]
OUTPUTS = ["data/f.jsonl", "data/a/f.jsonl", "data/a/b/f.jsonl", "data/.f.jsonl", "data/.git/f.jsonl", "f.jsonl"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("output", [*OUTPUTS, "data/f.md", "link/f.jsonl", "data/f.held_out.jsonl"])
def test_a_file_is_refused_where_the_source_would_have_it(tmp_path, monkeypatch, source, output):
    monkeypatch.chdir(tmp_path)
    for name in ("data/a/b", "data/.git"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("data")
    for name in ("data/p.jsonl", "data/a/b/p.jsonl"):
        (tmp_path / name).write_text("{}")

    def is_refused(**arguments):
        try:
            require_outside({"output": output}, task_flag="--task", **arguments)
        except UserError as error:
            return str(error)
        return None

    refusals = [
        is_refused(inputs={"--prompts": source}, task_options=None),
        is_refused(inputs={"--prompts": None}, task_options={"test": source, "difficulty": "data"}),
    ]
    (tmp_path / output).write_text("{}")
    try:
        is_read = (tmp_path / output).resolve() in [path.resolve() for path in files_of(source, "prompts")]
    except UserError as error:
        is_read = f"{Path(output).name}'" in str(error)
    of = [f"output: expected a file that {name} {source!r} does not read too, got {output!r}" for name in FLAGS]
    assert refusals == (of if is_read else [None, None])
