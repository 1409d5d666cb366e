"""Key/value caches for transformers models: one for training views, one for decoding.

Which keys a query attends to is decided by the attention mask alone, so the layers only store and return.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, CacheLayerMixin

from dmaxlit.backbone.torch_internals import mark_static_address

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


class _RowLayer(_Layer):
    is_sliding = False

    def __init__(self, owner: "RowCache") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write each row's keys and values at its own slots; return the first ``num_keys`` slots of the rows."""
        owner = self._owner
        if self.keys is None or self.values is None:
            shape = (owner.max_extra_rows + owner.num_rows, key_states.shape[1], owner.length)
            self.keys = key_states.new_zeros(*shape, key_states.shape[-1])
            self.values = value_states.new_zeros(*shape, value_states.shape[-1])
            if owner.static:
                for buffer in (self.keys, self.values):
                    mark_static_address(buffer)
            self.is_initialized = True
        states = []
        for buffer, new in ((self.keys, key_states), (self.values, value_states)):
            rows, new = buffer[owner.row_slice], new.transpose(1, 2)
            # Index [row, :, slot] puts the indexed axes first: [row, slot, head, dim].
            buffer[owner.target_rows, :, owner.slots] = new
            if owner.extra_rows is not None:
                rows[: len(owner.extra_rows), :, : owner.num_keys] = buffer[owner.extra_rows, :, : owner.num_keys]
            states.append(rows[:, :, : owner.num_keys])
        return states[0], states[1]

    def extend(self, length: int) -> None:
        """Add slots to each row, up to ``length``."""
        if self.keys is not None and self.values is not None:
            added = (0, 0, 0, length - self.keys.shape[-2])
            self.keys, self.values = F.pad(self.keys, added), F.pad(self.values, added)

    def copy_rows(self, target: Tensor, source: Tensor, num_slots: int) -> None:
        """Copy the first slots of rows ``source`` to rows ``target``."""
        first = self._owner.max_extra_rows
        for buffer in (self.keys, self.values):
            if buffer is not None:
                buffer[first + target, :, :num_slots] = buffer[first + source, :, :num_slots]


class RowCache(Cache):
    """Keys and values of sequences that decode together, each at its own positions.

    Before each forward, :meth:`prepare` chooses which rows take part and at which slots their tokens are written. Rows
    of different lengths thus share a forward exactly: a slot is the token's position in its sequence, and the attention
    mask decides which slots count.

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
        self.num_rows, self.length, self.static, self.max_extra_rows = num_rows, length, static, max_extra_rows
        self.num_keys = length
        self._num_used_slots = 0
        self.row_slice: slice
        self.slots: Tensor
        self.target_rows: Tensor
        self.extra_rows: Tensor | None = None
        self._row_layers = [_RowLayer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self._row_layers))

    @property
    def is_filled(self) -> bool:
        """Whether something has been written."""
        return all(layer.keys is not None for layer in self._row_layers)

    def prepare(self, row_slice: slice, slots: Tensor, num_keys: int, extra_rows: Tensor | None = None) -> None:
        """Choose what the next forward writes and reads.

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
        self.row_slice = slice(first + row_slice.start - count, first + row_slice.stop)
        rows = torch.arange(first + row_slice.start, first + row_slice.stop, device=slots.device)
        self.extra_rows = None
        if extra_rows is not None:
            self.extra_rows = first + extra_rows
            rows = torch.cat([self.extra_rows, rows])
        self.target_rows = rows.unsqueeze(1)
        self.slots, self.num_keys = slots, num_keys
        self._num_used_slots = max(self._num_used_slots, num_keys)

    def extend(self, length: int) -> None:
        """Add slots to each row; not for static buffers.

        Args:
            length: Slots per row from now on, at least as many as before.
        """
        assert not self.static, "the buffers stay at their address"
        self.length = length
        for layer in self._row_layers:
            layer.extend(length)

    def reorder(self, row_indices: Sequence[int]) -> None:
        """Keep the given rows, in this order; those that change their index are copied.

        Args:
            row_indices: Current index of each new row.
        """
        moves = [(target, source) for target, source in enumerate(row_indices) if target != source]
        if moves and self.is_filled:
            target, source = torch.tensor(moves, device=self.slots.device).unbind(1)
            for layer in self._row_layers:
                layer.copy_rows(target, source, self._num_used_slots)
