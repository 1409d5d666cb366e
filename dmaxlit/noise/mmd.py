"""Distribution matching by a maximum mean discrepancy (DMax-MMD, arXiv 2610.06648)."""

import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from dmaxlit.errors import DMaxWarning, UserError, check_at_least, check_choice, check_fraction
from dmaxlit.noise.base import NOISE, FeatureRequest, Level, NoiseStrategy, View, Views
from dmaxlit.noise.mmd_reward import advantages, distances, mean_kernel, median_bandwidth, pairs_of, rewards
from dmaxlit.noise.objectives import SampledTargets
from dmaxlit.noise.rollout import draw_many
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["MMDNoise"]


@NOISE.register("mmd")
class MMDNoise(NoiseStrategy):
    """DMax-MMD: reinforce one-step samples whose hidden features are distributed as the reference's.

    From a masked view, or one with the model's own predictions at its masks, ``groups * samples`` candidates are drawn,
    all positions independently. A frozen copy gives features f of candidates and of the clean text. For each block and
    group ``r_g = 2 mean_b k(f_gb, f_ref) - mean over b != b' of k(f_gb, f_gb')`` with
    ``k(a, b) = exp(-|a - b|^2 / D / (2 sigma^2))`` and means over pairs of the block's selected positions, and
    ``loss = mean_blocks mean_g -(r_g - mean of the other groups' r) * sum log p(samples)``, with neither cross-entropy
    nor KL term. Rows are averaged with the number of their response tokens as weight. Meant for a trained model, with
    a small learning rate (2e-6 for 16B parameters).

    Logged: ``mmd_reward``, and ``mmd_kernel``, the mean kernel value of samples and reference. Near 0 or 1 it is
    saturated, and nothing is learnt: change the bandwidth. A step costs ``groups * samples + 1`` forwards of the frozen
    copy, two forwards without gradients, and one view's pass.

    Args:
        level: Noise level t in [0, 1]: a number, a [low, high] range, or a LevelDistribution.
        layer: Decoder layer after which features are taken, from 0 (in the paper 10 of 20).
        groups: Number of groups G, at least 1. With 1 there is no baseline: the reward itself is the advantage.
        samples: Samples in a group, at least 1 (2 for maths, 4 for code). With 1 nothing repels them.
        bandwidth: sigma, above 0 (10 or 16 for DMax), or ``median``: the median heuristic, for each row.
        predicted_fraction: Share of the rows with the model's predictions in place of masks, in [0, 1]; all their
            response positions are sampled. Of the others only the masked ones are.
        form: ``block``: as above. ``sequence``: the form for small masked models (MDLM): one reward for a sequence,
            which ends with its first EOS, pairs of the same position left out between samples, a sum over groups
            instead of the mean.
    """

    def __init__(
        self,
        level: Level = 0.75,
        *,
        layer: int = 1,
        groups: int = 8,
        samples: int = 2,
        bandwidth: float | Literal["median"] = "median",
        predicted_fraction: float = 0.5,
        form: Literal["block", "sequence"] = "block",
        **corruption: Any,
    ) -> None:
        super().__init__(level, **corruption)
        check_at_least(1, groups=groups)
        check_at_least(1, samples=samples)
        if isinstance(bandwidth, str):
            check_choice("bandwidth", bandwidth, ("median",))
        elif not 0 < bandwidth < math.inf:
            raise UserError(f"bandwidth: expected a number above 0 or median, got {bandwidth}")
        if groups == 1:
            warnings.warn("groups: with 1 the rewards have no baseline", DMaxWarning, stacklevel=2)
        self.feature_layer = layer
        self.layer = layer
        self.groups = groups
        self.samples = samples
        self.bandwidth = bandwidth
        self.predicted_fraction = check_fraction("predicted_fraction", predicted_fraction)
        self.form = check_choice("form", form, ("block", "sequence"))

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the rollout, the view that is sampled from, requests for features, and the view that is reinforced."""
        corruption = self.corrupt(clean, generator)
        masked, level = corruption.positions, corruption.level
        is_predicted = generator.rand(1) < self.predicted_fraction
        ids = clean.with_masks(masked)
        rollout = yield View(ids, clean.response, "rollout", 0.0, is_masked=masked, level=level)
        tokens = rollout.scatter(rollout.map(lambda logits: logits.argmax(-1)), into=clean.ids)
        del rollout  # or its logits would be kept while the next view is predicted
        filled = masked & is_predicted
        ids = torch.where(filled, tokens, ids)
        supervised = torch.where(is_predicted, clean.response, masked)
        if self.form == "sequence":  # through the first EOS
            is_eos = clean.in_loss & (clean.ids == clean.special.eos_id)
            supervised = supervised & (is_eos.cumsum(1) - is_eos.long() == 0)
        selected = supervised & clean.in_loss
        fields: dict[str, Any] = {"is_masked": masked & ~filled, "model_filled": filled, "level": level}
        prediction = yield View(ids, supervised, "sampled", 0.0, **fields)
        drawn = draw_many(prediction, generator, self.groups * self.samples)
        del prediction
        candidates = clean.ids.unsqueeze(-1).repeat(1, 1, drawn.shape[-1])
        candidates[supervised] = drawn
        candidates = torch.where(selected.unsqueeze(-1), candidates, clean.ids.unsqueeze(-1))

        reference = yield FeatureRequest(clean.ids)
        features = []
        for number in range(candidates.shape[-1]):
            features.append((yield FeatureRequest(candidates[..., number])))
        reward, kernels, active = self._rewards(clean, selected, reference, features)
        weights = self._weights(clean, advantages(reward), active)
        figures = {
            "mmd_reward": ((reward.mean(-1) * active).sum(), active.sum()),
            "mmd_kernel": ((kernels * active).sum(), active.sum()),
        }
        objective = SampledTargets(candidates, weights)
        yield View(ids, supervised, "reinforced", objectives=(objective,), figures=figures, **fields)

    def _segments(self, clean: CleanBatch, values: Tensor) -> Tensor:
        """Reshape ``[batch, length, ...]`` to segments, ``[batch, n, T, ...]``."""
        length = clean.block_length if self.form == "block" else clean.ids.shape[1]
        return values.unflatten(1, (-1, length))  # type: ignore[no-untyped-call, no-any-return]

    def _rewards(
        self, clean: CleanBatch, selected: Tensor, reference: Tensor, features: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return each group's reward ``[batch, n, G]``, mean kernel values, and the segments that count."""
        where = self._segments(clean, selected)
        within = pairs_of(where)
        between = pairs_of(where, distinct=self.form == "sequence")
        active = where.sum(-1) >= (1 if self.form == "block" else 2)
        target = self._segments(clean, reference)
        samples = [self._segments(clean, sample) for sample in features]
        to_target = [distances(sample, target) for sample in samples]
        sigma = median_bandwidth(to_target[0], within) if isinstance(self.bandwidth, str) else self.bandwidth
        attraction = torch.stack([mean_kernel(distance, sigma, within) for distance in to_target], -1)
        attraction = attraction.unflatten(-1, (self.groups, self.samples))  # type: ignore[no-untyped-call]
        repulsion = attraction.new_zeros(*attraction.shape, self.samples)
        for group in range(self.groups):
            for one in range(self.samples):
                for other in range(one):
                    a, b = (samples[group * self.samples + number] for number in (one, other))
                    value = mean_kernel(distances(a, b), sigma, between)
                    repulsion[..., group, one, other] = repulsion[..., group, other, one] = value
        return rewards(attraction, repulsion), attraction.mean((-1, -2)), active

    def _weights(self, clean: CleanBatch, advantage: Tensor, active: Tensor) -> Tensor:
        """Return the weight of each drawn token, ``[batch, length, G * samples]``."""
        # The loss is divided by the response tokens of all rows, so each row's mean is multiplied by its own.
        row = clean.in_loss.sum(1).float() / active.sum(1).clamp(min=1)
        if self.form == "block":
            row = row / self.groups
        weight = (advantage * active.unsqueeze(-1) * row[:, None, None]).repeat_interleave(self.samples, -1)
        return weight.repeat_interleave(clean.ids.shape[1] // weight.shape[1], 1)
