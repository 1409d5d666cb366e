"""Key/value caches for transformers models: one for training views, one for decoding.

Which keys a query attends to is decided by the attention mask alone, so the layers only store and return.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, CacheLayerMixin

from dmaxlit.backbone.torch_internals import mark_static_address
from dmaxlit.device_copies import on_device

__all__ = ["RowCache"]


class _Layer(CacheLayerMixin):
    """A cache layer whose sizes do not matter, because masks and positions are always explicit."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing; layers initialise themselves."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys and their offset."""
        return query_length + self.get_seq_length(), 0

    def get_seq_length(self) -> int:
        """Return the number of stored positions."""
        return 0 if self.keys is None else self.keys.shape[-2]

    def get_max_length(self) -> int:
        """Return -1: there is no maximum."""
        return -1


class _CleanLayer(_Layer):
    is_sliding = False

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store keys and values, with gradients, and return them. Recomputing the layer does not store again."""
        if not self.is_initialized:
            self.keys, self.values = key_states, value_states
            self.is_initialized = True
        return key_states, value_states


class _ViewLayer(_Layer):
    is_sliding = False

    def __init__(self, clean: _CleanLayer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.is_initialized = clean.keys, clean.values, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the stored keys and values followed by the new ones; store nothing."""
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


class CleanCache(Cache):
    """Stores the keys and values of the clean copy of a training batch, which is computed once.

    Neither it nor its :meth:`view_cache` changes when layers are recomputed in the backward pass.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_CleanLayer)

    def view_cache(self) -> Cache:
        """Return a cache from which views read the clean copy, and to which they write nothing."""
        return Cache(layers=[_ViewLayer(layer) for layer in self.layers])  # type: ignore[arg-type]


class Placement(NamedTuple):
    """What a forward writes to a :class:`RowCache` and reads from it.

    Args:
        row_slice: The rows that take part, the extra rows among them.
        targets: ``[n]`` index of each query token's slot among the slots of all rows.
        num_keys: Slots that can be attended to.
        extra_rows: ``[C]`` the row that each extra row copies; None without extra rows.
    """

    row_slice: slice
    targets: Tensor
    num_keys: int
    extra_rows: Tensor | None


class _Rows:
    """What a :class:`RowCache` tells its layers. They do not hold the cache: a cycle would outlive its last use."""

    def __init__(self, num_rows: int, length: int, static: bool, max_extra_rows: int) -> None:
        self.num_rows, self.length, self.static, self.max_extra_rows = num_rows, length, static, max_extra_rows
        self.placement: Placement


class _Views(NamedTuple):
    """Where a layer writes what a placement says, and what it reads.

    Args:
        placement: The placement.
        slots: ``[slots of all rows, heads, width]`` keys, and values.
        states: ``[rows that take part, heads, num_keys, width]`` keys, and values.
    """

    placement: Placement
    slots: tuple[Tensor, Tensor]
    states: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, placement: Placement, buffers: tuple[Tensor, Tensor]) -> "_Views":
        """Look into the buffers of keys and values."""
        by_token = (buffer.transpose(1, 2) for buffer in buffers)
        keys, values = (buffer.view(-1, *buffer.shape[2:]) for buffer in by_token)
        read_keys, read_values = (buffer[placement.row_slice, :, : placement.num_keys] for buffer in buffers)
        return cls(placement, (keys, values), (read_keys, read_values))


class _RowLayer(_Layer):
    is_sliding = False

    def __init__(self, rows: _Rows) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows = rows
        self._views: _Views | None = None  # of the last forward; most have the placement of the one before

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write each row's keys and values at its own slots; return the first ``num_keys`` slots of the rows."""
        placement, views = self._rows.placement, self._views
        if self.keys is None or self.values is None:
            self.keys, self.values = self._buffer(key_states), self._buffer(value_states)
            self.is_initialized = True
        if views is None or views.placement is not placement:
            views = _Views.of(placement, (self.keys, self.values))
            if not self._rows.static:  # a compiled forward would depend on what is kept
                assert self.keys.shape[-2] == self._rows.length, "the placement counts on it"
                self._views = views
        for slots, new in zip(views.slots, (key_states, value_states), strict=True):
            slots.index_copy_(0, placement.targets, new.transpose(1, 2).flatten(0, 1))
        if (extra_rows := placement.extra_rows) is not None:
            for buffer, rows in zip((self.keys, self.values), views.states, strict=True):
                rows[: len(extra_rows)] = buffer[extra_rows, :, : placement.num_keys]
        return views.states

    def _buffer(self, states: Tensor) -> Tensor:
        """Make a buffer for all rows, ``[rows, heads, slots, width]``; in memory, heads follow slots.

        In this order a token's keys are next to each other, as the model computes them, so that writing them is one
        copy each.
        """
        rows, (_, heads, _, width) = self._rows, states.shape
        buffer = states.new_zeros(rows.max_extra_rows + rows.num_rows, rows.length, heads, width).transpose(1, 2)
        if rows.static:
            mark_static_address(buffer)  # this tensor, for views do not inherit the mark
        return buffer

    def resize(self, length: int) -> None:
        """Add slots to each row, up to ``length``, or drop the last ones."""
        if self.keys is not None and self.values is not None:
            added = (0, 0, 0, 0, 0, length - self.keys.shape[-2])
            self.put(*(F.pad(buffer.transpose(1, 2), added).transpose(1, 2) for buffer in (self.keys, self.values)))

    def put(self, keys: Tensor | None, values: Tensor | None) -> None:
        """Use other buffers."""
        self.keys, self.values, self._views = keys, values, None

    def clear(self, row: int) -> None:
        """Set all slots of a row to 0."""
        for buffer in (self.keys, self.values):
            if buffer is not None:
                buffer[self._rows.max_extra_rows + row] = 0

    def copy_rows(self, target: Tensor, source: Tensor, num_slots: int) -> None:
        """Copy the first slots of rows ``source`` to rows ``target``."""
        first = self._rows.max_extra_rows
        for buffer in (self.keys, self.values):
            if buffer is not None:
                buffer[first + target, :, :num_slots] = buffer[first + source, :, :num_slots]


class RowCache(Cache):
    """Keys and values of sequences that decode together, each at its own positions.

    Before each forward, :meth:`prepare` chooses which rows take part and at which slots their tokens are written, or
    :attr:`placement` is set to what it has returned before. Rows of different lengths thus share a forward exactly: a
    slot is the token's position in its sequence, and the attention mask decides which slots count.

    A forward may process several blocks of a row, all but one as *extra rows*: batch rows in front of the others that
    hold a copy of the row's keys. What they write is written to the row itself, before any query reads it.

    Args:
        num_rows: Number of rows the buffer holds.
        length: Slots per row; add one as a scratch slot if padding queries must be written somewhere.
        num_layers: Layers of the model.
        static: Promise compiled forwards that the buffers stay at their address, so that writing to them can be part
            of a CUDA graph.
        max_extra_rows: Most extra rows in a forward.
    """

    def __init__(
        self, num_rows: int, length: int, num_layers: int, static: bool = False, max_extra_rows: int = 0
    ) -> None:
        self.num_rows, self.static, self.max_extra_rows = num_rows, static, max_extra_rows
        self._rows = _Rows(num_rows, length, static, max_extra_rows)
        self._row_layers = [_RowLayer(self._rows) for _ in range(num_layers)]
        super().__init__(layers=list(self._row_layers))

    @property
    def length(self) -> int:
        """Slots per row."""
        return self._rows.length

    @property
    def placement(self) -> Placement:
        """What the next forward writes and reads."""
        return self._rows.placement

    @placement.setter
    def placement(self, placement: Placement) -> None:
        self._rows.placement = placement

    @property
    def is_filled(self) -> bool:
        """Whether something has been written."""
        return all(layer.keys is not None for layer in self._row_layers)

    def prepare(self, row_slice: slice, slots: Tensor, num_keys: int, extra_rows: Tensor | None = None) -> Placement:
        """Choose what the next forward writes and reads; return that, for :attr:`placement` at a later forward.

        Args:
            row_slice: The R rows that take part: neighbours, so that the model reads them in place.
            slots: ``[R, Q]`` slot of each query token; with extra rows ``[C + R, Q]``, theirs first.
            num_keys: Slots that can be attended to; the model sees keys ``0 ... num_keys - 1``.
            extra_rows: ``[C]`` the row that each extra row belongs to, at most ``max_extra_rows``; then the first row
                must take part.
        """
        count = 0 if extra_rows is None else len(extra_rows)
        assert count <= self.max_extra_rows
        assert count == 0 or row_slice.start == 0, "extra rows come right before the first row"
        first = self.max_extra_rows
        rows = torch.arange(first + row_slice.start, first + row_slice.stop, device=slots.device)
        if extra_rows is not None:
            extra_rows = first + extra_rows
            rows = torch.cat([extra_rows, rows])
        targets = (rows.unsqueeze(1) * self.length + slots).flatten()
        taking_part = slice(first + row_slice.start - count, first + row_slice.stop)
        self.placement = Placement(taking_part, targets, num_keys, extra_rows)
        return self.placement

    def extend(self, length: int) -> None:
        """Add slots to each row; not for static buffers. After an error, for lack of memory, all is as before.

        Args:
            length: Slots per row from now on, at least as many as before.
        """
        assert not self.static, "the buffers stay at their address"
        first = self._row_layers[0]
        old = first.keys, first.values  # kept: in the place of the new ones, a shorter layer surely finds room again
        for index, layer in enumerate(self._row_layers):
            try:
                layer.resize(length)
            except BaseException:
                first.put(*old)
                for extended in self._row_layers[1:index]:
                    extended.resize(self.length)
                raise
        self._rows.length = length

    def clear(self, row: int) -> None:
        """Set all slots of a row to 0."""
        for layer in self._row_layers:
            layer.clear(row)

    def reorder(self, row_indices: Sequence[int], num_slots: int) -> None:
        """Keep the given rows, in this order; those that change their index are copied.

        Args:
            row_indices: Current index of each new row.
            num_slots: First slots of the rows to copy; the others are written again before they are read.
        """
        moves = [(target, source) for target, source in enumerate(row_indices) if target != source]
        if moves and self.is_filled:
            target, source = on_device(moves, self.placement.targets.device).unbind(1)
            for layer in self._row_layers:
                layer.copy_rows(target, source, num_slots)
