"""The viewer's picture of a trace as a figure for TensorBoard: the heat map, and the answer below it."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Patch

from dmaxlit.engine import TokenState, Trace
from dmaxlit.viewer import Recording
from dmaxlit.viewer.visible import visible

_COLOURS = {
    TokenState.MASKED: (0.69, 0.72, 0.76),
    TokenState.SOFT: (0.98, 0.66, 0.12),
    TokenState.TOKEN: (0.13, 0.58, 0.93),
    TokenState.COMMITTED: (0.22, 0.67, 0.42),
}
_REVISED = (0.76, 0.09, 0.36)
_SETTLED = 0.22  # strength of tokens that were committed at an earlier forward
_FONT = "DejaVu Sans Mono"
_WIDTH, _MOST_LINES = 110, 8  # characters of a line, lines of an answer


def trace_figure(trace: Trace, answers: Sequence[str]) -> Figure:
    """Draw, for each prompt, positions from left to right and forwards from top to bottom, and the answer below.

    Hue is the state, strength the confidence; a cell in which one token replaced another is red.

    Args:
        trace: The record of at least one prompt, with the texts of its tokens.
        answers: Text of the answer to each, in the order of their indices.
    """
    panel = trace.panel()
    figure = Figure(figsize=(10, 3.4 * len(panel.recordings)), layout="constrained")
    axes = figure.subplots(len(panel.recordings), squeeze=False)[:, 0]
    for ax, recording, answer in zip(axes, panel.recordings.values(), answers, strict=True):
        _draw(ax, recording, answer)
    names = {state.name.lower(): colour for state, colour in _COLOURS.items()} | {"revised": _REVISED}
    handles = [Patch(color=colour, label=name) for name, colour in names.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize="small", frameon=False)
    return figure


def _draw(ax: Axes, recording: Recording, answer: str) -> None:
    forwards, tokens = recording.ids.shape
    if forwards and tokens:
        extent = (0.5, tokens + 0.5, forwards + 0.5, 0.5)
        ax.imshow(heat_map(recording), aspect="auto", interpolation="nearest", extent=extent)
    tpf = tokens / forwards if forwards else 0.0
    title = f"{recording.prompt}   {tokens} tokens, {forwards} forwards, TPF {tpf:.2f}"
    ax.set_title(_drawable(title.replace("\n", " ")[-_WIDTH:]), fontsize=8, family=_FONT, parse_math=False)
    lines = textwrap.wrap(_drawable(answer), _WIDTH)[:_MOST_LINES]
    ax.set_xlabel("\n".join(lines), fontsize=8, family=_FONT, parse_math=False, loc="left")
    ax.set_ylabel("forward", fontsize=8)
    ax.tick_params(labelsize=7)


def heat_map(recording: Recording) -> np.ndarray:
    """Return the colours of all cells, ``[F, n, 3]`` in [0, 1]."""
    ids, state = recording.ids.numpy(), recording.state.numpy()
    confidence = np.nan_to_num(recording.last_confidence().numpy())
    settled = np.zeros(state.shape, dtype=bool)
    settled[1:] = (state[1:] == TokenState.COMMITTED) & (state[:-1] == TokenState.COMMITTED)
    revised = np.zeros(state.shape, dtype=bool)
    revised[1:] = (ids[:-1] >= 0) & (ids[1:] != ids[:-1])
    strength = np.where(settled, _SETTLED, 0.25 + 0.75 * confidence)[..., None]
    table = np.ones((len(TokenState), 3))
    for value, colour in _COLOURS.items():
        table[value] = colour
    cells: np.ndarray = 1 - strength * (1 - table[state])
    cells[revised] = _REVISED
    return cells


def _drawable(text: str) -> str:
    """Return a text with a box for each character that the font lacks, which matplotlib would warn of."""
    known = get_font(findfont(_FONT)).get_charmap()
    return "".join(character if ord(character) in known else "□" for character in visible(text).replace("\n", " "))
