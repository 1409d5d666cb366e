"""Requests that share forwards. They enter and leave between two of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dmaxlit.device_copies import on_device
from dmaxlit.engine.block_forward import BlockForward
from dmaxlit.engine.block_rows import BlockRows
from dmaxlit.engine.events import ForwardEvent
from dmaxlit.engine.lane import Lane
from dmaxlit.engine.request import Request


class SharedBatch:
    """Requests of one or several lanes, whose open blocks go through the model together.

    A new request takes over the row of one that has left; its prompt is processed in its first forward.

    Args:
        forward: Runs the model; it bounds the number of requests.
    """

    def __init__(self, forward: BlockForward) -> None:
        self._forward = forward
        self._requests: list[Request] = []
        self._lane_of: dict[int, Lane] = {}
        self._vacant: set[int] = set()
        self._is_arranged = False
        self._lanes: list[Lane] = []
        self._rows: list[Tensor | None] = []

    @property
    def size(self) -> int:
        """Number of requests that are not done."""
        return len(self._requests) - len(self._vacant)

    def add(self, request: Request, lane: Lane) -> None:
        """Let a request take part from the next forward on.

        Args:
            request: The request; no other of the batch has its index.
            lane: How it is decoded.

        Raises:
            MemoryError: If there is no memory for a request of its length; the others can go on.
        """
        self._forward.reserve(request.length)
        if self._vacant:
            row = min(self._vacant)
            self._vacant.remove(row)
            self._requests[row] = request
        else:
            self._requests.append(request)
        self._lane_of[request.index] = lane
        self._is_arranged = False

    def discard(self, index: int) -> None:
        """Let the request of that index, if it is here, take part in no further forward."""
        if self._lane_of.pop(index, None) is not None:
            self._vacant.add(self._row_of(index))
            self._is_arranged = False

    def _row_of(self, index: int) -> int:
        return next(row for row, request in enumerate(self._requests) if request.index == index)

    def step(self) -> dict[Lane, ForwardEvent]:
        """Run one forward of all requests and one step of each lane's decoder; return the outcome of each lane."""
        if not self._is_arranged:
            self._arrange()
        hidden = self._forward(self._requests, _scatter([lane.inputs for lane in self._lanes], self._rows))
        events = {
            lane: lane.advance(hidden if row is None else hidden[row])
            for lane, row in zip(self._lanes, self._rows, strict=True)
        }
        self._is_arranged = not any(lane.has_moved for lane in self._lanes)
        for event in events.values():
            for index in event.failed:
                self._forward.clear(self._row_of(index))
            for index in (*event.finished, *event.failed):
                self.discard(index)
        return events

    def _arrange(self) -> None:
        """Decide on the rows of the requests and of their blocks, for all forwards in which nothing moves."""
        self._close_gaps()
        self._lanes = list(dict.fromkeys(self._lane_of[request.index] for request in self._requests))
        self._rows = self._rows_of([lane.arrange(self._requests_of(lane)) for lane in self._lanes])

    def _requests_of(self, lane: Lane) -> list[Request]:
        return [request for request in self._requests if self._lane_of[request.index] is lane]

    def _close_gaps(self) -> None:
        """Drop vacant rows, and make requests neighbours that will share a forward."""
        remaining = [row for row in range(len(self._requests)) if row not in self._vacant]
        order = self._forward.group_order(self._requests, remaining)
        if order != list(range(len(self._requests))):
            self._requests = [self._requests[row] for row in order]
            self._forward.reorder(self._requests, order)
        self._vacant.clear()

    def _rows_of(self, blocks: Sequence[BlockRows]) -> list[Tensor | None]:
        """Return the rows of the forward that hold the blocks of each lane; None for all."""
        if len(blocks) == 1:
            return [None]
        together = BlockRows(self._requests)
        device = self._forward.device  # lest each forward copies them there
        return [on_device([together.row_of(*block.key) for block in lane.rows], device) for lane in blocks]


def _scatter(inputs: Sequence[Tensor], rows: Sequence[Tensor | None]) -> Tensor:
    """Bring the inputs of the lanes into the order of the forward."""
    if len(inputs) == 1:
        return inputs[0]
    joined = torch.cat(list(inputs))
    order = torch.cat([row for row in rows if row is not None])
    return torch.empty_like(joined).index_copy_(0, order, joined)
