"""Which rows share a forward, and in which order the rows of a batch stand."""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby

from dmaxlit.engine.request import Request

__all__ = ["arrange", "groups"]


def groups(rows: Sequence[Request], twins: bool) -> Iterator[tuple[int, int]]:
    """First and last place (exclusive) of each run of rows that share a forward, in order.

    Args:
        rows: All rows.
        twins: Whether rows with one pending block share the forward of those without.
    """
    first = 0
    for _, members in groupby(rows, partial(_group, twins=twins)):
        last = first + sum(1 for _ in members)
        yield first, last
        first = last


def arrange(rows: Sequence[Request], left: Sequence[int], twins: bool) -> list[int]:
    """Order in which rows that share a forward are neighbours.

    Neighbours are read from the cache where they are; others would have to be copied together at each forward. Rows
    keep their place where they can.

    Args:
        rows: All rows.
        left: Places of those that go on.
        twins: As in :func:`groups`.

    Returns:
        Their places in the new order.
    """
    group = {place: _group(rows[place], twins) for place in left}
    wanted = sorted(group.values())
    stays = {place for place, name in enumerate(wanted) if group.get(place) == name}
    movers: dict[int, deque[int]] = defaultdict(deque)
    for place in left:
        if place not in stays:
            movers[group[place]].append(place)
    return [place if place in stays else movers[name].popleft() for place, name in enumerate(wanted)]


def _group(row: Request, twins: bool) -> int:
    """Rows with 0, 1, 2, 3-4, 5-8 ... pending blocks form one group each, or those with 0 and 1 together."""
    blocks = row.pending // row.block_length
    return (blocks - 1).bit_length() if blocks > twins else -1
