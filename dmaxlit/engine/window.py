"""The open blocks of each request: which are dropped, which begin anew, and which are added."""

from collections.abc import Mapping, Sequence
from typing import Any

from dmaxlit.decoding.admission import AdmissionPolicy
from dmaxlit.decoding.base import Decoder
from dmaxlit.engine.block_rows import BlockRows
from dmaxlit.engine.outcome import Outcome
from dmaxlit.engine.request import Request
from dmaxlit.errors import UserError, check_at_least


def check_window(window: int, decoder: Decoder) -> None:
    """Refuse a number of open blocks that is below 1, or above it for a decoder with extra blocks.

    Raises:
        UserError: If so.
    """
    check_at_least(1, window=window)
    if window > 1 and decoder.extra_blocks:
        raise UserError(
            f"window: expected 1 for decoder {type(decoder).__name__}, which reads several versions of a block in one "
            f"forward, got {window}"
        )


def check_policy(window: int, admission: str | AdmissionPolicy, options: Mapping[str, Any]) -> None:
    """Refuse a policy, or options of one, that a window of one block would not ask.

    Raises:
        UserError: If so.
    """
    if window == 1 and (admission != "progress" or options):
        raise UserError("admission: expected a window of at least 2 for a policy or its options, got window 1")


def resize_windows(
    batch: Sequence[Request],
    blocks: BlockRows,
    outcome: Outcome,
    window: int,
    eos_ids: frozenset[int],
    keeps_closed: bool = False,
) -> list[int]:
    """Drop the blocks behind an EOS, and add a block to the windows that admit one.

    Args:
        batch: The requests, after blocks have been closed.
        blocks: The blocks of the forward.
        outcome: What the forward has come to.
        window: Most open blocks of a request.
        eos_ids: The ids that end a response.
        keeps_closed: Whether blocks that were closed in this forward count as open.

    Returns:
        The rows of blocks behind a revision, which begin anew.
    """
    restarted: list[int] = []
    for request in batch:
        if any(outcome.restarts[row] for row in _closed(request, blocks)):
            restarted += _open(request, blocks, 0)
            continue
        for place, start in enumerate(request.open_starts):
            row = blocks.find(request.index, start)
            if row is None:  # the front block has just begun
                break
            response = outcome.tokens[row][len(request.prompt_tail) if place == 0 else 0 :]
            if not eos_ids.isdisjoint(response):
                request.drop_behind(place + 1)
                break
            is_last = place == request.num_open - 1
            if outcome.restarts[row] and not is_last:
                restarted += _open(request, blocks, place + 1)
                break
            held = request.num_open + (len(_closed(request, blocks)) if keeps_closed else 0)
            if is_last and outcome.admits[row] and request.has_room and held < window:
                request.open_next()
                break
    return restarted


def _closed(request: Request, blocks: BlockRows) -> list[int]:
    """Return the rows of the request's blocks that were closed in this forward."""
    rows, start = [], request.block_start - request.block_length
    while (row := blocks.find(request.index, start)) is not None:
        rows.append(row)
        start -= request.block_length
    return rows


def _open(request: Request, blocks: BlockRows, first: int) -> list[int]:
    """Return the rows of the request's open blocks from one place of the window on."""
    rows = (blocks.find(request.index, start) for start in request.open_starts[first:])
    return [row for row in rows if row is not None]
