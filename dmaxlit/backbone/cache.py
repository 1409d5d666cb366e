"""Key/value caches for transformers models: one for training views, one for decoding.

Which keys a query attends to is decided by the attention mask alone, so the layers only store and return.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

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
        """Write each row's keys and values at its own slots; return the rows' buffers up to the width in use."""
        owner = self._owner
        if self.keys is None or self.values is None:
            shape = (owner.spare + owner.rows, key_states.shape[1], owner.length)
            self.keys = key_states.new_zeros(*shape, key_states.shape[-1])
            self.values = value_states.new_zeros(*shape, value_states.shape[-1])
            if owner.static:
                for buffer in (self.keys, self.values):
                    torch._dynamo.mark_static_address(buffer)
            self.is_initialized = True
        read = []
        for buffer, new in ((self.keys, key_states), (self.values, value_states)):
            rows, new = buffer[owner.selected], new.transpose(1, 2)
            if owner.twins is not None:  # copies of rows, so that another of their blocks is read beside them
                count = len(owner.twins)
                rows[:count, :, : owner.width] = buffer[owner.twins, :, : owner.width]
                buffer[owner.twins.unsqueeze(1), :, owner.slots[:count]] = new[:count]
            # Index [row, :, slot] puts the indexed axes first: [row, slot, head, dim].
            rows[owner.places, :, owner.slots] = new
            read.append(rows[:, :, : owner.width])
        return read[0], read[1]

    def arrange(self, to: Tensor, source: Tensor, width: int) -> None:
        """Copy rows ``source`` to the places ``to``, up to the slot ``width``."""
        spare = self._owner.spare
        for buffer in (self.keys, self.values):
            if buffer is not None:
                buffer[spare + to, :, :width] = buffer[spare + source, :, :width]


class RowCache(Cache):
    """Keys and values of decoding rows, each at its own positions.

    Before each forward, :meth:`select` says which rows take part and at which slots their tokens go. Rows of different
    length thus share a forward exactly: a slot is the token's position in its sequence, and validity is the mask's.

    A forward may read two blocks of a row side by side, the earlier one as a *twin*: it stands in front of the rows,
    in spare ones that hold copies, and what it writes the row itself gets too, before anyone reads.

    Args:
        rows: Number of rows the buffer holds.
        length: Slots per row; add one as a scratch slot if padding queries must be written somewhere.
        num_layers: Layers of the model.
        spare: Most twins in a forward.
        static: Promise compiled forwards that the buffers stay where they are, so that what writes to them can be a
            CUDA graph.
    """

    def __init__(self, rows: int, length: int, num_layers: int, static: bool = False, spare: int = 0) -> None:
        self.rows, self.length, self.static, self.spare = rows, length, static, spare
        self.width = length
        self._reached = 0
        self.selected: slice
        self.slots: Tensor
        self.places: Tensor
        self.twins: Tensor | None = None
        self._row_layers = [_RowLayer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self._row_layers))

    @property
    def is_filled(self) -> bool:
        """Whether something has been written."""
        return all(layer.keys is not None for layer in self._row_layers)

    def select(self, rows: slice, slots: Tensor, width: int, twins: Tensor | None = None) -> None:
        """Choose what the next forward writes and reads.

        Args:
            rows: The R rows that take part: neighbours, so that the model reads them where they are.
            slots: ``[R, Q]`` slot of each query token; with twins ``[t + R, Q]``, theirs first.
            width: Slots that can be attended to; the model sees keys ``0 ... width - 1``.
            twins: ``[t]`` rows that have one, at most ``spare``; then the first row must take part.
        """
        count = 0 if twins is None else len(twins)
        assert count <= self.spare
        assert count == 0 or rows.start == 0, "twins stand right before the first row"
        self.selected = slice(self.spare + rows.start - count, self.spare + rows.stop)
        self.twins = None if twins is None else self.spare + twins
        self.places = torch.arange(slots.shape[0], device=slots.device).unsqueeze(1)
        self.slots, self.width = slots, width
        self._reached = max(self._reached, width)

    def arrange(self, rows: Sequence[int]) -> None:
        """Keep the given rows, in this order; what moves is copied.

        Args:
            rows: Row that each place is to hold.
        """
        moves = [(place, row) for place, row in enumerate(rows) if place != row]
        if moves and self.is_filled:
            to, source = torch.tensor(moves, device=self.slots.device).unbind(1)
            for layer in self._row_layers:
                layer.arrange(to, source, self._reached)
