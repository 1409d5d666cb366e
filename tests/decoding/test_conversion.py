"""The same blocks step by step: ours, diffusers' scheduler with our settings, and SGLang's rule written out."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import BlockRefinementScheduler, LLaDA2Pipeline

from dmaxlit import UserError
from dmaxlit.decoding import make_decoder, to_diffusers, to_sglang
from dmaxlit.tokens import SpecialTokens

LENGTH, VOCABULARY, MASK = 12, 20, 19
SPECIAL = SpecialTokens(mask_id=MASK, eos_id=18, pad_id=18, vocab_size=VOCABULARY)

DECODERS = [
    ("threshold", {"threshold": 0.4}),
    ("threshold", {"threshold": 1.0}),
    ("threshold", {"threshold": 0.0}),
    ("one_token", {}),
    ("edit", {"tau_mask": 0.4, "tau_edit": 0.3}),
    ("edit", {"preset": "speed"}),
    ("edit", {"tau_mask": 0.5, "tau_edit": 1.0}),
    ("edit", {"tau_mask": 1.0, "tau_edit": 0.3}),
    ("edit", {"tau_mask": 0.4, "tau_edit": 0.0, "max_post_edit_steps": 2}),
]


def logits_of(steps=40, seed=0):
    """Return logits of each forward, ``[steps, 1, T, V]``; never the mask."""
    logits = 2 * torch.randn(steps, 1, LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    logits[..., MASK] = -torch.inf
    return logits


def ours(decoder, logits):
    """Return the blocks after each forward, up to convergence."""
    ids = torch.full((1, LENGTH), MASK)
    state = decoder.start(ids, torch.ones_like(ids, dtype=torch.bool), SPECIAL)
    blocks = []
    for step in logits:
        state = decoder.step(state, step, SPECIAL)
        blocks.append(state.ids.tolist()[0])
        if bool(state.converged):
            break
    return blocks


def with_diffusers(settings, logits):
    """Return the same of diffusers, in the loop of its pipeline."""
    settings = dict(settings)
    most, stops_at_eos = settings.pop("max_post_steps", 0), settings.pop("eos_early_stop", True)
    scheduler = BlockRefinementScheduler(**settings)
    scheduler.set_timesteps(settings["num_inference_steps"])
    sample, step_index, post, blocks = torch.full((1, LENGTH), MASK), 0, 0, []
    editing = (scheduler.config.editing_threshold or 0) > 0
    for step in logits:
        has_masks = bool((sample == MASK).any())
        post += not has_masks
        output = scheduler.step(step, step_index, sample, mask_token_id=MASK)
        sample = output.prev_sample
        blocks.append(sample.tolist()[0])
        step_index += has_masks
        finished = torch.tensor([stops_at_eos and SPECIAL.eos_id in sample and MASK not in sample])
        edits = output.editing_transfer_index
        if not scheduler.check_block_should_continue(step_index, has_masks, editing, edits, post, most, finished):
            break
    return blocks


class Scripted(torch.nn.Module):
    """A model whose forwards have given logits in every block; it records the first block that each of them reads."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, logits):
        super().__init__()
        self.logits, self.blocks = iter(logits), []

    def forward(self, ids, **_):
        self.blocks.append(ids[0, :LENGTH].tolist())
        return SimpleNamespace(logits=next(self.logits).repeat(1, ids.shape[1] // LENGTH, 1))


def with_pipeline(settings, logits, gen_length):
    """Return the first block after each forward of diffusers' pipeline."""
    model = Scripted(logits)
    pipeline = LLaDA2Pipeline(model, BlockRefinementScheduler())
    pipeline.set_progress_bar_config(disable=True)
    options = {"input_ids": torch.zeros(1, 0, dtype=torch.long), "mask_token_id": MASK, "output_type": "seq"}
    sequences, _ = pipeline(**options, **settings, gen_length=gen_length, return_dict=False)
    return [*model.blocks[1:], sequences[0, :LENGTH].tolist()]


def with_sglang(settings, logits):
    """Return the same by SGLang's rules, token by token (sglang/srt/dllm/algorithm)."""
    config, edits = settings["config"], settings["algorithm"] == "JointThreshold"
    block, post, blocks = [MASK] * LENGTH, 0, []
    for step in logits:
        probabilities = step[0].softmax(-1)
        best = [(float(row.max()), int(row.argmax())) for row in probabilities]
        masks = [i for i in range(LENGTH) if block[i] == MASK]
        if not masks:
            post += 1
            if not edits or post > config["max_post_edit_steps"]:
                break
        fill = [i for i in masks if best[i][0] > config["threshold"]]
        if masks and not fill:
            fill = [max(masks, key=lambda i: best[i][0])]
        replaced = [
            i for i in range(LENGTH)
            if edits and i not in masks and best[i][1] != block[i] and best[i][0] > config["edit_threshold"]
        ]  # fmt: skip
        if not fill and not replaced:
            break
        for i in fill + replaced:
            block[i] = best[i][1]
        blocks.append(list(block))
    return blocks


def changes(blocks):
    """Return the blocks without those that repeat the one before: engines differ in forwards that change nothing."""
    return [block for index, block in enumerate(blocks) if index == 0 or block != blocks[index - 1]]


@pytest.mark.parametrize(("name", "options"), DECODERS)
@pytest.mark.parametrize("seed", range(4))
def test_other_engines_decode_the_same(name, options, seed):
    decoder = make_decoder(name, **options)
    logits = logits_of(seed=seed)
    expected = changes(ours(decoder, logits))
    assert MASK not in expected[-1]
    assert changes(with_diffusers(to_diffusers(decoder, LENGTH), logits)) == expected
    assert changes(with_sglang(to_sglang(decoder), logits)) == expected


@pytest.mark.parametrize(("name", "options"), DECODERS)
def test_the_pipeline_of_diffusers_decodes_the_same_in_responses_of_as_many_tokens_as_steps(name, options):
    decoder, logits = make_decoder(name, **options), logits_of(steps=80)
    settings = to_diffusers(decoder, LENGTH)
    expected = changes(ours(decoder, logits))
    for gen_length in (settings["num_inference_steps"], 2 * LENGTH):
        assert changes(with_pipeline(settings, logits, gen_length)) == expected
    if name == "one_token":
        assert len(changes(with_pipeline(settings, logits, LENGTH // 2))) == LENGTH // 2  # two tokens a forward


def test_an_edit_threshold_of_zero_is_translated():
    everything, nothing = make_decoder("edit", tau_edit=0.0), make_decoder("edit", tau_edit=1.0)
    assert to_sglang(everything)["config"]["edit_threshold"] == 0.0
    assert 0 < to_diffusers(everything, 32)["editing_threshold"] < 1e-6
    assert to_diffusers(nothing, 32)["editing_threshold"] is None
    # What a copy of the number would do: diffusers never edits.
    logits = logits_of()
    copied = {**to_diffusers(everything, LENGTH), "editing_threshold": 0.0}
    assert changes(with_diffusers(copied, logits)) != changes(ours(everything, logits))


@pytest.mark.parametrize("convert", [to_sglang, lambda decoder: to_diffusers(decoder, 32)])
@pytest.mark.parametrize(
    ("name", "options", "refusal"),
    [
        ("spd", {}, "decoder: expected edit, one_token or threshold, which .* has too, got 'spd'"),
        ("threshold", {"max_tokens": 2}, "max_tokens: expected none for .*, got 2"),
        ("edit", {"max_steps": 9}, "max_steps: expected none for .*, got 9"),
    ],
)
def test_what_they_have_not_is_refused(convert, name, options, refusal):
    with pytest.raises(UserError, match=f"^{refusal}$"):
        convert(make_decoder(name, **options))


def test_diffusers_makes_at_least_one_step_of_edits_and_needs_a_block():
    with pytest.raises(UserError, match="max_post_edit_steps: expected at least 1 for diffusers"):
        to_diffusers(make_decoder("edit", max_post_edit_steps=0), 32)
    with pytest.raises(UserError, match="block_length: expected at least 1, got 0"):
        to_diffusers(make_decoder("edit"), 0)
