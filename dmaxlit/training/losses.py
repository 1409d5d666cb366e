"""Cross-entropy of a view to the clean tokens, and what it tells about the view."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dmaxlit.noise.base import Prediction, View
from dmaxlit.tokens import CleanBatch

__all__ = ["ViewLoss", "entropies", "view_loss"]


@dataclass(frozen=True)
class ViewLoss:
    """Loss and counts of one view; every field is a scalar tensor, and only ``total`` carries gradients.

    Args:
        name: The view's name.
        total: Weighted cross-entropy, summed over the supervised positions, and the entropies ``view.entropy_weight`` weighs.
        cross_entropy: Unweighted cross-entropy, summed.
        supervised: Number of supervised positions.
        model_filled: Supervised positions that hold the model's own guess.
        model_filled_wrong: Of these, those whose guess is not the clean token.
        wrong: Supervised positions that hold a token, and a wrong one.
        corrected: Of these, those whose top-1 prediction is the clean token.
        right: Supervised positions that hold the clean token.
        corrupted: Of these, those whose top-1 prediction is another token.
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

    def diagnostics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Logged rates, each with the number of positions it is a mean over; rates of nothing are left out."""
        rates = {
            f"loss_{self.name}": (self.cross_entropy, self.supervised),
            "rollout_error": (self.model_filled_wrong, self.model_filled),
        }
        if self.wrong > 0:  # without wrong tokens there is nothing to correct, as in a masked view
            rates[f"corrected_{self.name}"] = (self.corrected, self.wrong)
            rates[f"corrupted_{self.name}"] = (self.corrupted, self.right)
        return {name: (total / count, count) for name, (total, count) in rates.items() if count > 0}


def view_loss(view: View, prediction: Prediction, clean: CleanBatch) -> ViewLoss:
    """Cross-entropy of the predictions to ``x_0`` and the counts behind the diagnostics.

    Args:
        view: The corrupted view.
        prediction: The denoiser's answer to it.
        clean: The clean batch.
    """
    at = prediction.positions
    target, shown = clean.ids[at], view.ids[at]
    if isinstance(view.weight, Tensor):
        weight = view.weight[at]
    else:
        weight = torch.full_like(target, view.weight, dtype=torch.float32)
    nowhere = torch.zeros_like(target, dtype=torch.bool)
    is_masked = nowhere if view.is_masked is None else view.is_masked[at]
    noted: list[tuple[Tensor, Tensor]] = []

    def score(logits: Tensor, part: slice) -> Tensor:
        logits = logits.float()
        loss = F.cross_entropy(logits, target[part], reduction="none")
        hit = logits.detach().argmax(-1) == target[part]
        noted.append((loss.detach(), hit))
        total = (loss * weight[part]).sum()
        return (
            total + view.entropy_weight * entropies(logits[is_masked[part] & hit]).sum()
            if view.entropy_weight
            else total
        )

    total = prediction.sum(score)
    cross_entropy, hit = (torch.cat(parts) for parts in zip(*noted, strict=True))
    model_filled = nowhere if view.model_filled is None else view.model_filled[at]
    wrong, right = ~is_masked & (shown != target), ~is_masked & (shown == target)
    return ViewLoss(
        name=view.name,
        total=total,
        cross_entropy=cross_entropy.sum(),
        supervised=at.sum(),
        model_filled=model_filled.sum(),
        model_filled_wrong=(model_filled & wrong).sum(),
        wrong=wrong.sum(),
        corrected=(wrong & hit).sum(),
        right=right.sum(),
        corrupted=(right & ~hit).sum(),
    )


def entropies(logits: Tensor) -> Tensor:
    """Entropy of each distribution in nats, ``[n]``, with gradients.

    Args:
        logits: ``[n, V]``; ``-inf`` where a token is impossible.
    """
    possible = logits.masked_fill(logits == -torch.inf, 0.0)  # 0 * -inf otherwise
    return logits.logsumexp(-1) - (logits.softmax(-1) * possible).sum(-1)
