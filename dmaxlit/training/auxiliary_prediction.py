"""The auxiliary model's prediction of a view: what it is trained on while the denoiser is frozen (CoDiLA).

Shapes: n spans of B tokens, m masked positions in them, V vocabulary, h width of the auxiliary model.
"""

import torch
from torch import Tensor

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.errors import UserError
from dmaxlit.noise.base import View
from dmaxlit.noise.objectives import cross_entropy
from dmaxlit.tokens import CleanBatch
from dmaxlit.training.prediction import ChunkedPrediction, OutputHead


def auxiliary_prediction(denoiser: Denoiser, hidden: Tensor, view: View, clean: CleanBatch) -> ChunkedPrediction:
    """Predict the supervised tokens of a view by the auxiliary model, given the clean ones before them in the span.

    Of a span without supervised tokens nothing is computed. Gradients reach the auxiliary model alone.

    Args:
        denoiser: The denoiser, with its auxiliary model.
        hidden: ``[batch, length, width]`` the denoiser's hidden states for the view.
        view: The view; its masks are where the marginals are.
        clean: The clean batch.

    Raises:
        UserError: If the view does not say where its masks are.
    """
    auxiliary = denoiser.auxiliary
    assert auxiliary is not None, "the module has made one"
    if view.is_masked is None:
        raise UserError(f"noise: expected views with masks to train an auxiliary model, got {view.name!r} without")
    others = view.soft is not None, view.model_filled is not None, not view.requires_grad
    if any(others) or view.objectives[0] is not cross_entropy:
        raise UserError(
            "noise: expected views of masks in the clean text, with cross-entropy, to train an auxiliary model, "
            f"got {view.name!r}"
        )
    length = auxiliary.span_length
    in_span = view.supervised.view(-1, length)
    used = in_span.any(1)
    used[:1] |= ~used.any()  # models refuse an empty batch

    def spans(values: Tensor) -> Tensor:
        return values.reshape(-1, length, *values.shape[2:])[used]

    masked = spans(view.is_masked)
    with torch.no_grad():
        marginals = denoiser.logits(spans(hidden.detach())[masked]).float().softmax(-1)
    conditions = auxiliary.embed(spans(view.ids))
    mixtures = auxiliary.mix(marginals).to(conditions.dtype)
    conditions = conditions.masked_scatter(masked.unsqueeze(-1), mixtures)
    predicted = auxiliary.hidden(conditions, spans(clean.ids))
    return ChunkedPrediction(predicted[in_span[used]], view.supervised, OutputHead(auxiliary))
