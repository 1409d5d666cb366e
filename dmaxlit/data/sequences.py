"""Encoded rows as sequences: ended by EOS, and no longer than the model takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dmaxlit.data.corpus_reader import Row
from dmaxlit.data.encoding import EosFill, eos_count
from dmaxlit.tasks.records import BadRows

Sequenced = tuple[list[int], int]  # token ids, and how many of them are the prompt


@dataclass(frozen=True)
class SequenceMaker:
    """Makes the sequences of encoded rows: one of a pair, one or more of a plain text.

    Args:
        limit: Most tokens of a sequence, whole blocks.
        block_length: Length of the blocks of the grid.
        eos_fill: See :func:`~dmaxlit.data.encoding.encode_pair`; the EOS tokens end at the limit, the first fits.
        eos_id: Token id of EOS.
        bad: Receives the rows that have no sequence.
    """

    limit: int
    block_length: int
    eos_fill: EosFill
    eos_id: int
    bad: BadRows

    def sequences(self, row: Row, before: Sequence[int], learnt: Sequence[int]) -> Iterator[Sequenced]:
        """Yield the sequences of a row.

        Args:
            row: The row.
            before: Token ids of its prompt, or what stands before a plain text (BOS).
            learnt: Token ids of its response, or of the text.
        """
        if row.prompt is None:
            return self._windows(row, before, learnt)
        return self._pair(row, before, learnt)

    def _pair(self, row: Row, prompt: Sequence[int], response: Sequence[int]) -> Iterator[Sequenced]:
        if len(prompt) >= self.limit:
            self.bad.add(row.location, "has a prompt that fills the length", f"{len(prompt)} tokens of {self.limit}")
            return
        ids = [*prompt, *response]
        if len(ids) >= self.limit:
            self.bad.add(row.location, "is too long", f"{len(ids) + 1} tokens with EOS, at most {self.limit}")
            return
        yield self._ended(ids), len(prompt)

    def _windows(self, row: Row, before: Sequence[int], text: Sequence[int]) -> Iterator[Sequenced]:
        """Cut a text into windows of the longest length, one behind the other; the last is ended by EOS.

        A last window that the text fills has no EOS: alone in a window, EOS would be learnt as a text's beginning.
        """
        if not text:
            self.bad.add(row.location, "has an empty text")
            return
        ids = [*before, *text]
        for begin in range(0, len(ids), self.limit):
            yield self._ended(ids[begin : begin + self.limit]), 0 if begin else len(before)

    def _ended(self, ids: list[int]) -> list[int]:
        """Return token ids with the EOS behind them, as many as there is room for."""
        num_eos = eos_count(len(ids), self.block_length, self.eos_fill)
        return ids + [self.eos_id] * min(num_eos, self.limit - len(ids))
