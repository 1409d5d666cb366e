"""The cross-entropies of masked spans, against forwards of one position each."""

import pytest
import torch

from dmaxlit.bench.span_nats import span_nats
from dmaxlit.tasks import TASKS
from tests.backbone.test_auxiliary import make_module, slow_logits


def logits_at(denoiser, ids, place):
    """Compute the logits of a position from all tokens up to the end of its block."""
    length = denoiser.block_length
    ids = torch.tensor(ids[: place // length * length + length])
    blocks = torch.arange(len(ids)) // length
    hidden = denoiser.hidden((blocks[:, None] >= blocks)[None], torch.arange(len(ids))[None], input_ids=ids[None])
    return denoiser.logits(hidden)[0, place]


@torch.no_grad()
def reference(module, example, span=4):
    """Return the cross-entropies of each response token if the whole response is masked."""
    denoiser, special, length = module.backbone, module.special, module.backbone.block_length
    prompt, response = (module.tokenizer(text).input_ids for text in (example.prompt, example.response))
    ids = [*prompt, *response, special.eos_id]
    end = len(ids)
    ids += [special.eos_id] * (-end % length)
    rows = {"independent": [], "auxiliary": [], "sequential": []}
    for place in range(len(prompt), end):
        block, start = place // length * length, place // span * span

        def masked(known, block=block):
            return [
                special.mask_id if i >= max(len(prompt), block) and i not in known else token
                for i, token in enumerate(ids)
            ]

        marginals = torch.stack([logits_at(denoiser, masked(()), start + j).softmax(-1) for j in range(span)])
        is_masked = torch.tensor([start + j >= len(prompt) for j in range(span)])
        logits = {
            "independent": logits_at(denoiser, masked(()), place),
            "sequential": logits_at(denoiser, masked(range(start, place)), place),
            "auxiliary": slow_logits(
                denoiser.auxiliary, marginals, torch.tensor(ids[start : start + span]), is_masked, ids[start:place]
            ),
        }
        for name, value in logits.items():
            rows[name].append(-value.log_softmax(-1)[ids[place]])
    return rows


def test_the_figures_are_those_of_the_slow_reference():
    module = make_module(sharpen=6.0).eval()
    examples = TASKS.get("chain")(operations=3).examples("test", 2)
    figures = span_nats(module, examples, 1.0)
    rows = [reference(module, example) for example in examples]
    for name, value in figures.items():
        assert value == pytest.approx(float(torch.stack([x for row in rows for x in row[name]]).mean()), rel=1e-4)
    assert len({round(value, 3) for value in figures.values()}) == 3


def test_fewer_masks_leave_fewer_tokens_to_predict():
    module = make_module(sharpen=6.0).eval()
    examples = TASKS.get("chain")(operations=3).examples("test", 3)
    assert span_nats(module, examples, 0.5) != span_nats(module, examples, 1.0)
