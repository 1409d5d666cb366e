"""A decoder of the user's own that breaks a rule is named together with the rule; the others run as before."""

import re
import warnings
from dataclasses import replace

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import CommittingDecoder, Decoder, ThresholdDecoder, make_decoder
from dmaxlit.engine import BlockDecoder, DecodeSettings
from dmaxlit.errors import DMaxWarning
from dmaxlit.tokens import SoftTokens
from tests.decoding.test_contract import VARIANTS
from tests.engine.models import lively_denoiser, make_prompts
from tests.engine.scripted import SPECIAL, ScriptedDenoiser

PROMPT = [1, 2, 3]


def digits(position, fed):
    return position % 7


def decode(decoder, prompt=PROMPT, **options):
    return BlockDecoder(ScriptedDenoiser(digits), decoder, **options).decode([prompt], 8)


class Own(ThresholdDecoder):
    """A decoder that is right, of which each below changes one thing."""

    def step(self, state, logits, special):
        return self.change(super().step(state, logits, special), state)

    def change(self, after, before):
        return after


class WritesPrompt(Own):
    def change(self, after, before):
        return replace(after, ids=torch.full_like(after.ids, 4), masked=after.masked & False)


class MasksPrompt(Own):
    def change(self, after, before):
        return replace(after, masked=torch.ones_like(after.masked), converged=after.converged & False)


class SoftPrompt(Own):
    def change(self, after, before):
        where = torch.ones_like(after.masked)
        return replace(after, soft=SoftTokens(after.ids.unsqueeze(-1), torch.ones(*after.ids.shape, 1), where))


class OddWeights(Own):
    def change(self, after, before):
        weights = torch.full((*after.ids.shape, 1), 2.0)
        return replace(after, soft=SoftTokens(after.ids.unsqueeze(-1), weights, after.editable))


class SoftBlanks(Own):
    def change(self, after, before):
        where = after.editable & ~after.masked
        ids = torch.where(where, after.ids, -1).unsqueeze(-1)
        return replace(after, soft=SoftTokens(ids, torch.ones(*after.ids.shape, 1), where))


class TwoWidths(Own):
    def change(self, after, before):
        weights = torch.full((*after.ids.shape, 2), 0.5)
        return replace(after, soft=SoftTokens(after.ids.unsqueeze(-1), weights, after.editable))


class DraftOfBlanks(Own):
    extra_blocks = 1

    def start(self, ids, editable, special):
        state = super().start(ids, editable, special)
        return replace(state, extra_blocks=torch.where(editable, -1, ids).unsqueeze(1))


class NarrowMask(DraftOfBlanks):
    def block_attention_mask(self, length):
        return torch.ones(length, length, dtype=torch.bool)


class NoMask(DraftOfBlanks):
    def block_attention_mask(self, length):
        return None


class EditableChanged(Own):
    def change(self, after, before):
        return replace(after, editable=torch.ones_like(after.editable))


class LeavesMasks(Own):
    def change(self, after, before):
        masked = before.masked
        ids = torch.where(masked, SPECIAL.mask_id, after.ids)
        return replace(after, ids=ids, masked=masked, converged=torch.ones_like(after.converged))


class TakesMask(Own):
    def change(self, after, before):
        return replace(after, ids=torch.where(after.editable, SPECIAL.mask_id, after.ids))


class HidesMask(Own):
    def change(self, after, before):
        return replace(after, masked=before.masked, converged=after.converged & False)


class BeyondVocabulary(Own):
    def change(self, after, before):
        return replace(after, ids=torch.where(after.editable, 99, after.ids))


class ForgetsToCount(Own):
    def change(self, after, before):
        return replace(after, step=before.step)


class InPlace(Own):
    def change(self, after, before):
        before.ids[before.editable] = 5
        return after


class ReturnsTuple(Own):
    def change(self, after, before):
        return after.ids, after.masked


class ReturnsNone(Own):
    def change(self, after, before):
        return None


class FloatMask(Own):
    def change(self, after, before):
        return replace(after, masked=after.masked.float())


class WrongShape(Own):
    def change(self, after, before):
        return replace(after, converged=after.masked)


class OneRow(Own):
    def change(self, after, before):
        return replace(after, ids=after.ids[0])


class OddMemory(Own):
    def change(self, after, before):
        return replace(after, memory={"count": torch.zeros(7)})


class NewMemory(Own):
    def change(self, after, before):
        return replace(after, memory={"last": before.ids})


class SoftLater(Own):
    def change(self, after, before):
        where, weights = after.editable & ~after.masked, torch.ones(*after.ids.shape, 1)
        return replace(after, soft=SoftTokens(after.ids.unsqueeze(-1), weights, where))


class MoreMemory(Own):
    def start(self, ids, editable, special):
        return replace(super().start(ids, editable, special), memory={"last": ids[:, :1]})

    def change(self, after, before):
        return replace(after, memory={"last": before.ids})


class UnaskedBlocks(Own):
    def change(self, after, before):
        return replace(after, extra_blocks=after.ids.unsqueeze(1))


class StartsWithoutMasks(Own):
    def start(self, ids, editable, special):
        return replace(super().start(ids, editable, special), ids=torch.where(editable, 1, ids))


class StartsWithNothing(Own):
    def start(self, ids, editable, special):
        return None


class EndlessSteps(Own):
    def max_steps(self, block_length):
        return None


class StepsAsAttribute(Own):
    max_steps = 3  # type: ignore[assignment]


class IgnoresMaxSteps(Decoder):
    def step(self, state, logits, special):
        return state

    def max_steps(self, block_length):
        return 10**9


BROKEN = {
    WritesPrompt: "expected step to leave the prompt's tokens as they are, but it changed some",
    MasksPrompt: "expected step to mask no position of the prompt, but it masked some",
    SoftPrompt: "expected step to put no soft tokens in the prompt, but it put some",
    OddWeights: "expected step to return soft weights of at least 0 with sum 1, got others",
    SoftBlanks: "expected step to return soft tokens from 0 to 9 at all positions, got others",
    TwoWidths: "expected soft.ids of step to be int64 of shape [1, 4, 2], got int64 of shape [1, 4, 1]",
    DraftOfBlanks: "expected start to return token ids from 0 to 9 in extra_blocks, got others",
    NarrowMask: "expected block_attention_mask to return bool of shape [8, 8], got bool of shape [4, 4]",
    NoMask: "expected block_attention_mask to return bool of shape [8, 8], got None",
    EditableChanged: "expected step to leave editable as it is, but it changed some",
    LeavesMasks: "expected step to leave no masks in a block that has converged, but it left some",
    TakesMask: "expected step to decide on tokens other than the mask, but it took the mask",
    HidesMask: "expected step to hold the mask token at every masked position, but it holds others",
    BeyondVocabulary: "expected step to return token ids from 0 to 9, got others",
    ForgetsToCount: "expected step to count a forward (state.advance does), got another count",
    InPlace: "expected step to leave its state unchanged, but it wrote to ids",
    ReturnsTuple: "expected step to return a BlockState, got a value of type tuple",
    ReturnsNone: "expected step to return a BlockState, got None",
    FloatMask: "expected masked of step to be bool of shape [1, 4], got float32 of shape [1, 4]",
    WrongShape: "expected converged of step to be bool of shape [1], got bool of shape [1, 4]",
    OneRow: "expected ids of step to be int64 of shape [1, 4], got int64 of shape [4]",
    OddMemory: "expected memory['count'] of step to be a tensor with a row for each of the 1 blocks, got float32 of "
    "shape [7]",
    NewMemory: "expected start to return memory['last'], as step does, got none",
    SoftLater: "expected start to return soft, as step does, got none",
    MoreMemory: "expected memory['last'] of step to be of shape [1, 1], as that of start, got int64 of shape [1, 4]",
    UnaskedBlocks: "expected step to return extra_blocks if and only if the decoder has any (0), got int64 of shape "
    "[1, 1, 4]",
    StartsWithoutMasks: "expected start to hold the mask token at every masked position, but it holds others",
    StartsWithNothing: "expected start to return a BlockState, got None",
    EndlessSteps: "expected max_steps(block_length) to return a whole number of at least 1, got None",
    StepsAsAttribute: "expected max_steps(block_length) to return a whole number of at least 1, got 3",
}


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_rule_is_named_in_one_line(cls):
    with pytest.raises(UserError, match=f"^{re.escape(f'decoder {cls.__name__}: {BROKEN[cls]}')}$"):
        decode(cls(0.0))


def test_a_bound_beyond_the_max_steps_that_were_set_is_refused():
    with pytest.raises(UserError, match="decoder IgnoresMaxSteps: expected at most the 5 forwards of its max_steps"):
        decode(IgnoresMaxSteps(max_steps=5))


def test_the_checks_can_be_switched_off():
    (row,) = decode(WritesPrompt(0.0), check_decoder=False)
    assert 4 in row.token_ids
    decoder = LeavesMasks(0.0)
    (row,) = decode(decoder, check_decoder=False)
    assert SPECIAL.mask_id in row.token_ids
    assert not DecodeSettings(decoder, check_decoder=False).make_engine(lively_denoiser()).check_decoder
    assert "check_decoder" not in DecodeSettings("spd").identity()


def test_a_mask_left_late_is_found_as_well():
    class Late(Own):
        def change(self, after, before):
            late = after.step >= 20
            return LeavesMasks.change(self, after, before) if late.all() else after

    denoiser = ScriptedDenoiser(digits, block_length=32, max_length=64)
    with pytest.raises(UserError, match=r"decoder Late: expected a converged block without masks, got one with \d+"):
        BlockDecoder(denoiser, Late(1.0)).decode([[]], 32)


def test_a_decoder_that_never_converges_is_reported():
    class Never(Own):
        def change(self, after, before):
            return replace(after, converged=after.converged & False)

    with pytest.warns(DMaxWarning, match="decoder Never: none of 3 blocks has converged within the 4 forwards") as seen:
        decode(Never(0.0))
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(Never(0.0), max_forwards=2)  # the limit is the user's own
        decode(Own(0.0))


@pytest.mark.parametrize("selected", [lambda p: p.confidence, lambda p: None, lambda p: (p.tokens > 0)[:, :3]])
def test_a_selection_that_is_not_bool_is_refused(selected):
    class Selects(CommittingDecoder):
        def select(self, state, proposal, features):
            return selected(proposal)

    with pytest.raises(UserError, match=r"^decoder Selects: expected select to return bool of shape \[1, 4\], got"):
        decode(Selects())


@pytest.mark.parametrize("name", VARIANTS)
def test_right_decoders_pass_and_answer_as_without_checks(name):
    decoder, options = VARIANTS[name]
    known = make_decoder(decoder, **options)
    cls = type(known)
    own = type("Own", (cls,), {"__module__": "my_file"})(**options)
    denoiser, prompts = lively_denoiser(), make_prompts((3, 8, 25, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DMaxWarning)
        rows = BlockDecoder(denoiser, own).decode(prompts, 20)
    assert rows == BlockDecoder(denoiser, known).decode(prompts, 20)
