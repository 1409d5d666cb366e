"""Sudoku: the forward at which each blank became final, against its difficulty."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dmaxlit.evaluation.bootstrap import Estimate, bootstrap_mean, bootstrap_ratio
from dmaxlit.evaluation.order_figures import AnswerOrder
from dmaxlit.metrics import kendall_tau
from dmaxlit.tasks.sudoku_difficulty import blank_difficulties, board_at, grid_cells
from dmaxlit.tasks.sudoku_solver import Solver

#: The measures of difficulty, see :class:`~dmaxlit.tasks.sudoku_difficulty.BlankDifficulty`.
MEASURES = ("candidates", "rounds")


@dataclass(frozen=True)
class Blanks:
    """The b blanks of one answered puzzle.

    Args:
        finalized: ``[b]`` forward, from 1, at which each became final.
        difficulty: ``[b]`` values of each of :data:`MEASURES`.
        filled_right: ``[b]`` whether the value is that of the solution.
    """

    finalized: Tensor
    difficulty: dict[str, Tensor]
    filled_right: Tensor


@dataclass(frozen=True)
class DifficultyRow:
    """The blanks of one difficulty.

    Args:
        measure: One of :data:`MEASURES`.
        value: The difficulty.
        blanks: Number of blanks.
        rank: Mean rank among the blanks of its puzzle in the order of finalisation, from 1; ties have their mean rank.
        right: Share of blanks that were filled right.
    """

    measure: str
    value: int
    blanks: int
    rank: Estimate
    right: Estimate


@dataclass(frozen=True)
class BlankOrder:
    """Whether easier blanks were filled first.

    Args:
        puzzles: Answers that are complete grids.
        answers: All answers.
        correlation: For each of :data:`MEASURES`, Kendall's tau-b of difficulty and finalising forward within a puzzle,
            mean over puzzles; above 0 if easier blanks were filled first.
        rows: The blanks by difficulty.
    """

    puzzles: int
    answers: int
    correlation: dict[str, Estimate]
    rows: list[DifficultyRow]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rows = [{**vars(row), "rank": row.rank.to_dict(), "right": row.right.to_dict()} for row in self.rows]
        correlation = {measure: estimate.to_dict() for measure, estimate in self.correlation.items()}
        return {"puzzles": self.puzzles, "answers": self.answers, "correlation": correlation, "rows": rows}


def blank_order(
    orders: Sequence[AnswerOrder], side: int, tokenizer: PreTrainedTokenizerBase, resamples: int = 1000, seed: int = 0
) -> BlankOrder:
    """Return how finalisation and difficulty of blanks go together; answers that are no complete grid do not count.

    Args:
        orders: Answers to Sudoku puzzles, right or wrong.
        side: Number of rows of a puzzle: 4 or 9.
        tokenizer: The tokenizer that the answers were written with.
        resamples: Number of bootstrap samples of the intervals, over prompts.
        seed: Their seed.
    """
    found = [blanks_of(order, side, tokenizer) for order in orders]
    puzzles = [blanks for blanks in found if blanks is not None]
    correlation = {}
    for measure in MEASURES:
        taus = [kendall_tau(blanks.finalized, against=blanks.difficulty[measure]) for blanks in puzzles]
        correlation[measure] = bootstrap_mean(np.array(taus, dtype=float), resamples, seed)
    rows = [
        _row(puzzles, measure, value, resamples, seed)
        for measure in MEASURES
        for value in sorted({int(value) for blanks in puzzles for value in blanks.difficulty[measure]})
    ]
    return BlankOrder(len(puzzles), len(orders), correlation, rows)


def _row(puzzles: Sequence[Blanks], measure: str, value: int, resamples: int, seed: int) -> DifficultyRow:
    chosen = [blanks.difficulty[measure] == value for blanks in puzzles]
    counts = np.array([int(where.sum()) for where in chosen], dtype=float)
    pairs = list(zip(puzzles, chosen, strict=True))
    ranks = np.array([float(mean_ranks(blanks.finalized)[where].sum()) for blanks, where in pairs])
    right = np.array([float(blanks.filled_right[where].sum()) for blanks, where in pairs])
    return DifficultyRow(
        measure,
        value,
        int(counts.sum()),
        bootstrap_ratio(ranks, counts, resamples, seed),
        bootstrap_ratio(right, counts, resamples, seed),
    )


def blanks_of(order: AnswerOrder, side: int, tokenizer: PreTrainedTokenizerBase) -> Blanks | None:
    """Return the blanks of an answered puzzle; None if the prompt has no puzzle or the answer is no complete grid."""
    given, filled = grid_cells(order.prompt, side), grid_cells(order.text, side)
    if given is None or filled is None:
        return None
    puzzle, answer = board_at(order.prompt, given), board_at(order.text, filled)
    tokens = tokens_at(filled, order.token_ids, order.text, tokenizer)
    difficulty = blank_difficulties(puzzle)
    solutions = Solver(side).solutions(list(puzzle), 1)
    if 0 in answer or tokens is None or not difficulty or not solutions:
        return None
    cells = list(difficulty)
    return Blanks(
        order.finalized[torch.tensor([tokens[cell] for cell in cells])],
        {measure: torch.tensor([getattr(difficulty[cell], measure) for cell in cells]) for measure in MEASURES},
        torch.tensor([answer[cell] == solutions[0][cell] for cell in cells]),
    )


def tokens_at(
    characters: Sequence[int], token_ids: Sequence[int], text: str, tokenizer: PreTrainedTokenizerBase
) -> list[int] | None:
    """Return the number of the token that wrote each character; None if the tokens are not those of the text.

    Args:
        characters: Indices of characters of the text.
        token_ids: The answer's tokens, EOS included.
        text: The answer's text, without special tokens.
        tokenizer: Turns tokens into text.
    """
    lengths = []
    for end in range(1, len(token_ids) + 1):
        begin = str(tokenizer.decode(list(token_ids[:end]), skip_special_tokens=True))
        lengths.append(len(begin))
        if len(begin) > max(characters, default=-1):
            break
    else:
        return None
    if begin[: max(characters) + 1] != text[: max(characters) + 1]:
        return None
    return [next(token for token, length in enumerate(lengths) if length > index) for index in characters]


def mean_ranks(values: Tensor) -> Tensor:
    """Return the rank of each value, from 1; equal values have the mean of their ranks, ``[n]`` float."""
    below = (values.unsqueeze(0) < values.unsqueeze(1)).sum(1)
    equal = (values.unsqueeze(0) == values.unsqueeze(1)).sum(1)
    return below + (equal + 1) / 2
