import sys

import pytest

from dmaxlit.data.corpus_reader import Row
from dmaxlit.data.encoding import encode_pair
from dmaxlit.data.row_encoding import _chunks
from dmaxlit.errors import UserError
from dmaxlit.tasks import ChainTask
from dmaxlit.tokens import Role
from tests.data.packed_rows import counted_rows, packed_rows

TOKENIZER = ChainTask.tokenizer()


def row(prompt, response, number=1) -> Row:
    return Row(" ".join(["3"] * prompt), " ".join(["so"] * response), f"f.jsonl, row {number}")


def packed(rows, **settings):
    return packed_rows(rows, TOKENIZER, **settings)


def numbers(pairs):
    return [pairs.number(index) for index in range(len(pairs))]


@pytest.mark.parametrize("eos_fill", ["block", 1, 3])
def test_rows_are_encoded_like_pairs(eos_fill):
    rows = [row(prompt, response) for prompt in (1, 3, 4) for response in (1, 3, 4, 5)]
    pairs = packed(rows, eos_fill=eos_fill)
    assert len(pairs) == len(rows)
    for number, source in enumerate(rows):
        expected = encode_pair(TOKENIZER, source.prompt, source.response, 4, eos_fill)
        index, ids, prompt_length = pairs[number]
        counted = [token for token, role in zip(expected.ids, expected.roles, strict=True) if role != Role.FILL]
        assert (index, ids.tolist(), prompt_length) == (number, counted, expected.roles.count(Role.PROMPT))


def test_the_limit_counts_eos_fill_and_whole_blocks_only():
    assert len(packed([row(3, 12)], max_length=16)) == 1
    for prompt, response, max_length in [(3, 13, 16), (4, 12, 16), (3, 12, 15)]:
        with pytest.raises(UserError, match=r"f.jsonl, row 1: is too long \(\d+ tokens with EOS, at most \d+\)"):
            packed([row(prompt, response)], max_length=max_length)


def test_long_texts_are_encoded_in_several_goes(monkeypatch):
    rows = [row(1, 2), Row(None, "so " * 30, "f.txt"), row(2, 3), Row(None, "3", "g.txt")]
    together = packed(rows)
    monkeypatch.setattr("dmaxlit.data.row_encoding._CHUNK_CHARACTERS", 1)
    alone = packed(rows)
    assert alone.fingerprint() == together.fingerprint()
    assert numbers(alone) == numbers(together) == [0, 1, 1, 2, 3]


def test_a_chunk_ends_after_so_many_characters_of_prompts_and_responses(monkeypatch):
    monkeypatch.setattr("dmaxlit.data.row_encoding._CHUNK_CHARACTERS", 100)
    chat = [{"role": "user", "content": "x" * 60}, {"role": "assistant", "content": "y" * 40}]
    rows = [Row("x" * 90, "y" * 10, "f.jsonl"), Row(chat, "", "f.jsonl"), Row(None, "y" * 60, "f.txt"), row(1, 1)]
    assert list(map(len, _chunks(rows))) == [1, 1, 2]


def test_a_length_between_blocks_is_rounded_down():
    assert len(packed([row(3, 8)], max_length=15, eos_fill=1)) == 1
    with pytest.raises(UserError, match=r"is too long \(13 tokens with EOS, at most 12\)"):
        packed([row(3, 9)], max_length=15, eos_fill=1)


def test_a_prompt_that_fills_the_length_is_told_apart():
    with pytest.raises(UserError, match=r"f.jsonl, row 7: has a prompt that fills the length \(16 tokens of 16\)"):
        packed([row(16, 1, 7)])


def test_bad_rows_are_skipped_and_counted_and_the_rest_renumbered():
    rows = [row(16, 1), row(1, 1), row(3, 14), row(3, 15), row(2, 2)]
    pairs, counts = counted_rows(rows, TOKENIZER, policy="skip")
    expected = "corpus: kept 2 rows, skipped 3: 1 has a prompt that fills the length, 2 is too long"
    assert counts.notes(16) == [expected]
    assert [pairs[i][1].tolist().count(TOKENIZER.convert_tokens_to_ids("3")) for i in range(len(pairs))] == [1, 2]
    assert counts.bad.counts == {"has a prompt that fills the length": 1, "is too long": 2}


def test_nothing_is_noted_when_nothing_was_skipped_or_cut():
    assert counted_rows([row(1, 2)], TOKENIZER, policy="skip")[1].notes(16) == []
    rows = [Row(None, "so " * 30, "f.txt"), row(1, 2)]
    assert counted_rows(rows, TOKENIZER)[1].notes(16) == ["corpus: 2 rows in 3 windows of at most 16 tokens"]


@pytest.mark.parametrize("rows", [[], [row(16, 1)]])
def test_rows_without_a_sequence_make_no_part(rows):
    pairs, counts = counted_rows(rows, TOKENIZER, policy="skip")
    assert (pairs.parts, counts.rows, counts.sequences) == ([], 0, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="starting processes takes seconds")
def test_several_processes_encode_as_one_does(picky, monkeypatch):
    monkeypatch.setattr("dmaxlit.data.row_encoding._CHUNK", 3)
    rows = [dialogue(n, "system" if n % 5 == 0 else "user", "so " * (n % 4 + 1)) for n in range(1, 20)]
    rows += [Row(None, "so " * 40, "f.txt"), dialogue(21)]
    alone, counts = counted_rows(rows, picky, policy="skip")
    together, theirs = counted_rows(rows, picky, policy="skip", num_proc=2)
    assert together.fingerprint() == alone.fingerprint()
    assert numbers(together) == numbers(alone)
    assert (theirs.rows, theirs.sequences, theirs.bad.counts) == (counts.rows, counts.sequences, counts.bad.counts)
    with pytest.raises(UserError, match=r"^f.jsonl, row 5: cannot be encoded \(.*TemplateError: no system turn\)+$"):
        counted_rows(rows, picky, num_proc=2)


def test_a_length_below_one_block_is_refused():
    with pytest.raises(UserError, match="max_length: expected at least one block of 4, got 3"):
        packed([row(1, 1)], max_length=3)


def test_more_rows_than_one_tokenizer_call_takes(monkeypatch):
    monkeypatch.setattr("dmaxlit.data.row_encoding._CHUNK", 3)
    pairs = packed([row(1 + i % 3, 1) for i in range(8)])
    assert [pairs[i][2] for i in range(8)] == [1 + i % 3 for i in range(8)]


def test_rows_left_out_leave_gaps_in_the_numbers():
    pairs = packed([row(1, 2), row(40, 1), row(2, 2)], policy="skip")
    assert numbers(pairs) == [0, 2]


NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no\nsystem turn') }}{% endif %}"
    "{% if messages[-1]['content'] == 'four' %}{{ 1 / 0 }}{% endif %}"
    "{% for m in messages %}{{ m['content'] }} {% endfor %}"
)


@pytest.fixture
def picky():
    """Return a tokenizer whose template refuses a system turn, and the response "four"."""
    tokenizer = ChainTask.tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    return tokenizer


def dialogue(number, role="user", response="so"):
    return Row([{"role": role, "content": "3"}], response, f"f.jsonl, row {number}")


def test_a_row_that_the_chat_template_refuses_is_a_bad_row(picky):
    rows = [dialogue(1), dialogue(2, "system"), dialogue(3, response="four"), dialogue(4, response="so so")]
    for first, reason in (rows[1:], "TemplateError: no system turn"), (rows[2:], "ZeroDivisionError: division by zero"):
        with pytest.raises(UserError) as caught:
            counted_rows(first, picky)
        assert str(caught.value).startswith(f"{first[0].location}: cannot be encoded (")
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
    pairs, counts = counted_rows(rows, picky, policy="skip")
    assert counts.notes(16) == ["corpus: kept 2 rows, skipped 2: 2 cannot be encoded"]
    assert numbers(pairs) == [0, 3]
    alone = counted_rows([rows[0], rows[3]], picky)[0]
    assert pairs.fingerprint() == alone.fingerprint()


def test_rows_are_judged_in_their_order(picky):
    rows = [dialogue(1), row(16, 1, 2), dialogue(3, "system")]
    with pytest.raises(UserError, match="row 2: has a prompt that fills the length"):
        counted_rows(rows, picky)


def test_what_the_tokenizer_cannot_take_is_a_bad_row():
    rows = [row(1, 1), Row("3 \ud83d", "so", "f.jsonl, row 2"), row(2, 1, 3)]
    with pytest.raises(UserError, match=r"f.jsonl, row 2: cannot be encoded \(TypeError: "):
        packed(rows)
    assert numbers(packed(rows, policy="skip")) == [0, 2]
