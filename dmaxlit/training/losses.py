"""The objective of a view, summed over its positions, and the counts behind its diagnostics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dmaxlit.noise.base import Prediction, View
from dmaxlit.noise.objectives import Objective, ScoredPositions
from dmaxlit.tokens import CleanBatch
from dmaxlit.training.step_sums import means


@dataclass(frozen=True)
class ViewLoss:
    """Loss and counts of one view; fields are scalar tensors, and only ``total`` carries gradients.

    Predictions of the fill (:class:`~dmaxlit.tokens.Role`) are left out of all of them.

    Args:
        name: The view's name.
        total: Sum of the view's objectives over the supervised positions.
        cross_entropy: Unweighted cross-entropy to ``x_0``, summed.
        supervised: Number of supervised positions.
        model_filled: Supervised positions that hold a token the model predicted.
        model_filled_wrong: Of these, those that do not hold the clean token.
        wrong: Supervised positions that hold a token other than the mask and the clean one.
        corrected: Of these, those whose top-1 prediction is the clean token.
        right: Supervised positions that hold the clean token.
        corrupted: Of these, those whose top-1 prediction is another token.
        figures: Further sums and their numbers, by name, of :attr:`~dmaxlit.noise.View.figures`.
    """

    name: str
    total: Tensor
    cross_entropy: Tensor
    supervised: Tensor
    model_filled: Tensor
    model_filled_wrong: Tensor
    wrong: Tensor
    corrected: Tensor
    right: Tensor
    corrupted: Tensor
    figures: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def sums(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the sums behind the logged rates, each with the number of positions it is to be divided by."""
        return {
            f"loss_{self.name}": (self.cross_entropy, self.supervised),
            "rollout_error": (self.model_filled_wrong, self.model_filled),
            f"corrected_{self.name}": (self.corrected, self.wrong),
            f"corrupted_{self.name}": (self.corrupted, self.right),
            **self.figures,
        }


def rates(sums: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return the logged rates; those of no positions are left out.

    So is the rate of corruption where no token is wrong: there is nothing to correct, as in a masked view.

    Args:
        sums: Sums and numbers of :meth:`ViewLoss.sums`, added up over what the rates are to describe.
    """
    values = means(sums)
    return {
        name: value
        for name, value in values.items()
        if not name.startswith("corrupted_") or name.replace("corrupted_", "corrected_", 1) in values
    }


def view_loss(
    view: View,
    prediction: Prediction,
    clean: CleanBatch,
    check: Callable[[View, Tensor], Tensor] | None = None,
) -> ViewLoss:
    """Compute the sum of a view's objectives and the counts behind the diagnostics.

    Args:
        view: The corrupted view.
        prediction: The denoiser's prediction for it.
        clean: The clean batch.
        check: Returns what an objective of the view returned, or refuses it.
    """
    positions = prediction.positions
    index = positions.flatten().nonzero().squeeze(1)  # waits for a GPU once, not in each selection

    def take(values: Tensor) -> Tensor:
        return values.flatten()[index]

    target, inputs = take(clean.ids), take(view.ids)
    if isinstance(view.weight, Tensor):
        weight = take(view.weight)
    else:
        weight = torch.full_like(target, view.weight, dtype=torch.float32)
    in_loss = take(clean.in_loss)
    weight = torch.where(in_loss, weight, 0)
    nowhere = torch.zeros_like(target, dtype=torch.bool)
    is_masked = nowhere if view.is_masked is None else take(view.is_masked)
    objectives = view.objectives if check is None else [_checked(each, view, check) for each in view.objectives]
    scored: list[tuple[Tensor, Tensor]] = []  # cross-entropies and hits of each chunk

    def score(logits: Tensor, chunk: slice) -> Tensor:
        fields = (values[chunk] for values in (target, weight, in_loss, is_masked, index))
        at = ScoredPositions(logits.float(), *fields)
        first, *others = objectives
        total = first(at)
        for objective in others:
            total = total + objective(at)
        scored.append((at.cross_entropy.detach(), at.hit))
        return total

    total = prediction.sum(score)
    cross_entropy, hit = (torch.cat(tensors) for tensors in zip(*scored, strict=True))
    model_filled = nowhere if view.model_filled is None else take(view.model_filled) & in_loss
    has_token = ~is_masked & in_loss
    wrong, right = has_token & (inputs != target), has_token & (inputs == target)
    return ViewLoss(
        name=view.name,
        total=total,
        cross_entropy=torch.where(in_loss, cross_entropy, 0).sum(),
        supervised=in_loss.sum(),
        model_filled=model_filled.sum(),
        model_filled_wrong=(model_filled & wrong).sum(),
        wrong=wrong.sum(),
        corrected=(wrong & hit).sum(),
        right=right.sum(),
        corrupted=(right & ~hit).sum(),
        figures=view.figures,
    )


def _checked(objective: Objective, view: View, check: Callable[[View, Tensor], Tensor]) -> Objective:
    return lambda at: check(view, objective(at))
