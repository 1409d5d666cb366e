"""Rows encoded as a corpus of them is."""

from dmaxlit.data.dataset import PackedPairs
from dmaxlit.data.row_encoding import EncodingCounts, RowEncoder, encoded_parts
from dmaxlit.tasks.records import BadRows


def counted_rows(rows, tokenizer, block_length=4, max_length=16, eos_fill="block", policy="error", num_proc=1):
    """Return the sequences of rows, and the counts."""
    counts = EncodingCounts(BadRows(policy))
    encoder = RowEncoder(tokenizer, block_length, max_length, eos_fill, policy)
    return PackedPairs(encoded_parts(rows, encoder, counts, num_proc)), counts


def packed_rows(rows, tokenizer, block_length=4, max_length=16, eos_fill="block", policy="error"):
    """Return the sequences of rows."""
    return counted_rows(rows, tokenizer, block_length, max_length, eos_fill, policy)[0]
