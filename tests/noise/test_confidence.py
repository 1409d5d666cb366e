import math

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.noise import ConfidenceNoise, LogitsPrediction, MaskedNoise
from dmaxlit.training.losses import view_loss
from tests.noise.test_contract import converse


def slow_loss(view, logits, clean, entropy_weight):
    """Compute the formula position by position."""
    total = 0.0
    for row, column in view.is_masked.nonzero().tolist():
        values = {token: float(x) for token, x in enumerate(logits[row, column]) if math.isfinite(x)}
        norm = math.log(sum(math.exp(x) for x in values.values()))
        target = int(clean.ids[row, column])
        total += norm - values[target]
        if max(values, key=values.get) == target:
            total += entropy_weight * sum(math.exp(x - norm) * (norm - x) for x in values.values())
    return total


@pytest.mark.parametrize("entropy_weight", [0.0, 0.3, 2.0])
def test_the_loss_is_cross_entropy_and_the_entropies_of_right_masked_positions(entropy_weight, clean):
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(*clean.ids.shape, 38, generator=generator)
    half = torch.rand(clean.ids.shape, generator=generator) < 0.5
    logits[half] = logits[half].scatter(-1, clean.ids[half][:, None], 6.0)  # half of the predictions are right
    logits[..., clean.special.mask_id] = -torch.inf
    (view,) = converse(ConfidenceNoise(level=0.7, entropy_weight=entropy_weight), clean, logits=logits)
    answer = LogitsPrediction(logits[view.supervised], view.supervised)
    expected = slow_loss(view, logits, clean, entropy_weight)
    assert float(view_loss(view, answer, clean).total) == pytest.approx(expected, rel=1e-5)


def test_the_entropy_term_has_the_gradient_of_the_formula_and_none_at_wrong_positions(clean):
    (view,) = converse(ConfidenceNoise(level=1.0, entropy_weight=1.5), clean)
    at = clean.ids[view.supervised]
    logits = torch.randn(len(at), 38, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[: len(at) // 2] = logits[: len(at) // 2].scatter(-1, at[: len(at) // 2, None], 5.0)
    logits[:, clean.special.mask_id] = -torch.inf
    logits.requires_grad_()
    plain = converse(MaskedNoise(level=1.0), clean)[0]
    grads = []
    for one in (view, plain):
        total = view_loss(one, LogitsPrediction(logits, one.supervised), clean).total
        grads.append(torch.autograd.grad(total, logits)[0])
    extra = grads[0] - grads[1]
    assert extra.isfinite().all()
    for n in range(len(at)):
        p = logits[n].detach().softmax(-1)
        log_p = p.clamp_min(1e-300).log()
        entropy = -(p * log_p).sum()
        right = logits[n].argmax() == at[n]
        # dH/dz_j = -p_j (log p_j + H)
        expected = -1.5 * p * (log_p + entropy) if right else torch.zeros_like(p)
        torch.testing.assert_close(extra[n], expected, atol=1e-6, rtol=1e-4)


def test_weight_zero_is_masked_training(clean):
    (one,), (two,) = (
        converse(ConfidenceNoise(level=0.5, entropy_weight=0.0), clean),
        converse(MaskedNoise(level=0.5), clean),
    )
    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.supervised, two.supervised)
    assert one.objectives == two.objectives


def test_a_negative_weight_is_refused():
    with pytest.raises(UserError, match="entropy_weight: expected"):
        ConfidenceNoise(entropy_weight=-1.0)
