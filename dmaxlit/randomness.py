"""Random numbers that depend on the row, not on the batch, worker or rank it is in."""

import hashlib
import os
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmaxlit.device_copies import on_device


def stable_seed(*parts: object) -> int:
    """Return a 63-bit seed from the parts' text, the same on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def run_seed() -> int:
    """Return the seed of this run: the last argument of Lightning's ``seed_everything``, or 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def generator_states(device: torch.device) -> dict[str, Any]:
    """Return the states of this process's global random generators as plain values: Python, NumPy, torch, CUDA.

    Corruption and rollout do not use these generators; dropout or a custom strategy may.

    Args:
        device: The device whose CUDA generator is included, if it is one.
    """
    name, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": [str(name), [int(key) for key in keys], *rest],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: dict[str, Any], device: torch.device) -> None:
    """Restore the states that :func:`generator_states` returned.

    Args:
        states: The states.
        device: The device whose CUDA generator is restored, if it is one.
    """
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def seed_generators(*parts: object) -> None:
    """Seed this process's global random generators from the parts' text: Python, NumPy, torch, CUDA."""
    seed = stable_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # CUDA's too


class RowGenerator:
    """One stream of random numbers per row of a batch.

    Row ``i`` is identified by its key, for instance (epoch, index in the data set). Its numbers depend on the seed, the
    key and the number of earlier draws only: not on the other rows, the padding, the loader's workers or the number of
    processes. Therefore resumed, padded and distributed runs draw the same corruption.

    Args:
        seed: Seed of the run.
        keys: One key per row.
        slots: Index of each row in the global batch, for stratified draws; default ``0 ... len(keys) - 1``.
        num_slots: Number of rows in the global batch; default ``len(keys)``.
        batch_key: Key shared by the whole global batch, for instance the step.
        device: Device of the drawn tensors. Numbers are always drawn on the CPU.
    """

    def __init__(
        self,
        seed: int,
        keys: list[object],
        slots: list[int] | None = None,
        num_slots: int | None = None,
        batch_key: object = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._seed = seed
        self._keys = keys
        self._slots = list(range(len(keys))) if slots is None else slots
        self._num_slots = len(keys) if num_slots is None else num_slots
        self._batch_key = batch_key
        self._device = torch.device(device)
        self._draws = 0
        self._generator = torch.Generator()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self._keys)

    def rand(self, length: int) -> Tensor:
        """Draw independent uniform numbers in [0, 1), ``[rows, length]``.

        Numbers do not depend on the length: a longer draw starts with those of a shorter one.
        """
        self._draws += 1
        out = torch.empty(self.rows, length, dtype=torch.float64)
        for row, key in enumerate(self._keys):
            self._generator.manual_seed(stable_seed(self._seed, "row", key, self._draws))
            out[row].uniform_(generator=self._generator)
        return self._below_one(out)

    def stratified(self, columns: int) -> Tensor:
        """Draw uniform numbers in [0, 1), ``[rows, columns]``, stratified in each column over the global batch.

        Row in slot ``i`` of ``n`` gets ``(u + i) / n`` shifted by an offset that the batch shares (mod 1), so every
        number alone is uniform while their mean over the batch has low variance.
        """
        # u of each row, then the offset of the batch.
        jitter = self.rand(columns).cpu().double()
        self._generator.manual_seed(stable_seed(self._seed, "batch", self._batch_key, self._draws))
        offset = torch.rand(columns, generator=self._generator, dtype=torch.float64)
        slot = torch.tensor(self._slots, dtype=torch.float64)[:, None]
        out = torch.remainder((jitter + slot) / self._num_slots + offset, 1.0)
        return self._below_one(out)

    def _below_one(self, uniform: Tensor) -> Tensor:
        return on_device(uniform.float().clamp_(max=1 - 2**-24), self._device)  # rounded up, some would be 1
