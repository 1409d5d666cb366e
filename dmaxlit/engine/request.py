"""What the engine keeps on the host about each prompt: the block grid, the budgets and the end of the response."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from dmaxlit.errors import UserError

__all__ = ["DecodedSequence", "Request", "Stop", "make_requests"]

Stop: TypeAlias = Callable[[list[int]], int | None]


@dataclass(frozen=True)
class DecodedSequence:
    """The response to one prompt.

    Args:
        token_ids: Up to and including EOS, or up to the budget.
        num_forwards: Forwards the row took part in. Prefill and commit ride in them and add none.
        finished: The response ends with EOS or a stop string.
        hit_step_limit: Blocks that were closed before they had converged, at the decoder's ``max_steps`` or at the budget of
            forwards; what was undecided there took its top-1 token.
        num_extra_blocks: Blocks read beside the row's own, all forwards together, by decoders that read several
            versions of a block in one forward. TPF does not see them; time does.
    """

    token_ids: list[int]
    num_forwards: int
    finished: bool
    hit_step_limit: int
    num_extra_blocks: int = field(default=0, kw_only=True)

    @property
    def num_tokens(self) -> int:
        """Length of the response, EOS included."""
        return len(self.token_ids)


class Request:
    """One prompt and its response so far.

    The block grid starts at position 0, so the first block that is decoded may begin with the end of the prompt.

    Args:
        index: Place among the prompts.
        prompt: Token ids.
        budget: Most tokens of the response, EOS included.
        block_length: Tokens per block.
    """

    def __init__(self, index: int, prompt: list[int], budget: int, block_length: int) -> None:
        self.index = index
        self.prompt_length = len(prompt)
        self.budget = budget
        self.block_length = block_length
        self.start = self.prompt_length // block_length * block_length
        self.tokens = prompt[: self.start]
        self.head = prompt[self.start :]
        self.cached = 0
        self.steps = 0
        self.num_forwards = 0
        self.num_extra_blocks = 0
        self.hit_step_limit = 0

    @property
    def length(self) -> int:
        """Positions the row needs at most: prompt and budget, rounded up to whole blocks."""
        return -(-(self.prompt_length + self.budget) // self.block_length) * self.block_length

    @property
    def pending(self) -> int:
        """Decided tokens before the current block whose keys and values are not cached yet; whole blocks."""
        return self.start - self.cached

    def commit(
        self, block: list[int], eos: int, last: bool = False, stop: Stop | None = None
    ) -> DecodedSequence | None:
        """Take the current block's tokens; return the response if that ends it, else open the next block.

        Args:
            block: All tokens of the block, the prompt's included.
            eos: The EOS token.
            last: End the response with this block in any case.
            stop: Says how many of the response's tokens to keep if it stops there, else None.
        """
        self.tokens += block
        end = min(self.prompt_length + self.budget, len(self.tokens))
        first = max(self.start, self.prompt_length)
        finished = eos in self.tokens[first:end]
        if finished:
            end = self.tokens.index(eos, first) + 1
        kept = None if stop is None else stop(self.tokens[self.prompt_length : end])
        if kept is not None:
            finished, end = True, self.prompt_length + kept
        if finished or last or end == self.prompt_length + self.budget:
            response = self.tokens[self.prompt_length : end]
            return DecodedSequence(
                response, self.num_forwards, finished, self.hit_step_limit, num_extra_blocks=self.num_extra_blocks
            )
        self.start += self.block_length
        self.head = []
        self.steps = 0
        return None


def make_requests(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, block_length: int, max_length: int, vocab_size: int
) -> list[Request]:
    """One row a prompt; the budget of tokens is cut to what the context has room for.

    Raises:
        UserError: If there are no prompts, or one leaves no room for a token or has an id outside the vocabulary.
    """
    if not prompts:
        raise UserError("prompts: expected at least one, got an empty list")
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")
    rows = []
    for index, prompt in enumerate(prompts):
        room = max_length - len(prompt)
        if room < 1:
            raise UserError(
                f"prompts[{index}]: expected at most {max_length - 1} tokens (the context holds {max_length}), "
                f"got {len(prompt)}"
            )
        if prompt and not 0 <= min(prompt) <= max(prompt) < vocab_size:
            raise UserError(
                f"prompts[{index}]: expected token ids from 0 to {vocab_size - 1}, got {min(prompt)} to {max(prompt)}"
            )
        rows.append(Request(index, list(prompt), min(max_new_tokens, room), block_length))
    return rows
