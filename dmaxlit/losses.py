"""Cross-entropy of a view to the clean tokens, and what it tells about the view."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dmaxlit.noise.base import Prediction, View
from dmaxlit.tokens import CleanBatch

__all__ = ["ViewLoss", "sharpening", "view_loss"]


@dataclass(frozen=True)
class ViewLoss:
    """Loss and counts of one view; every field is a scalar tensor, and only ``total`` carries gradients.

    Args:
        name: The view's name.
        total: Weighted cross-entropy, summed over the supervised positions, and what :func:`sharpening` adds.
        cross_entropy: Unweighted cross-entropy, summed.
        supervised: Number of supervised positions.
        rolled_out: Supervised positions that hold the model's own guess.
        rolled_out_wrong: Of these, those whose guess is not the clean token.
        wrong: Supervised positions that hold a token, and a wrong one.
        corrected: Of these, those whose top-1 prediction is the clean token.
        right: Supervised positions that hold the clean token.
        corrupted: Of these, those whose top-1 prediction is another token.
    """

    name: str
    total: Tensor
    cross_entropy: Tensor
    supervised: Tensor
    rolled_out: Tensor
    rolled_out_wrong: Tensor
    wrong: Tensor
    corrected: Tensor
    right: Tensor
    corrupted: Tensor

    def diagnostics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Logged rates, each with the number of positions it is a mean over; rates of nothing are left out."""
        rates = {
            f"loss_{self.name}": (self.cross_entropy, self.supervised),
            "rollout_error": (self.rolled_out_wrong, self.rolled_out),
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
    loss = F.cross_entropy(prediction.logits.float(), target, reduction="none")
    weight = view.weight[at] if isinstance(view.weight, Tensor) else view.weight
    with torch.no_grad():
        hit = prediction.logits.argmax(-1) == target
        nowhere = torch.zeros_like(hit)
        is_masked = nowhere if view.is_masked is None else view.is_masked[at]
        rolled_out = nowhere if view.rolled_out is None else view.rolled_out[at]
        wrong, right = ~is_masked & (shown != target), ~is_masked & (shown == target)
    return ViewLoss(
        name=view.name,
        total=(loss * weight).sum() + sharpening(view, prediction, clean),
        cross_entropy=loss.detach().sum(),
        supervised=at.sum(),
        rolled_out=rolled_out.sum(),
        rolled_out_wrong=(rolled_out & wrong).sum(),
        wrong=wrong.sum(),
        corrected=(wrong & hit).sum(),
        right=right.sum(),
        corrupted=(right & ~hit).sum(),
    )


def sharpening(view: View, prediction: Prediction, clean: CleanBatch) -> Tensor:
    """``view.sharpen`` times the entropies, in nats, of the masked positions that are right already, summed.

    The confidence term of CAP (LLaDA2.0, arXiv 2512.15745): right predictions become surer, wrong ones are left alone.

    Args:
        view: The corrupted view.
        prediction: The denoiser's answer to it.
        clean: The clean batch.
    """
    if view.sharpen == 0 or view.is_masked is None:
        return prediction.logits.new_zeros((), dtype=torch.float32)
    at = prediction.positions
    right = view.is_masked[at] & (prediction.logits.argmax(-1) == clean.ids[at])
    logits = prediction.logits[right].float()
    possible = logits.masked_fill(logits == -torch.inf, 0.0)  # 0 * -inf otherwise
    entropy = logits.logsumexp(-1) - (logits.softmax(-1) * possible).sum(-1)
    return view.sharpen * entropy.sum()
