"""The passes of a training step that ``dmaxlit plan`` counts."""

from typing import Any

import torch
from torch import Tensor

from dmaxlit.noise import FeatureRequest, LogitsPrediction, NoiseStrategy, View, dialogue
from dmaxlit.noise.soft_targets import SoftTargets, TeacherTargets
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch, Role, SpecialTokens
from dmaxlit.training.objective import VIEWS, Objective

_VOCAB = 4096  # more than a decoder's top_k; a model's whole vocabulary would take long


def passes_of(objective: Objective, noise: NoiseStrategy, block_length: int) -> dict[str, Any]:
    """Return how many passes of each kind a step takes at most, as arguments of ``MemoryScenario``.

    Args:
        objective: What the run is trained on.
        noise: The noise strategy, whose views are evaluated on one block if it is they.
        block_length: Tokens of the block.
    """
    if objective is not VIEWS:
        return {"views": objective.passes, "clean_copy": False, "whole_logits": objective.whole_logits}
    steps = [_passes_of_step(noise, block_length, step) for step in (0, 1)]  # a strategy may alternate between two
    return {name: max(passes[name] for passes in steps) for name in steps[0]} | {"feature_layer": noise.feature_layer}


def _passes_of_step(noise: NoiseStrategy, block_length: int, step: int) -> dict[str, int]:
    ids = torch.zeros(1, block_length, dtype=torch.long)
    clean = CleanBatch(ids, torch.full_like(ids, Role.RESPONSE), block_length, SpecialTokens(9, 8, 8, _VOCAB), step)
    requests: list[FeatureRequest] = []

    def answer(view: View) -> LogitsPrediction:
        return LogitsPrediction(torch.zeros(int(view.supervised.sum()), _VOCAB), view.supervised)

    def features(request: FeatureRequest) -> Tensor:
        requests.append(request)
        return torch.zeros(*request.ids.shape, 1)

    turns = dialogue(noise.views(clean, RowGenerator(0, [0])), answer, features)
    views = [view for view, _ in turns]
    trained = [view for view in views if view.requires_grad]
    compares = [any(isinstance(one, (SoftTargets, TeacherTargets)) for one in view.objectives) for view in trained]
    return {
        "views": len(trained),
        "divergence_views": sum(compares),
        "rollout_forwards": len(views) - len(trained),
        "feature_requests": len(requests),
    }
