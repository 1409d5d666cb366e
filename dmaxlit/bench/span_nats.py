"""How well tokens of a masked span are predicted: independently, by the auxiliary model, and one after another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dmaxlit.backbone.training_forward import TrainingForward
from dmaxlit.data.encoding import encode_pair
from dmaxlit.module import DMaxModule
from dmaxlit.noise import MaskedNoise, View
from dmaxlit.randomness import RowGenerator
from dmaxlit.tasks import Example
from dmaxlit.tokens import CleanBatch, Role
from dmaxlit.training.auxiliary_prediction import auxiliary_prediction


@torch.inference_mode()
def span_nats(module: DMaxModule, examples: Sequence[Example], level: float) -> dict[str, float]:
    """Return nats per token of spans of reference answers, masked as a whole with probability ``level``.

    ``independent`` is the denoiser's cross-entropy with all masks in place; ``auxiliary`` that of the auxiliary model,
    which knows the tokens before in the span; ``sequential`` the denoiser's if these are put in place before the next
    forward: what the denoiser itself knows of the span's joint distribution.

    Args:
        module: A model with an auxiliary model, in eval mode.
        examples: Prompts with reference answers.
        level: In (0, 1]; 1 masks whole answers.
    """
    denoiser, clean = module.backbone, _clean_batch(module, examples)
    assert denoiser.auxiliary is not None, "the benchmark has trained one"
    length = denoiser.auxiliary.span_length
    noise = MaskedNoise(level=level, span_length=length)
    view = next(noise.views(clean, RowGenerator(0, list(range(len(examples))))))
    assert isinstance(view, View), "masked noise asks for no features"
    positions = view.supervised & clean.in_loss
    forward = TrainingForward(denoiser, clean)
    hidden = forward(view.ids, None, None)
    joint = torch.zeros(*positions.shape, denoiser.vocab_size)
    joint[view.supervised] = auxiliary_prediction(denoiser, hidden, view, clean).logits
    sequential = torch.zeros_like(joint)
    in_block = torch.arange(positions.shape[1]) % denoiser.block_length
    for place in range(denoiser.block_length):
        before = (in_block // length == place // length) & (in_block < place)
        at_place = positions & (in_block == place)
        logits = denoiser.logits(forward(torch.where(before, clean.ids, view.ids), None, None)[at_place])
        sequential[at_place] = logits

    def nats(logits: Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(logits.float(), clean.ids[positions]))

    return {
        "independent": nats(denoiser.logits(hidden[positions])),
        "auxiliary": nats(joint[positions]),
        "sequential": nats(sequential[positions]),
    }


def _clean_batch(module: DMaxModule, examples: Sequence[Example]) -> CleanBatch:
    block_length = module.backbone.block_length
    pairs = []
    for example in examples:
        assert example.response is not None, "the tasks of benchmarks have reference answers"
        pairs.append(encode_pair(module.tokenizer, example.prompt, example.response, block_length, 1))
    shape = len(pairs), max(len(pair.ids) for pair in pairs)
    ids = torch.full(shape, module.special.pad_id)
    roles = torch.full(shape, int(Role.PAD))
    for row, pair in enumerate(pairs):
        ids[row, : len(pair.ids)] = torch.tensor(pair.ids)
        roles[row, : len(pair.ids)] = torch.tensor(pair.roles)
    return CleanBatch(ids, roles, block_length, module.special)
