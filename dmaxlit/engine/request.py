"""The engine's record of each prompt, on the host: block grid, budgets and the end of the response."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TypeAlias

from dmaxlit.errors import PromptError, describe_value

__all__ = ["DecodedSequence"]

StopRule: TypeAlias = Callable[[list[int]], int | None]


@dataclass(frozen=True)
class DecodedSequence:
    """The response to one prompt.

    Args:
        token_ids: Up to and including EOS, or up to the budget.
        num_forwards: Forwards the prompt took part in. Prefill and commit are part of these and add none.
        finished: The response ends with EOS or a stop string.
        hit_step_limit: Blocks that were closed before they had converged, at the decoder's ``max_steps`` or at the
            limit of forwards; tokens undecided by then are the most probable ones.
        num_extra_blocks: Blocks processed next to the prompt's front block, over all forwards: the others of its
            window, and further versions of a block, which some decoders read. TPF does not count them; time does.
        stopped: The response ends with a stop string, and not with EOS.
    """

    token_ids: list[int]
    num_forwards: int
    finished: bool
    hit_step_limit: int
    num_extra_blocks: int = field(default=0, kw_only=True)
    stopped: bool = field(default=False, kw_only=True)

    @property
    def num_tokens(self) -> int:
        """Length of the response, EOS included."""
        return len(self.token_ids)

    @property
    def ends_with_eos(self) -> bool:
        """Whether the last of the tokens is EOS."""
        return self.finished and not self.stopped

    @property
    def tpf(self) -> float:
        """Tokens per forward: all tokens, EOS included, over the forwards the prompt took part in."""
        return self.num_tokens / max(self.num_forwards, 1)


class Request:
    """One prompt and its response so far. Only the methods below change it.

    The block grid starts at position 0, so the first block that is decoded may begin with the end of the prompt.

    Args:
        index: Index among the prompts.
        prompt: Token ids, as :func:`check_prompt` returns them.
        max_new_tokens: Most tokens of the response, EOS included.
        block_length: Tokens per block.
        max_forwards: Most forwards; None for no limit.
        stop: Returns how many of the response's tokens to keep if it stops there, else None; of this request alone, and
            called with the tokens so far.

    Attributes:
        block_start: Position at which the current block begins, the front block of the window.
        tokens: Tokens before the current block.
        prompt_tail: Prompt tokens inside the current block.
        num_open: Blocks of the window, the current one included.
        num_cached: Positions whose keys and values are cached.
        num_steps: Forwards spent on the current block since it is the front block.
        num_forwards: Forwards spent on all blocks.
    """

    def __init__(
        self,
        index: int,
        prompt: list[int],
        max_new_tokens: int,
        block_length: int,
        max_forwards: int | None = None,
        stop: StopRule | None = None,
    ) -> None:
        self.index = index
        self.prompt_length = len(prompt)
        self.max_new_tokens = max_new_tokens
        self.block_length = block_length
        self.block_start = self.prompt_length // block_length * block_length
        self.tokens = prompt[: self.block_start]
        self.prompt_tail = prompt[self.block_start :]
        self.num_open = 1
        self.num_cached = 0
        self.num_steps = 0
        self.num_forwards = 0
        self._max_forwards, self._stop = max_forwards, stop
        self._num_extra_blocks = 0
        self._hit_step_limit = 0

    @property
    def length(self) -> int:
        """Most positions of prompt and response, rounded up to whole blocks."""
        return -(-(self.prompt_length + self.max_new_tokens) // self.block_length) * self.block_length

    @property
    def open_starts(self) -> list[int]:
        """Position at which each block of the window begins, the front block first."""
        return list(range(self.block_start, self.open_end, self.block_length))

    @property
    def open_end(self) -> int:
        """Position behind the last block of the window."""
        return self.block_start + self.num_open * self.block_length

    @property
    def has_room(self) -> bool:
        """Whether the budget reaches beyond the window."""
        return self.open_end < self.length

    @property
    def is_last_forward(self) -> bool:
        """Whether the limit of forwards is reached."""
        return self.num_forwards == self._max_forwards

    def open_next(self) -> None:
        """Add a block to the window."""
        self.num_open += 1

    def drop_behind(self, num_open: int) -> None:
        """Keep the first ``num_open`` blocks of the window."""
        self.num_open = num_open

    @property
    def num_pending(self) -> int:
        """Tokens before the current block whose keys and values are not cached yet; whole blocks."""
        return self.block_start - self.num_cached

    @property
    def pending_tokens(self) -> list[int]:
        """The tokens that :attr:`num_pending` counts."""
        return self.tokens[self.num_cached : self.block_start]

    def mark_cached(self) -> None:
        """Note that the keys and values of everything before the current block are cached."""
        self.num_cached = self.block_start

    def count_forward(self, extra_blocks: int = 0) -> None:
        """Count a forward of the window.

        Args:
            extra_blocks: Further versions of the current block in that forward.
        """
        self.num_steps += 1
        self.num_forwards += 1
        self._num_extra_blocks += extra_blocks + self.num_open - 1

    def close(
        self, block: list[int], converged: bool, eos_ids: Collection[int], closes_next: bool = False
    ) -> DecodedSequence | None:
        """Append the current block; return the response if that ends it, else go on with the next block.

        That is the next one of the window, or a new one. At the limit of forwards, the last block that is closed ends
        the response.

        Args:
            block: All tokens of the block, those of the prompt included.
            converged: False if the block ran into a limit of steps or forwards.
            eos_ids: The tokens that end a response.
            closes_next: Whether the next block of the window is closed in the same forward.
        """
        self.tokens += block
        self._hit_step_limit += not converged

        limit = self.prompt_length + self.max_new_tokens
        end = min(limit, len(self.tokens))
        first = max(self.block_start, self.prompt_length)
        eos = next((position for position in range(first, end) if self.tokens[position] in eos_ids), None)
        finished = eos is not None
        if eos is not None:
            end = eos + 1
        num_until_stop = None if self._stop is None else self._stop(self.tokens[self.prompt_length : end])
        stopped = False
        if num_until_stop is not None:
            # A stop string that EOS completes changes nothing: the response ends with EOS.
            stopped = not finished or self.prompt_length + num_until_stop < end
            finished, end = True, self.prompt_length + num_until_stop

        if finished or end == limit or (self.is_last_forward and not closes_next):
            return DecodedSequence(
                self.tokens[self.prompt_length : end],
                self.num_forwards,
                finished,
                self._hit_step_limit,
                num_extra_blocks=self._num_extra_blocks,
                stopped=stopped,
            )
        self.block_start += self.block_length
        self.num_open = max(self.num_open - 1, 1)
        self.prompt_tail = []
        self.num_steps = 0
        return None


def check_prompt(index: int, prompt: Sequence[int], max_length: int, vocab_size: int) -> list[int]:
    """Return a prompt as a list of integers.

    Args:
        index: Index of the prompt.
        prompt: Token ids: any sequence, tensor or array of integers.
        max_length: Most positions of prompt and response.
        vocab_size: Number of token ids.

    Raises:
        UserError: For a prompt that is no list of token ids, leaves no room for a token, or has an id outside the
            vocabulary.
    """
    ids = _token_ids(index, prompt)
    if len(ids) >= max_length:
        raise PromptError(
            index, f"expected at most {max_length - 1} tokens (the context holds {max_length}), got {len(ids)}"
        )
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise PromptError(index, f"expected token ids from 0 to {vocab_size - 1}, got {min(ids)} to {max(ids)}")
    return ids


def _token_ids(index: int, prompt: object) -> list[int]:
    """Return a prompt as a list of integers; it may be any sequence of them, a tensor or an array."""
    ids = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    if isinstance(ids, str | bytes) or not isinstance(ids, Sequence):
        raise PromptError(index, f"expected a list of token ids, got {describe_value(prompt)}")
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, Integral):
            raise PromptError(index, f"expected a list of token ids, got one that holds {describe_value(token)}")
    return [int(token) for token in ids]
