"""A recording as a small piece of JSON.

Each token and forward has five bytes: three for the number of the token, one for the state and one for the confidence.
They are stored in five planes ``[F, n]``, each row as its difference (exclusive or) from the row before, because almost
everything stays from one forward to the next; then compressed (zlib) and written in base64.
"""

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dmaxlit.viewer.recording import Recording
from dmaxlit.viewer.visible import visible

_UNKNOWN = 255  # no confidence was computed yet; others are percents


def encode(recording: Recording, numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return the recording as values that JSON can hold.

    Args:
        recording: The recording.
        numbers: For each token id its number on the page, from 1; 0 is no token.
    """
    forwards, length = recording.ids.shape
    return {
        "prompt": visible(recording.prompt),
        "forwards": forwards,
        "length": length,
        "block": recording.block.tolist(),
        "forwardsPerBlock": recording.forwards_per_block,
        "figures": recording.figures(),
        "planes": base64.b64encode(zlib.compress(_planes(recording, numbers).tobytes(), 9)).decode("ascii"),
    }


def _planes(recording: Recording, numbers: Mapping[int, int]) -> np.ndarray:
    """Return ``[5, F, n]`` bytes."""
    ids, inverse = torch.unique(recording.ids, return_inverse=True)
    table = torch.tensor([0 if token < 0 else numbers[token] for token in ids.tolist()], dtype=torch.long)
    tokens = table[inverse]
    # Rounded down, so that only certainty is 100.
    percent = (100 * recording.last_confidence() + 1e-3).floor().nan_to_num(_UNKNOWN)
    cells = (
        torch.stack([tokens & 255, tokens >> 8 & 255, tokens >> 16, recording.state, percent]).to(torch.uint8).numpy()
    )
    difference: np.ndarray = cells.copy()
    difference[:, 1:] ^= cells[:, :-1]
    return difference
