"""Which prompts each process answers, and in which order: so that all of them end together."""

from collections.abc import Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from dmaxlit.data.encoding import Prompt, encode_prompt
from dmaxlit.errors import PromptError, UserError


def prompt_shares(
    remaining: Sequence[int], lengths: Mapping[int, int], num_ranks: int, chunk_length: int
) -> Iterator[list[list[int]]]:
    """Yield the share of each rank in one chunk of prompts after the other.

    Within a chunk the longest prompts come first, dealt to the ranks there and back, so that shares differ little in
    number and length, and rows become free at the end of a chunk by short prompts, not by a long one.

    Args:
        remaining: Indices of the prompts to answer, in order.
        lengths: Tokens of each.
        num_ranks: Number of processes.
        chunk_length: Prompts of a chunk, of all ranks together.

    Returns:
        For each chunk, a list of indices for each rank, in the order in which it answers them.
    """
    for begin in range(0, len(remaining), chunk_length):
        chunk = sorted(remaining[begin : begin + chunk_length], key=lambda index: -lengths[index])
        shares: list[list[int]] = [[] for _ in range(num_ranks)]
        for number, index in enumerate(chunk):
            turn, rank = divmod(number, num_ranks)
            shares[num_ranks - 1 - rank if turn % 2 else rank].append(index)
        yield shares


def prompt_lengths(tokenizer: PreTrainedTokenizerBase, context: int, prompts: Sequence[Prompt]) -> list[int]:
    """Return the number of tokens of each prompt.

    Args:
        tokenizer: The model's tokenizer.
        context: Tokens of the model's context.
        prompts: The prompts.

    Raises:
        PromptError: For the first prompt that cannot be encoded, or leaves no room for a response.
    """
    lengths = []
    for index, prompt in enumerate(prompts):
        try:
            lengths.append(len(encode_prompt(tokenizer, prompt)))
        except UserError as error:
            raise PromptError(index, str(error)) from error
        if lengths[-1] >= context:
            reason = f"expected at most {context - 1} tokens (the context holds {context}), got {lengths[-1]}"
            raise PromptError(index, reason)
    return lengths
