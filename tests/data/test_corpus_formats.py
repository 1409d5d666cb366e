"""The formats of files: JSON, compressed and Parquet."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmaxlit.data.shards import shards_of
from dmaxlit.errors import UserError
from dmaxlit.tasks.records import BadRows
from tests.data.test_corpus_reader import GOOD, TURNS, compressed, read


@pytest.mark.parametrize("mark", ["", "\ufeff", " \n\n "])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_elements_of_a_json_array_are_rows(tmp_path, mark, indent):
    path = tmp_path / "a.json"
    odd = {"prompt": "línea\u2028uno", "response": "dos"}
    path.write_text(mark + json.dumps([GOOD, odd, {"messages": TURNS}], indent=indent, ensure_ascii=False), "utf-8")
    assert read(path) == [("p", "r"), (odd["prompt"], "dos"), (TURNS[:1], "a")]
    path.write_text(mark + json.dumps([GOOD, {"prompt": "p"}, GOOD], indent=indent), "utf-8")
    with pytest.raises(UserError, match=r"a.json, row 2: has wrong columns"):
        read(path)
    assert read(path, "skip") == [("p", "r")] * 2


def test_a_json_file_may_hold_one_row_a_line(write_rows):
    assert read(write_rows([GOOD, GOOD], "a.json")) == [("p", "r")] * 2


@pytest.mark.parametrize("content", [b"[", b"[{}", b"[" * 200_000, b'["caf\xe9"]', b"[1] [2]"])
@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_damaged_json_array_is_refused_whole(tmp_path, content, policy):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"^corpus: cannot read '.*a.json': expected a JSON array \(") as caught:
        read(tmp_path / "a.json", policy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "A.JSONL.GZ", "a.jsonl.zst", "a.json.zst", "A.JSONL.ZST"])
def test_compressed_files(tmp_path, name):
    path = tmp_path / name
    rows = [GOOD, {"prompt": ""}]
    path.write_bytes(compressed("\n".join(map(json.dumps, rows)).encode(), name))
    with pytest.raises(UserError, match=rf"{name}, row 2: has wrong columns"):
        read(path)
    assert read(path, "skip") == [("p", "r")]
    whole = path.read_bytes()
    # Without a checksum, which is an option of zstd, other bytes inside are another text.
    changed = [whole[:20] + b"damaged" + whole[27:]] if name.lower().endswith(".gz") else []
    for damaged in (b"not compressed", whole[:-12], *changed):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"^corpus: cannot read '.*{name}' \("):
            read(path, "skip")


def test_an_array_with_a_byte_order_mark_and_windows_line_ends_may_be_compressed(tmp_path):
    content = b"\xef\xbb\xbf" + json.dumps([GOOD, GOOD], indent=1).replace("\n", "\r\n").encode()
    for name in ("a.json.gz", "a.json.zst"):
        (tmp_path / name).write_bytes(compressed(content, name))
        assert read(tmp_path / name) == [("p", "r")] * 2


def test_several_frames_of_zstd_are_one_file(tmp_path):
    row = json.dumps(GOOD).encode() + b"\n"
    (tmp_path / "a.jsonl.zst").write_bytes(compressed(row, ".zst") + compressed(row, ".zst"))
    assert read(tmp_path / "a.jsonl.zst") == [("p", "r")] * 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("content", [".gz", ".zst"])
def test_a_file_that_is_compressed_in_another_way_than_its_name_says(tmp_path, name, content):
    (tmp_path / name).write_bytes(compressed(json.dumps(GOOD).encode(), content))
    if name.endswith(content):
        assert read(tmp_path / name) == [("p", "r")]
        return
    expected = f"^corpus: expected the name of '.*{name}' to end in '{content}', as its content is$"
    for policy in ("error", "skip"):
        with pytest.raises(UserError, match=expected):
            read(tmp_path / name, policy)


@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
def test_conversations_in_parquet_as_lists_of_objects_and_objects_of_lists(tmp_path, keys):
    texts = {keys[0]: ["user", "assistant"], keys[1]: ["u", "a"]}
    listed = [dict(zip(keys, turn, strict=True)) for turn in zip(*texts.values(), strict=True)]
    column = "messages" if keys[0] == "role" else "conversations"
    for name, value in (("a", listed), ("b", texts)):
        pq.write_table(pa.table({"id": [1], column: [value]}), tmp_path / f"{name}.parquet")
        assert read(tmp_path / f"{name}.parquet") == [(TURNS[:1], "a")]


def test_messages_of_parts_in_parquet(tmp_path):
    part = {"type": "text", "text": "u", "image_url": None}
    image = {"type": "image_url", "text": None, "image_url": {"url": "x"}}
    for name, parts in (("a", [part]), ("b", [part, image])):
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{**part, "text": "a"}]}]
        pq.write_table(pa.table({"messages": [messages]}), tmp_path / f"{name}.parquet")
    assert read(tmp_path / "a.parquet") == [(TURNS[:1], "a")]
    with pytest.raises(UserError, match=r"row 1: has a message with a part that is not text \(got 'image_url'\)$"):
        read(tmp_path / "b.parquet")


def test_parquet_in_all_three_forms(tmp_path):
    from datasets import Dataset

    for name, rows, pairs in [
        ("a", [GOOD, GOOD], [("p", "r")] * 2),
        ("b", [{"question": "q", "answer": "a"}], [("q", "a")]),
        ("c", [{"messages": TURNS}], [(TURNS[:1], "a")]),
    ]:
        Dataset.from_list(rows).to_parquet(tmp_path / f"{name}.parquet")
        assert read(str(tmp_path / f"{name}.parquet")) == pairs


@pytest.mark.parametrize(
    ("name", "neighbour"), [("a[1]", "a1"), ("a*", "ab"), ("a?", "ab"), ("a[!b]", "ac"), ("[a]/b", "a/b")]
)
def test_a_parquet_file_whose_name_could_be_a_pattern_is_read_itself(tmp_path, name, neighbour):
    for stem, response in [(name, "mine"), (neighbour, "another's")]:
        path = tmp_path / f"{stem}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"prompt": ["p"], "response": [response]}), path)
    path = str(tmp_path / f"{name}.parquet")
    assert read(path) == [("p", "mine")]
    (shard,) = shards_of([path], "train")
    assert [record for _, record, _ in shard.records(BadRows("error"), {})] == [{"prompt": "p", "response": "mine"}]


def test_a_bad_parquet_row_is_refused_by_number(tmp_path):
    from datasets import Dataset

    Dataset.from_list([GOOD, {"prompt": "", "response": "r"}]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet, row 2: has an empty prompt"):
        read(str(tmp_path / "a.parquet"))


def test_a_damaged_parquet_file_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"no parquet at all")
    with pytest.raises(UserError, match=r"corpus: cannot read '.*a.parquet' after row 0: ") as caught:
        read(str(path))
    assert "\n" not in str(caught.value)
