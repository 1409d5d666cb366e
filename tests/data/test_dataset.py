import pytest
import torch

from dmaxlit.backbone import TrainingForward
from dmaxlit.data.corpus_reader import Row
from dmaxlit.data.dataset import Collate
from dmaxlit.data.encoding import encode_pair
from dmaxlit.tasks import ChainTask
from dmaxlit.tokens import CleanBatch, Role
from tests.conftest import make_denoiser
from tests.data.packed_rows import packed_rows

TOKENIZER = ChainTask.tokenizer()


def row(prompt, response, number=1) -> Row:
    return Row(" ".join(["3"] * prompt), " ".join(["so"] * response), f"f.jsonl, row {number}")


def packed(rows, block_length=4, max_length=16, eos_fill="block"):
    return packed_rows(rows, TOKENIZER, block_length, max_length, eos_fill)


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


def test_a_fingerprint_tells_rows_and_their_order_apart():
    rows = [row(1, 2), row(2, 7), row(5, 1)]
    fingerprint = packed(rows).fingerprint()
    assert fingerprint == packed(list(rows)).fingerprint()
    assert fingerprint.startswith("3 rows, ")
    others = [rows[::-1], rows[:2], [row(1, 3), *rows[1:]], [row(2, 1), *rows[1:]]]
    assert len({fingerprint, *(packed(other).fingerprint() for other in others)}) == 5


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
