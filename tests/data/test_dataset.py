import logging

import pytest
import torch

from dmaxlit.backbone import TrainingForward
from dmaxlit.data.corpus_reader import Row
from dmaxlit.data.dataset import Collate, pack
from dmaxlit.data.encoding import encode_pair
from dmaxlit.errors import UserError
from dmaxlit.tasks import ChainTask
from dmaxlit.tasks.records import BadRows
from dmaxlit.tokens import CleanBatch, Role
from tests.conftest import make_denoiser

TOKENIZER = ChainTask.tokenizer()


def row(prompt, response, number=1) -> Row:
    return Row(" ".join(["3"] * prompt), " ".join(["so"] * response), f"f.jsonl, row {number}")


def packed(rows, block_length=4, max_length=16, eos_fill="block", policy="error"):
    return pack(rows, TOKENIZER, block_length, max_length, eos_fill, BadRows(policy))


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


@pytest.mark.parametrize("eos_fill", ["block", 1, 3])
def test_batches_are_pairs_padded_to_whole_blocks(eos_fill):
    rows = [row(1, 2), row(2, 7), row(5, 1)]
    pairs = packed(rows, eos_fill=eos_fill)
    batch = Collate(TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, 4)([pairs[2], pairs[0], pairs[1]])
    assert batch["index"].tolist() == [2, 0, 1]
    assert batch["ids"].shape == batch["roles"].shape == (3, 12)
    assert {value.dtype for value in batch.values()} == {torch.int64}
    for slot, number in enumerate(batch["index"].tolist()):
        expected = encode_pair(TOKENIZER, rows[number].prompt, rows[number].response, 4, eos_fill)
        rest = 12 - len(expected.ids)
        assert batch["ids"][slot].tolist() == expected.ids + [TOKENIZER.pad_token_id] * rest
        assert batch["roles"][slot].tolist() == expected.roles + [Role.PAD] * rest


def test_the_limit_counts_eos_fill_and_whole_blocks_only():
    assert len(packed([row(3, 12)], max_length=16)) == 1
    for prompt, response, max_length in [(3, 13, 16), (4, 12, 16), (3, 12, 15)]:
        with pytest.raises(UserError, match=r"f.jsonl, row 1: is too long \(\d+ tokens with EOS, at most \d+\)"):
            packed([row(prompt, response)], max_length=max_length)


def test_long_texts_are_encoded_in_several_goes(monkeypatch):
    rows = [row(1, 2), Row(None, "so " * 30, "f.txt"), row(2, 3), Row(None, "3", "g.txt")]
    together = packed(rows)
    monkeypatch.setattr("dmaxlit.data.dataset._CHUNK_CHARACTERS", 1)
    alone = packed(rows)
    assert alone.fingerprint() == together.fingerprint()
    assert alone.numbers.tolist() == together.numbers.tolist() == [0, 1, 1, 2, 3]


def test_a_length_between_blocks_is_rounded_down():
    assert len(packed([row(3, 8)], max_length=15, eos_fill=1)) == 1
    with pytest.raises(UserError, match=r"is too long \(13 tokens with EOS, at most 12\)"):
        packed([row(3, 9)], max_length=15, eos_fill=1)


def test_a_prompt_that_fills_the_length_is_told_apart():
    with pytest.raises(UserError, match=r"f.jsonl, row 7: has a prompt that fills the length \(16 tokens of 16\)"):
        packed([row(16, 1, 7)])


def test_bad_rows_are_skipped_reported_once_and_the_rest_renumbered(caplog):
    bad = BadRows("skip")
    rows = [row(16, 1), row(1, 1), row(3, 14), row(3, 15), row(2, 2)]
    with caplog.at_level(logging.INFO):
        pairs = pack(rows, TOKENIZER, 4, 16, "block", bad)
    assert caplog.messages == ["corpus: kept 2 rows, skipped 3: 1 has a prompt that fills the length, 2 is too long"]
    assert [pairs[i][1].tolist().count(TOKENIZER.convert_tokens_to_ids("3")) for i in range(len(pairs))] == [1, 2]
    assert bad.counts == {"has a prompt that fills the length": 1, "is too long": 2}


def test_nothing_is_reported_when_nothing_was_skipped(caplog):
    with caplog.at_level(logging.INFO):
        packed([row(1, 2)], policy="skip")
    assert caplog.messages == []


@pytest.mark.parametrize("rows", [[], [row(16, 1)]])
def test_no_usable_row_is_refused(rows):
    with pytest.raises(UserError, match="corpus: expected at least one usable row, found none"):
        packed(rows, policy="skip")


def test_a_length_below_one_block_is_refused():
    with pytest.raises(UserError, match="max_length: expected at least one block of 4, got 3"):
        packed([row(1, 1)], max_length=3)


def test_more_rows_than_one_tokenizer_call_takes(monkeypatch):
    monkeypatch.setattr("dmaxlit.data.dataset._CHUNK", 3)
    pairs = packed([row(1 + i % 3, 1) for i in range(8)])
    assert [pairs[i][2] for i in range(8)] == [1 + i % 3 for i in range(8)]


def test_a_fingerprint_tells_rows_and_their_order_apart():
    rows = [row(1, 2), row(2, 7), row(5, 1)]
    fingerprint = packed(rows).fingerprint()
    assert fingerprint == packed(list(rows)).fingerprint()
    assert fingerprint.startswith("3 rows, ")
    others = [rows[::-1], rows[:2], [row(1, 3), *rows[1:]], [row(2, 1), *rows[1:]]]
    assert len({fingerprint, *(packed(other).fingerprint() for other in others)}) == 5


def test_rows_left_out_leave_gaps_in_the_numbers():
    pairs = packed([row(1, 2), row(40, 1), row(2, 2)], policy="skip")
    assert pairs.numbers.tolist() == [0, 2]


@pytest.mark.parametrize("eos_fill", ["block", 1, 3])
@pytest.mark.parametrize("doubled", [False, True])
def test_masks_do_not_show_the_length_of_the_response(eos_fill, doubled):
    # Decoding begins with a whole block of masks: training must not learn the length from how many there are.
    denoiser = make_denoiser(block_length=16, sharpen=3.0)
    rows = [row(3, length) for length in range(1, 13 - 2 * (eos_fill == 3))]
    pairs = packed(rows, 16, 64, eos_fill)
    batch = Collate(TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, 16)([pairs[i] for i in range(len(rows))])
    clean = CleanBatch(batch["ids"], batch["roles"], 16, denoiser.special)
    ids = clean.with_masks(clean.response)
    hidden = TrainingForward(denoiser, clean, doubled=doubled)(ids)
    torch.testing.assert_close(hidden[:, 3:], hidden[:1, 3:].expand_as(hidden[:, 3:]))
    assert clean.in_loss.sum(1).unique().numel() == (1 if eos_fill == "block" else len(rows))


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


def test_a_row_that_the_chat_template_refuses_is_a_bad_row(picky, caplog):
    rows = [dialogue(1), dialogue(2, "system"), dialogue(3, response="four"), dialogue(4, response="so so")]
    for first, reason in (rows[1:], "TemplateError: no system turn"), (rows[2:], "ZeroDivisionError: division by zero"):
        with pytest.raises(UserError) as caught:
            pack(first, picky, 4, 16, "block", BadRows("error"))
        assert str(caught.value).startswith(f"{first[0].location}: cannot be encoded (")
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
    with caplog.at_level(logging.INFO):
        pairs = pack(rows, picky, 4, 16, "block", BadRows("skip"))
    assert caplog.messages == ["corpus: kept 2 rows, skipped 2: 2 cannot be encoded"]
    assert pairs.numbers.tolist() == [0, 3]
    alone = pack([rows[0], rows[3]], picky, 4, 16, "block", BadRows("error"))
    assert pairs.fingerprint() == alone.fingerprint()


def test_rows_are_judged_in_their_order(picky):
    rows = [dialogue(1), row(16, 1, 2), dialogue(3, "system")]
    with pytest.raises(UserError, match="row 2: has a prompt that fills the length"):
        pack(rows, picky, 4, 16, "block", BadRows("error"))


def test_what_the_tokenizer_cannot_take_is_a_bad_row():
    rows = [row(1, 1), Row("3 \ud83d", "so", "f.jsonl, row 2"), row(2, 1, 3)]
    with pytest.raises(UserError, match=r"f.jsonl, row 2: cannot be encoded \(TypeError: "):
        packed(rows)
    assert packed(rows, policy="skip").numbers.tolist() == [0, 2]


def test_no_row_that_can_be_encoded_is_refused(picky):
    with pytest.raises(UserError, match="corpus: expected at least one usable row, found none"):
        pack([dialogue(1, "system")], picky, 4, 16, "block", BadRows("skip"))
