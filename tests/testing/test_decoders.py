"""Each property of a decoder is broken by one decoder below, and found."""

from dataclasses import replace

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import CommittingDecoder, Decoder, SoftTokens, ThresholdDecoder, propose
from dmaxlit.testing import decoder_properties
from tests.testing.broken import assert_found, failures


class Own(Decoder):
    """Commits what is more likely than not, at least the first mask; right, of which each below changes one thing."""

    def step(self, state, logits, special):
        tokens, confidence = self.proposal(state, logits)
        commit = state.masked & ((confidence > 0.5) | (state.masked.cumsum(1) == 1))
        masked = state.masked & ~commit
        after = state.advance(torch.where(commit, tokens, state.ids), masked, ~masked.any(1))
        return self.change(after, state, logits, special)

    def proposal(self, state, logits):
        proposal = propose(state, logits)
        return proposal.tokens, proposal.confidence

    def change(self, after, before, logits, special):
        return after


class EndlessSteps(Own):
    def max_steps(self, block_length):
        return None


class IgnoresMaxSteps(Own):
    def max_steps(self, block_length):
        return 100


class FloatMask(Own):
    def change(self, after, before, logits, special):
        return replace(after, masked=after.masked.float())


class WritesPrompt(Own):
    def change(self, after, before, logits, special):
        return replace(after, ids=torch.where(after.editable, after.ids, 4))


class GuessesPrompt(Own):
    """Takes every mask token for an undecided position, those of prompts as well."""

    def change(self, after, before, logits, special):
        masked = after.ids == special.mask_id
        return replace(after, masked=masked, converged=~masked.any(1))


class EditableChanged(Own):
    def change(self, after, before, logits, special):
        return replace(after, editable=after.masked)


class BeyondVocabulary(Own):
    def change(self, after, before, logits, special):
        return replace(after, ids=torch.where(after.editable & ~after.masked, 20, after.ids))


class LeavesMasks(Own):
    def change(self, after, before, logits, special):
        return replace(after, converged=after.masked.sum(1) <= 1)


class TakesMask(Own):
    def change(self, after, before, logits, special):
        return replace(after, ids=torch.where(after.editable, special.mask_id, after.ids))


class HidesMask(Own):
    def change(self, after, before, logits, special):
        return replace(after, ids=torch.where(after.masked, 3, after.ids))


class Softly(Own):
    def start(self, ids, editable, special):
        state = super().start(ids, editable, special)
        return self.change(state, state, None, special)


class SoftPrompt(Softly):
    def change(self, after, before, logits, special):
        where = ~after.masked
        return replace(after, soft=SoftTokens(after.ids.unsqueeze(-1), torch.ones(*after.ids.shape, 1), where))


class SoftBlanks(Softly):
    def change(self, after, before, logits, special):
        where = after.editable & ~after.masked
        ids = torch.where(where, after.ids, -1).unsqueeze(-1)
        return replace(after, soft=SoftTokens(ids, torch.ones(*after.ids.shape, 1), where))


class OddWeights(Softly):
    def change(self, after, before, logits, special):
        where, weights = after.editable & ~after.masked, torch.full((*after.ids.shape, 1), 0.5)
        return replace(after, soft=SoftTokens(after.ids.unsqueeze(-1), weights, where))


class ForgetsToBegin(Own):
    def change(self, after, before, logits, special):
        return replace(after, memory={"last": before.ids})


class SoftLater(Own):
    def change(self, after, before, logits, special):
        where, weights = after.editable & ~after.masked, torch.ones(*after.ids.shape, 1)
        return replace(after, soft=SoftTokens(after.ids.unsqueeze(-1), weights, where))


class DropsMemory(Own):
    def start(self, ids, editable, special):
        return replace(super().start(ids, editable, special), memory={"first": ids})

    def change(self, after, before, logits, special):
        return replace(after, memory={})


class DraftOverPrompt(Own):
    extra_blocks = 1

    def start(self, ids, editable, special):
        state = super().start(ids, editable, special)
        return replace(state, extra_blocks=state.ids.unsqueeze(1))

    def proposal(self, state, logits):
        return super().proposal(state, logits[:, 0])

    def change(self, after, before, logits, special):
        return replace(after, extra_blocks=logits[:, :1].argmax(-1))


class DraftOfBlanks(DraftOverPrompt):
    def change(self, after, before, logits, special):
        return replace(after, extra_blocks=torch.where(after.masked, -1, after.ids).unsqueeze(1))


class BeginsConverged(Own):
    def start(self, ids, editable, special):
        state = super().start(ids, editable, special)
        return replace(state, ids=torch.where(editable, 0, ids), masked=editable & False, converged=editable.any(1))


class ForgetsToCount(Own):
    def change(self, after, before, logits, special):
        return replace(after, step=before.step)


class WritesState(Own):
    def change(self, after, before, logits, special):
        before.memory["last"] = after.ids
        return after


class WritesLogits(Own):
    def change(self, after, before, logits, special):
        logits[..., 0] = 0
        return after


class RemembersInItself(Own):
    threshold = 0.9

    def proposal(self, state, logits):
        tokens, confidence = super().proposal(state, logits)
        self.threshold *= 0.5
        return tokens, (confidence > self.threshold).float()


class DrawsForItself(Own):
    def proposal(self, state, logits):
        tokens, confidence = super().proposal(state, logits)
        return torch.multinomial(logits.flatten(0, 1).softmax(-1), 1).view_as(tokens), confidence


class WastesRandom(Own):
    def change(self, after, before, logits, special):
        torch.rand(1)
        return after


class BestOfBatch(Own):
    def proposal(self, state, logits):
        tokens, confidence = super().proposal(state, logits)
        return tokens, confidence / confidence.max()


class NeverConverges(Own):
    def change(self, after, before, logits, special):
        return replace(after, converged=after.converged & False)


class WrongToken(Own):
    def proposal(self, state, logits):
        tokens, confidence = super().proposal(state, logits)
        return (tokens - 1).clamp_min(0), confidence


class IgnoresTemperature(Own):
    def proposal(self, state, logits):
        confidence, tokens = logits.softmax(-1).max(-1)
        return tokens, confidence


class IgnoresTopP(Own):
    def proposal(self, state, logits):
        if state.sampling is None:
            return super().proposal(state, logits)
        hot = (logits / state.sampling.temperature.view(-1, 1, 1)).softmax(-1)
        tokens = (hot.cumsum(-1) < state.sampling.draws.unsqueeze(-1)).sum(-1)
        return tokens.clamp(max=16), logits.softmax(-1).amax(-1)


class ReadsValue(Own):
    def change(self, after, before, logits, special):
        return after if after.masked.any().item() else replace(after, converged=after.converged | True)


class LooksAtNeighbours(CommittingDecoder):
    def features(self, logits):
        return (logits.softmax(-1).amax(-1) + logits.softmax(-1).amax(-1).mean()).unsqueeze(-1)

    def select(self, state, proposal, features):
        return features[..., 0] > 0.9


class AttendsToNothing(DraftOverPrompt):
    def change(self, after, before, logits, special):
        return after

    def block_attention_mask(self, length):
        return super().block_attention_mask(length).fill_(True)


class WaitsForCertainty(Own):
    """Decides nothing as long as no prediction is nearly certain."""

    def step(self, state, logits, special):
        tokens, confidence = self.proposal(state, logits)
        masked = state.masked & (confidence < 0.9999)
        return state.advance(torch.where(state.masked & ~masked, tokens, state.ids), masked, ~masked.any(1))


BROKEN = {
    EndlessSteps: ("max_steps is a bound", "to return a whole number of at least 1, got None"),
    IgnoresMaxSteps: ("max_steps is a bound", "expected at most the 3 forwards of its max_steps, got 100"),
    FloatMask: ("states have the right types and shapes", "expected masked of step to be bool of shape [5, 6], got f"),
    WritesPrompt: ("the prompt stays as it is", "expected step to leave the prompt's tokens as they are"),
    EditableChanged: ("editable stays as it is", "expected step to leave editable as it is"),
    GuessesPrompt: ("the prompt is never masked", "expected step to mask no position of the prompt"),
    BeyondVocabulary: ("token ids are in the vocabulary", "expected step to return token ids from 0 to 19"),
    LeavesMasks: ("a converged block has no masks", "expected step to leave no masks in a block that has converged"),
    TakesMask: ("the mask token is never decided on", "expected step to decide on tokens other than the mask"),
    HidesMask: (
        "masked positions hold the mask token",
        "to hold the mask token at every masked position, but",
    ),
    SoftPrompt: ("soft tokens are in the response", "to put no soft tokens in the prompt"),
    SoftBlanks: ("soft tokens are in the vocabulary", "to return soft tokens from 0 to 19"),
    OddWeights: ("soft tokens are weighted means", "expected step to return soft weights of at least 0 with sum 1"),
    ForgetsToBegin: (
        "soft tokens and memory are there from the start",
        "expected start to return memory['last'], as",
    ),
    SoftLater: ("soft tokens and memory are there from the start", "expected start to return soft, as step does"),
    DropsMemory: (
        "soft tokens and memory are there from the start",
        "expected step to return memory['first'], as",
    ),
    DraftOverPrompt: ("the prompt stays in extra blocks", "expected step to leave the prompt as it is in extra_blocks"),
    DraftOfBlanks: ("extra blocks are in the vocabulary", "to return token ids from 0 to 19 in extra_blocks"),
    BeginsConverged: ("new blocks begin at step 0", "expected start to return blocks that have not converged"),
    ForgetsToCount: ("a step counts a forward", "expected step to count a forward (state.advance does), got [0, 0"),
    WritesState: ("a step leaves its arguments unchanged", "but it wrote to memory['last']"),
    WritesLogits: ("a step leaves its arguments unchanged", "expected step to leave logits unchanged"),
    RemembersInItself: ("the same state gives the same result", "keep what a later step needs in memory of the state"),
    DrawsForItself: ("the same state gives the same result", "but ids differs"),
    WastesRandom: ("global random generators are not used", "but that of torch was used"),
    BestOfBatch: ("rows do not depend on other rows", "reduce over the positions of a block (dim 1), not over rows"),
    NeverConverges: ("certain predictions become the answer by max_steps", "but 5 of 5 have not; mark converged"),
    WrongToken: ("certain predictions become the answer by max_steps", "to hold the tokens that are predicted"),
    WaitsForCertainty: (
        "tokens are drawn at a temperature",
        "within the 6 forwards of max_steps, got none; decide at least one position in each step",
    ),
    IgnoresTemperature: ("tokens are drawn at a temperature", "got the same; take tokens from propose(state, logits)"),
    IgnoresTopP: ("top_p near 0 takes the most probable tokens", "expected top_p near 0 to give the most probable"),
    ReadsValue: ("a step does not wait for the device", "but it reads a value from the device (.item()"),
    LooksAtNeighbours: (
        "logits that are not needed do not matter",
        "to look at masked positions alone, each by it",
    ),
    AttendsToNothing: ("blocks attend to themselves, and the first to no other", "not to attend to its extra blocks"),
}


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_property_is_found_by_its_own_test(cls):
    assert_found(decoder_properties(cls), *BROKEN[cls])


def test_every_property_is_broken_by_a_decoder_above():
    assert {str(check) for check in decoder_properties(Own)} == {name for name, _ in BROKEN.values()}


# Whatever else these break follows from the one thing that is wrong.
@pytest.mark.parametrize(
    "cls", [cls for cls in BROKEN if cls not in (EndlessSteps, FloatMask)], ids=lambda cls: cls.__name__
)
def test_what_is_right_passes(cls):
    assert len(failures(decoder_properties(cls))) <= 4, failures(decoder_properties(cls))


@pytest.mark.parametrize("decoder", [Own, Own(), ThresholdDecoder(0.7), "threshold"], ids=str)
def test_a_right_decoder_has_every_property(decoder):
    assert failures(decoder_properties(decoder)) == {}


class Required(Own):
    """A right decoder with an option that has no default, and one on which its bound depends."""

    def __init__(self, margin, waits=False, max_steps=None):
        super().__init__(max_steps)
        self.margin, self.waits = margin, waits

    def max_steps(self, block_length):
        return 100 if self.waits else super().max_steps(block_length)


def test_options_are_those_given_also_where_the_bound_is_tested():
    assert failures(decoder_properties(Required, margin=0.5)) == failures(decoder_properties(Required(0.5))) == {}
    assert list(failures(decoder_properties(Required, margin=0.5, waits=True))) == ["max_steps is a bound"]


def test_an_instance_is_tested_as_it_is_and_left_so():
    decoder = RemembersInItself()
    assert "the same state gives the same result" in failures(decoder_properties(decoder))
    assert decoder.threshold == 0.9
    assert failures(decoder_properties(Own(max_steps=2))) == failures(decoder_properties(Own, max_steps=2)) == {}


def test_what_cannot_be_made_is_refused():
    with pytest.raises(UserError, match="decoder: expected a class that implements step, got Decoder"):
        decoder_properties(Decoder)
    with pytest.raises(UserError, match="decoder 'Own': unknown option sped; known: max_steps"):
        decoder_properties(Own, sped=1)
