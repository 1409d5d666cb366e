"""Validation and test prompts: their check before anything is trained or decoded, and their batches."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from dmaxlit.data.encoding import encode_prompt
from dmaxlit.data.example_batch import ExampleBatch
from dmaxlit.data.sampling import OrderedRowSampler
from dmaxlit.errors import UserError
from dmaxlit.tasks import Example, Split
from dmaxlit.tasks.records import BadRows, OnBadRow

_SHOWN = 40  # characters of a prompt in a message
_TITLES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}


def decodable_examples(
    examples: Sequence[Example],
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    on_bad_row: OnBadRow = "error",
) -> list[Example]:
    """Return the examples whose prompts the tokenizer encodes, with room for an answer in the model's context.

    Otherwise a bad prompt would end training at its first validation, and lose what was trained until then.

    Args:
        examples: The examples of a split.
        split: The split, for messages.
        tokenizer: The model's tokenizer.
        context: The model's context length, in tokens.
        on_bad_row: Refuse the first bad prompt (``error``), or leave out and count bad ones (``skip``).

    Raises:
        UserError: For a bad prompt under ``error``, by its number and beginning, or if all are bad.
    """
    bad, kept = BadRows(on_bad_row), []
    for number, example in enumerate(examples, start=1):
        location = f"{_TITLES[split]} prompt {number} ({_beginning(example.prompt)})"
        try:
            length = len(encode_prompt(tokenizer, example.prompt))
        except UserError as error:
            bad.add(location, "cannot be encoded", str(error))
            continue
        if length >= context:
            expected = f"expected at most {context - 1} tokens, as the context holds {context}, got {length}"
            bad.add(location, "is too long", expected)
            continue
        kept.append(example)
    if examples and not kept:
        raise UserError(f"data: expected at least one usable {_TITLES[split]} prompt, found none")
    if bad.counts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(bad.counts.items()))
        rank_zero_info(f"data: kept {len(kept)} {_TITLES[split]} prompts, skipped {bad.counts.total()}: {reasons}")
    return kept


def eval_loader(examples: Sequence[Example], batch_size: int, world_size: int, rank: int) -> DataLoader[Any]:
    """Return one rank's batches of ``examples`` with ``index`` ``[B]``, their numbers, in order.

    Args:
        examples: The examples of all ranks.
        batch_size: Examples in one rank's batch.
        world_size: Number of ranks.
        rank: This rank.
    """
    sampler = OrderedRowSampler(len(examples), batch_size, world_size, rank)
    numbered: Any = list(enumerate(examples))
    return DataLoader(numbered, batch_size=batch_size, sampler=sampler, collate_fn=_collate_examples)


def _collate_examples(items: list[tuple[int, Example]]) -> dict[str, Any]:
    index, examples = zip(*items, strict=True)
    return {"index": torch.tensor(index), "examples": ExampleBatch(examples)}


def _beginning(prompt: str) -> str:
    return repr(prompt if len(prompt) <= _SHOWN else f"{prompt[:_SHOWN]}...")
