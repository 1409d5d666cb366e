"""Clean batches, and the views that a strategy yields for them."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dmaxlit.noise import LogitsPrediction, NoiseStrategy, Prediction, View, dialogue
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch, Role, SoftTokens, SpecialTokens
from dmaxlit.training.view_checks import ViewChecks

SPECIAL = SpecialTokens(mask_id=197, eos_id=198, pad_id=199, vocab_size=200)
NUM_LOGITS = SPECIAL.vocab_size + 8  # of a padded table, V
BLOCK_LENGTH = 8


@dataclass(frozen=True)
class Rows:
    """A clean batch, with what belongs to its rows wherever they are: streams of random numbers, and predictions.

    Args:
        clean: The batch.
        keys: Key of each row's random numbers, its number in the batch of :func:`make_rows`.
        num_rows: Number of rows of that batch.
        logits: ``[batch, length, V]`` of the model's predictions.
    """

    clean: CleanBatch
    keys: list[int]
    num_rows: int
    logits: Tensor

    def select(self, rows: list[int], length: int) -> "Rows":
        """Return some rows, cut off or padded to ``length``."""
        clean, pads = self.clean, (0, length - self.clean.ids.shape[1])
        ids = torch.nn.functional.pad(clean.ids[rows], pads, value=clean.special.pad_id)
        roles = torch.nn.functional.pad(clean.roles[rows], pads, value=Role.PAD)
        logits = torch.nn.functional.pad(self.logits[rows], (0, 0, *pads))
        keys = [self.keys[row] for row in rows]
        return Rows(replace(clean, ids=ids, roles=roles), keys, self.num_rows, logits)

    def generator(self, seed: int = 0) -> RowGenerator:
        """Return the rows' random numbers."""
        return RowGenerator(seed, list(self.keys), slots=self.keys, num_slots=self.num_rows)


def make_rows(prompts: tuple[int, ...] = (3, 10, 0, 8), responses: tuple[int, ...] = (13, 6, 20, 1)) -> Rows:
    """Return rows of random tokens. The prompts contain mask, EOS and pad tokens, which mean nothing there.

    The last block of the third row is filled with EOS, which is corrupted and predicted without a part in the loss.

    Args:
        prompts: Tokens of each prompt.
        responses: Tokens of each response.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    width = -(-max(lengths) // BLOCK_LENGTH) * BLOCK_LENGTH
    ids = torch.randint(0, SPECIAL.mask_id, (len(lengths), width), generator=generator)
    roles = torch.full_like(ids, Role.PAD)
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        roles[row, :length] = Role.RESPONSE
        roles[row, :prompt] = Role.PROMPT
        if row == 2:
            end = -(-length // BLOCK_LENGTH) * BLOCK_LENGTH
            ids[row, length:end], roles[row, length:end] = SPECIAL.eos_id, Role.FILL
        for column, token in enumerate((SPECIAL.mask_id, SPECIAL.pad_id, SPECIAL.eos_id)):
            ids[row, column : min(column + 1, prompt)] = token
    ids = torch.where(roles == Role.PAD, SPECIAL.pad_id, ids)
    logits = 3 * torch.randn(len(lengths), width, NUM_LOGITS, generator=generator)
    logits[..., SPECIAL.mask_id] = -torch.inf
    logits[..., SPECIAL.vocab_size :] = -torch.inf
    clean = CleanBatch(ids, roles, BLOCK_LENGTH, SPECIAL)
    return Rows(clean, list(range(len(lengths))), len(lengths), logits)


def views_of(
    strategy: NoiseStrategy,
    rows: Rows,
    generator: RowGenerator | None = None,
    require_grad: bool = False,
    in_chunks: bool = False,
) -> list[View]:
    """Return all views of a strategy; arguments as those of :func:`turns_of`."""
    return [view for view, _ in turns_of(strategy, rows, generator, require_grad, in_chunks)]


def turns_of(
    strategy: NoiseStrategy,
    rows: Rows,
    generator: RowGenerator | None = None,
    require_grad: bool = False,
    in_chunks: bool = False,
) -> list[tuple[View, Prediction]]:
    """Return all views of a strategy, each with its prediction.

    Args:
        strategy: The strategy.
        rows: The batch and the model's predictions.
        generator: Random numbers; default: those of seed 0.
        require_grad: Whether predictions have gradients, as in training.
        in_chunks: Whether predictions come in two chunks, as those of many positions do.

    Raises:
        UserError: If ``views`` is no generator, or yields something else than views of the right types and shapes.
    """
    checks = ViewChecks(strategy, enabled=False)

    def answer(view: Any) -> LogitsPrediction:
        checks.check_types(view, rows.clean)
        logits = rows.logits[view.supervised]
        logits.requires_grad_(require_grad and view.requires_grad)
        prediction = LogitsPrediction(logits, view.supervised)
        return InChunks(prediction, *sorted({-(-len(logits) // 3), len(logits)})) if in_chunks else prediction

    started = checks.begin(strategy.views(rows.clean, generator or rows.generator()), rows.clean)
    table = torch.randn(SPECIAL.vocab_size, 8, generator=torch.Generator().manual_seed(0))
    return list(dialogue(started, answer, lambda request: table[request.ids]))


class InChunks(LogitsPrediction):
    """A prediction that is computed in chunks of its positions.

    Args:
        prediction: The prediction.
        ends: End of each chunk, among the ``n`` positions.
    """

    def __init__(self, prediction: Prediction, *ends: int) -> None:
        super().__init__(prediction.logits, prediction.positions)
        self._chunks = [slice(start, end) for start, end in pairwise((0, *ends))]

    def map(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """Return what the function returns for all chunks."""
        parts = ((LogitsPrediction(self.logits[chunk], self.positions), chunk) for chunk in self._chunks)
        return torch.cat([part.map(function, *(value[chunk] for value in values)) for part, chunk in parts])

    def sum(self, score: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Return the sum of the scores of all chunks."""
        return torch.stack([score(self.logits[chunk], chunk) for chunk in self._chunks]).sum()


def rows_of(views: list[View], rows: list[int]) -> list[View]:
    """Return some rows of each view."""
    index, selected = torch.tensor(rows), []
    for view in views:
        changed: dict[str, Any] = {
            name: value[index] for name, value in vars(view).items() if isinstance(value, Tensor)
        }
        changed["objectives"] = tuple(_objective_rows(objective, index) for objective in view.objectives)
        if view.soft is not None:
            soft = view.soft
            changed["soft"] = SoftTokens(soft.ids[index], soft.weights[index], soft.where[index], soft.slerp)
        selected.append(replace(view, **changed))
    return selected


def difference(one: list[View], other: list[View]) -> str | None:
    """Return in what two lists of views differ, at positions that both have and where it matters; None if in nothing.

    Args:
        one: Views of some rows.
        other: Views of the same rows, whose batch may be shorter.
    """
    if len(one) != len(other):
        return f"{len(one)} and {len(other)} views"
    for first, second in zip(one, other, strict=True):
        length = min(first.ids.shape[1], second.ids.shape[1])
        one_parts, other_parts = _parts(first), _parts(second)
        for name in {**one_parts, **other_parts}:
            a, b = one_parts.get(name), other_parts.get(name)
            if not _is_same(a, b, length // BLOCK_LENGTH if name == "groups" else length, first.supervised[:, :length]):
                return f"{name} of view {first.name!r}"
    return None


def _parts(view: View) -> dict[str, Any]:
    """Return the fields of a view, and those of its objectives. Figures are sums over all rows."""
    parts: dict[str, Any] = {field.name: getattr(view, field.name) for field in fields(View)}
    del parts["figures"]
    for objective in parts.pop("objectives"):
        name = getattr(objective, "__name__", type(objective).__name__)
        parts[name] = name
        if is_dataclass(objective):
            parts |= {f"{name}.{field.name}": getattr(objective, field.name) for field in fields(objective)}
    return parts


def _objective_rows(objective: Any, index: Tensor) -> Any:
    """Return an objective for some rows; tensors of a dataclass have a row for each of the batch."""
    if not is_dataclass(objective) or isinstance(objective, type):
        return objective
    values = {field.name: getattr(objective, field.name) for field in fields(objective)}
    return replace(objective, **{name: value[index] for name, value in values.items() if isinstance(value, Tensor)})


def _is_same(a: Any, b: Any, length: int, supervised: Tensor) -> bool:
    if isinstance(a, SoftTokens) and isinstance(b, SoftTokens):
        where = a.where[:, :length]
        is_same = a.slerp == b.slerp and torch.equal(where, b.where[:, :length])
        return is_same and torch.allclose(_as_table(a, where), _as_table(b, where))
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and bool(a == b)
    a, b = a[:, :length], b[:, :length]
    return torch.allclose(a[supervised], b[supervised]) if a.is_floating_point() else torch.equal(a, b)


def _as_table(soft: SoftTokens, where: Tensor) -> Tensor:
    """Return the weight of every token in the mixtures at some positions, ``[n, vocab]``."""
    length = where.shape[1]
    ids, weights = soft.ids[:, :length][where], soft.weights[:, :length][where].float()
    return torch.zeros(len(ids), SPECIAL.vocab_size).scatter_add_(1, ids, weights)
