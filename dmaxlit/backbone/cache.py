"""Key/value caches that transformers models write to: one for training views, one for decoding rows.

Both plug into ``past_key_values``. What a query may see is decided by the attention mask alone, so the layers only
store and return.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

__all__ = ["CleanCache", "RowCache"]


class _Layer(CacheLayerMixin):
    """What both layers share: they are never asked for sizes, because masks and positions are always explicit."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to set up."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys and their offset."""
        return query_length + self.get_seq_length(), 0

    def get_seq_length(self) -> int:
        """Number of stored positions."""
        return 0 if self.keys is None else self.keys.shape[-2]

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class _CleanLayer(_Layer):
    is_sliding = False

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store them, with gradients, and return them. A layer that is computed again changes nothing."""
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
        """What is stored and what is given, concatenated; nothing is stored."""
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


class CleanCache(Cache):
    """Takes the keys and values of the clean half of a training batch, which is computed once.

    Neither it nor what it shows to views changes when layers are computed again in the backward pass.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_CleanLayer)

    def shown(self) -> Cache:
        """What every view attends to, beside itself."""
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
            shape = (owner.rows, key_states.shape[1], owner.length)
            self.keys = key_states.new_zeros(*shape, key_states.shape[-1])
            self.values = value_states.new_zeros(*shape, value_states.shape[-1])
            if owner.static:
                for buffer in (self.keys, self.values):
                    torch._dynamo.mark_static_address(buffer)
            self.is_initialized = True
        keys, values = self.keys[owner.selected], self.values[owner.selected]
        # Index [row, :, slot] puts the indexed axes first: [row, slot, head, dim].
        row = torch.arange(keys.shape[0], device=keys.device).unsqueeze(1)
        keys[row, :, owner.slots] = key_states.transpose(1, 2)
        values[row, :, owner.slots] = value_states.transpose(1, 2)
        return keys[:, :, : owner.width], values[:, :, : owner.width]

    def arrange(self, to: Tensor, source: Tensor, width: int) -> None:
        """Copy rows ``source`` to the places ``to``, up to the slot ``width``."""
        for buffer in (self.keys, self.values):
            if buffer is not None:
                buffer[to, :, :width] = buffer[source, :, :width]


class RowCache(Cache):
    """Keys and values of decoding rows, each at its own positions.

    Before each forward, :meth:`select` says which rows take part and at which slots their tokens go. Rows of different
    length thus share a forward exactly: a slot is the token's position in its sequence, and validity is the mask's.

    Args:
        rows: Number of rows the buffer holds.
        length: Slots per row; add one as a scratch slot if padding queries must be written somewhere.
        num_layers: Layers of the model.
        static: Promise compiled forwards that the buffers stay where they are, so that what writes to them can be a
            CUDA graph.
    """

    def __init__(self, rows: int, length: int, num_layers: int, static: bool = False) -> None:
        self.rows, self.length, self.static = rows, length, static
        self.width = length
        self._reached = 0
        self.selected: slice
        self.slots: Tensor
        self._row_layers = [_RowLayer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self._row_layers))

    @property
    def is_filled(self) -> bool:
        """Whether something has been written."""
        return all(layer.keys is not None for layer in self._row_layers)

    def select(self, rows: slice, slots: Tensor, width: int) -> None:
        """Choose what the next forward writes and reads.

        Args:
            rows: The R rows that take part: neighbours, so that the model reads them where they are.
            slots: ``[R, Q]`` slot of each query token.
            width: Slots that can be attended to; the model sees keys ``0 ... width - 1``.
        """
        self.selected, self.slots, self.width = rows, slots, width
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
