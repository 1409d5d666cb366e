"""What strategies share that put the model's own guesses into a view."""

import torch
from torch import Tensor

from dmaxlit.errors import UserError
from dmaxlit.noise.base import Prediction
from dmaxlit.randomness import RowGenerator

__all__ = ["check_rollout", "check_weights", "draw", "teacher_forced"]


def draw(prediction: Prediction, generator: RowGenerator, rollout: str, temperature: float = 1.0) -> Tensor:
    """One token for each predicted position, ``[n]``, without gradients.

    Args:
        prediction: The denoiser's answer to a view.
        generator: Source of randomness.
        rollout: ``sample`` or ``argmax``.
        temperature: Of the samples, above 0.
    """
    if rollout == "argmax":
        return prediction.map(lambda logits: logits.argmax(-1))
    u = generator.rand(prediction.positions.shape[1])[prediction.positions]
    return prediction.map(lambda logits, u: _sample(logits.float() / temperature, u), u)


def _sample(logits: Tensor, u: Tensor) -> Tensor:
    """Tokens at the quantiles ``u`` (``[n]``) of the distributions that ``logits`` (``[n, V]``) stand for."""
    cumulative = logits.softmax(-1).cumsum_(-1)
    # Scaled by the rounded total and kept below it, so that a token of probability 0 is never drawn.
    total = cumulative[:, -1]
    threshold = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, threshold[:, None], right=True).squeeze(-1)


def teacher_forced(guesses: Tensor, clean_fraction: float, generator: RowGenerator) -> Tensor:
    """A random share of the guesses: those that are to show the clean token instead, ``[batch, length]`` bool.

    A guess is drawn from what the model sees, and says nothing new about ``x_0``. Where guesses can be told from clean
    tokens, as mixtures can, the best a model can do is to ignore them; then positions with several good answers are
    never settled. Some truth among them gives it a reason to believe what it has written.

    Args:
        guesses: ``[batch, length]`` bool.
        clean_fraction: The share, in [0, 1].
        generator: Source of randomness.
    """
    return guesses & (generator.rand(guesses.shape[1]) < clean_fraction)


def check_rollout(rollout: str, temperature: float) -> None:
    """Refuse what :func:`draw` does not know.

    Raises:
        UserError: If so.
    """
    if temperature <= 0:
        raise UserError(f"temperature: expected a number above 0, got {temperature} (for argmax, set rollout)")
    if rollout not in ("sample", "argmax"):
        raise UserError(f"rollout: expected 'sample' or 'argmax', got {rollout!r}")


def check_weights(**weights: float) -> None:
    """Refuse weights of views that are negative, or all 0.

    Raises:
        UserError: If so.
    """
    if min(weights.values()) < 0 or not any(weights.values()):
        names, values = ", ".join(weights), " and ".join(map(str, weights.values()))
        raise UserError(f"{names}: expected numbers >= 0, not all 0, got {values}")
