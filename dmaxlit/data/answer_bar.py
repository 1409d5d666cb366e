"""The progress bar of prompts that several processes answer: the main one reads what the others record."""

import time
from collections.abc import Mapping

from dmaxlit.bars import make_bar
from dmaxlit.data.parts import Parts
from dmaxlit.data.resumable_jsonl import Progress

_SECONDS = 1.0  # between two looks at the other parts


class AnswerBar:
    """Shows how many prompts all processes have answered, the tokens per second of this run, and the time left.

    Args:
        parts: The parts.
        before: What each of the other ranks had recorded before this run.
        total: Number of prompts.
        remaining: Prompts of these that are not answered yet.
        title: Title of the bar.
        is_shown: Whether there is a bar.
    """

    def __init__(
        self,
        parts: Parts,
        before: Mapping[int, Progress],
        total: int,
        remaining: int,
        title: str | None,
        is_shown: bool,
    ) -> None:
        self._parts, self._before, self._remaining = parts, before, remaining
        self._prompts = self._tokens = 0  # of this process
        self._other_prompts = self._other_tokens = 0
        self._shown = 0
        self._bar = make_bar(total=total, desc=title, unit="prompt", disable=not is_shown, initial=total - remaining)
        self._start = self._last_look = time.monotonic()

    def __enter__(self) -> "AnswerBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def is_full(self) -> bool:
        """Whether all prompts were answered at the last look."""
        return self._prompts + self._other_prompts >= self._remaining

    def count(self, num_tokens: int) -> None:
        """Count an answer of this process."""
        self._prompts += 1
        self._tokens += num_tokens
        self._show()

    def look(self) -> None:
        """Count what the other processes have recorded, unless the last look was just now."""
        if not self._before or time.monotonic() - self._last_look < _SECONDS:
            return
        self._last_look = time.monotonic()
        recorded = [(self._parts.recorded(rank), before) for rank, before in self._before.items()]
        self._other_prompts = sum(now.prompts - before.prompts for now, before in recorded)
        self._other_tokens = sum(now.tokens - before.tokens for now, before in recorded)
        self._show()

    def _show(self) -> None:
        seconds = max(time.monotonic() - self._start, 1e-9)
        self._bar.set_postfix_str(f"{(self._tokens + self._other_tokens) / seconds:,.0f} tokens/s", refresh=False)
        shown = self._prompts + self._other_prompts
        self._bar.update(shown - self._shown)
        self._shown = shown
