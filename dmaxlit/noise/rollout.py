"""Sampling from predictions, for strategies that put model outputs into a view."""

import torch
from torch import Tensor

from dmaxlit.errors import UserError, check_choice, check_temperature
from dmaxlit.noise.base import Prediction
from dmaxlit.randomness import RowGenerator


def draw(prediction: Prediction, generator: RowGenerator, rollout: str, temperature: float = 1.0) -> Tensor:
    """Draw one token for each predicted position, ``[n]``, without gradients.

    Args:
        prediction: The denoiser's prediction for a view.
        generator: Source of randomness.
        rollout: ``sample`` or ``argmax``.
        temperature: Temperature of the samples, above 0.
    """
    if rollout == "argmax":
        return prediction.map(lambda logits: logits.argmax(-1))
    u = generator.rand(prediction.positions.shape[1])[prediction.positions]
    return prediction.map(lambda logits, u: _sample(logits / temperature, u), u)


def draw_many(prediction: Prediction, generator: RowGenerator, count: int) -> Tensor:
    """Draw tokens for each predicted position with replacement, ``[n, count]``, without gradients.

    Args:
        prediction: The denoiser's prediction for a view.
        generator: Source of randomness.
        count: Number of tokens.
    """
    length = prediction.positions.shape[1]
    u = torch.stack([generator.rand(length)[prediction.positions] for _ in range(count)], -1)
    return prediction.map(lambda logits, u: _sample(logits, u), u)


def _sample(logits: Tensor, u: Tensor) -> Tensor:
    """Return the tokens at the quantiles ``u`` (``[n]`` or ``[n, K]``) of the distributions of ``logits`` (``[n, V]``).

    Decoders draw from a nucleus in the order of probability instead (:mod:`dmaxlit.decoding.proposal`), which needs a
    sort of the vocabulary.
    """
    cumulative = logits.softmax(-1).cumsum_(-1)
    # Scale by the rounded total and stay below it, so that a token of probability 0 is never drawn.
    total, quantiles = cumulative[:, -1:], u.unsqueeze(-1) if u.ndim == 1 else u
    threshold = torch.minimum(quantiles * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, threshold, right=True).view(u.shape)
    return tokens.clamp_(max=logits.shape[-1] - 1)  # beyond it where logits are NaN, which the loss shows


def teacher_forced(model_filled: Tensor, clean_fraction: float, generator: RowGenerator) -> Tensor:
    """Choose the predicted tokens that are replaced by the clean ones, ``[batch, length]`` bool.

    A predicted token depends on ``x_0`` through the model's input alone, and carries no new information about it. Where
    predicted and clean tokens are distinguishable, as soft tokens are, the best a model can do is to ignore predicted
    ones; then positions with several correct tokens are never settled. Some clean tokens among them give the model a
    reason to condition on its own output.

    Args:
        model_filled: ``[batch, length]`` bool, the positions with predicted tokens.
        clean_fraction: The share to replace, in [0, 1].
        generator: Source of randomness.
    """
    return model_filled & (generator.rand(model_filled.shape[1]) < clean_fraction)


def check_rollout(rollout: str, temperature: float) -> None:
    """Check the arguments of :func:`draw`.

    Raises:
        UserError: If one is out of range.
    """
    if check_temperature(temperature) == 0:
        raise UserError(f"temperature: expected a number above 0, got {temperature} (for argmax, set rollout)")
    check_choice("rollout", rollout, ("sample", "argmax"))


def check_weights(**weights: float) -> None:
    """Check that the weights of views are at least 0, and not all 0.

    Raises:
        UserError: If one is negative, or all are 0.
    """
    if not all(weight >= 0 for weight in weights.values()) or not any(weights.values()):
        names, values = ", ".join(weights), " and ".join(map(str, weights.values()))
        raise UserError(f"{names}: expected numbers >= 0, not all 0, got {values}")
