"""Which requests share a forward, and in which order they are kept in the batch.

The row of a request is its index in the batch and in the cache.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby

from dmaxlit.engine.request import Request


def groups(requests: Sequence[Request], num_committed: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last row (exclusive) of each run of requests that share a forward, in order.

    Args:
        requests: All requests of the batch.
        num_committed: Requests with up to so many pending blocks share the forward of those without.
    """
    first = 0
    for _, members in groupby(requests, partial(_group, num_committed=num_committed)):
        last = first + sum(1 for _ in members)
        yield first, last
        first = last


def group_order(requests: Sequence[Request], remaining: Sequence[int], num_committed: int) -> list[int]:
    """Return an order in which requests that share a forward are neighbours.

    The cache is read in place where rows are neighbours; others would have to be copied at each forward. As few
    requests as possible change their row.

    Args:
        requests: All requests of the batch.
        remaining: Rows of those that stay in the batch.
        num_committed: As in :func:`groups`.

    Returns:
        The remaining rows in their new order.
    """
    group_of = {row: _group(requests[row], num_committed) for row in remaining}
    target_groups = sorted(group_of.values())
    unmoved = {row for row, group in enumerate(target_groups) if group_of.get(row) == group}
    moved: dict[int, deque[int]] = defaultdict(deque)
    for row in remaining:
        if row not in unmoved:
            moved[group_of[row]].append(row)
    return [row if row in unmoved else moved[group].popleft() for row, group in enumerate(target_groups)]


def _group(request: Request, num_committed: int) -> int:
    """Return a number for 0, 1, 2, 3-4, 5-8 ... pending blocks; one number for all up to ``num_committed``."""
    blocks = request.num_pending // request.block_length
    return (blocks - 1).bit_length() if blocks > num_committed else -1
