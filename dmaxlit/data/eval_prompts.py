"""Validation and test prompts: their check before anything is trained or decoded, and their batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from dmaxlit.data.bound_model import BoundModel
from dmaxlit.data.encoding import encode_prompt
from dmaxlit.data.example_batch import ExampleBatch
from dmaxlit.data.sampling import OrderedRowSampler
from dmaxlit.errors import UserError
from dmaxlit.tasks import Example, Split, Task
from dmaxlit.tasks.base import first_examples
from dmaxlit.tasks.records import BadRows, OnBadRow

_SHOWN = 40  # characters of a prompt in a message
_STAGES: dict[Split, tuple[str | None, ...]] = {
    "val": ("fit", "validate", None),
    "test": ("test", "predict", None),
}
_DEFAULT_NUMBERS: dict[Split, int] = {"val": 128, "test": 1000}
_TITLES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}


class EvalPrompts:
    """The validation and test prompts of a task.

    Args:
        task: The task.
        numbers: Number of prompts of each split; None for the default, or all if there are fewer.
        batch_size: Prompts in one rank's batch.
        on_bad_row: What to do with prompts that cannot be used; see :func:`decodable_examples`.
    """

    def __init__(self, task: Task, numbers: Mapping[Split, int | None], batch_size: int, on_bad_row: OnBadRow) -> None:
        self._task, self._numbers, self._batch_size, self._on_bad_row = task, numbers, batch_size, on_bad_row
        self._examples: dict[Split, list[Example]] = {}

    def prepare(self, stage: str | None, model: BoundModel | None, world_size: int = 1) -> None:
        """Read the prompts of a stage of the trainer, and check them.

        Args:
            stage: The stage; None for all.
            model: The model that will answer them; None if there is none yet, and no check.
            world_size: Number of ranks that will answer them.

        Raises:
            UserError: For a bad prompt under ``on_bad_row="error"``, or if all are bad, if there are fewer than ranks,
                or if answers cannot be judged on this machine.
        """
        for split, stages in _STAGES.items():
            if stage in stages:
                number = self._numbers[split]
                examples = first_examples(self._task, split, number, _DEFAULT_NUMBERS[split], f"num_{split}")
                if examples:
                    self._task.record()
                if model is not None:
                    bounds = model.tokenizer, model.max_length
                    examples = decodable_examples(examples, split, *bounds, self._on_bad_row)
                if 0 < len(examples) < world_size:  # Lightning refuses a rank without a batch, and the others wait
                    each = f"at least one prompt for each of {world_size} ranks"
                    raise UserError(f"num_{split}: expected {each}, got {len(examples)}")
                self._examples[split] = examples

    def loaders(self, split: Split, rank: int, world_size: int) -> list[DataLoader[Any]]:
        """Return one rank's batches of a split, in a list; an empty one without prompts.

        Args:
            split: The split.
            rank: This rank.
            world_size: Number of ranks.
        """
        examples = self._examples.get(split)
        return [eval_loader(examples, self._batch_size, world_size, rank)] if examples else []


def decodable_examples(
    examples: Sequence[Example],
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    on_bad_row: OnBadRow = "error",
    allow_empty: bool = True,
) -> list[Example]:
    """Return the examples whose prompts the tokenizer encodes, with room for an answer in the model's context.

    Otherwise a bad prompt would end training at its first validation, and lose what was trained until then.

    Args:
        examples: The examples of a split.
        split: The split, for messages.
        tokenizer: The model's tokenizer.
        context: The model's context length, in tokens.
        on_bad_row: Refuse the first bad prompt (``error``), or leave out and count bad ones (``skip``).
        allow_empty: Whether a prompt may have no tokens, as an autoregressive model's may not.

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
        if length == 0 and not allow_empty:
            bad.add(location, "is empty", "expected at least one token, got none")
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
