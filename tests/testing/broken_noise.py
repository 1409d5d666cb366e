"""Noise strategies that break one property each: by strategy, the property and what its failure says."""

import random
from dataclasses import replace

import numpy as np
import torch

from dmaxlit.noise import NoiseStrategy, View
from dmaxlit.noise.objectives import ConfidentEntropy
from dmaxlit.tokens import SoftTokens


class Own(NoiseStrategy):
    """Masks and the model's tokens; right, of which each below changes one thing."""

    def views(self, clean, generator):
        masked = self.positions(clean, generator)
        first = View(self.corrupted(clean, masked, generator), masked, "first", is_masked=masked)
        prediction = yield self.change(first, clean, generator)
        tokens = prediction.map(lambda logits: logits.argmax(-1))
        second = View(prediction.scatter(tokens, clean.ids), clean.response, "second", model_filled=masked)
        yield from self.end(second, clean, prediction)

    def positions(self, clean, generator):
        return self.corrupt(clean, generator).positions

    def corrupted(self, clean, masked, generator):
        return clean.with_masks(masked)

    def change(self, view, clean, generator):
        return view

    def end(self, view, clean, prediction):
        yield view


class ReturnsList(Own):
    def views(self, clean, generator):
        return [View(clean.ids, clean.response, "own")]


class FloatMask(Own):
    def change(self, view, clean, generator):
        return replace(view, supervised=view.supervised.float())


class YieldsNothing(Own):
    def views(self, clean, generator):
        yield from ()


class WritesClean(Own):
    def end(self, view, clean, prediction):
        clean.ids[:, 0] = 3
        yield replace(view, ids=torch.where(clean.response, view.ids, clean.ids))


class GuessesRoles(Own):
    """Takes what is neither mask nor pad for the response."""

    def change(self, view, clean, generator):
        return replace(view, ids=torch.where(view.ids == clean.special.mask_id, 5, view.ids), is_masked=None)


class SupervisesPads(Own):
    def change(self, view, clean, generator):
        return replace(view, supervised=torch.ones_like(view.supervised))


class BeyondVocabulary(Own):
    def change(self, view, clean, generator):
        return replace(view, ids=view.ids.masked_fill(view.is_masked, clean.special.vocab_size), is_masked=None)


class MasksElsewhere(Own):
    def change(self, view, clean, generator):
        return replace(view, is_masked=clean.response)


class SoftPrompt(Own):
    def end(self, view, clean, prediction):
        soft = SoftTokens(view.ids.unsqueeze(-1), torch.ones(*view.ids.shape, 1), torch.ones_like(clean.response))
        yield replace(view, soft=soft)


class SoftBlanks(Own):
    def end(self, view, clean, prediction):
        ids = torch.where(clean.response, view.ids, -1).unsqueeze(-1)
        yield replace(view, soft=SoftTokens(ids, torch.ones(*view.ids.shape, 1), clean.response))


class Unnamed(Own):
    def change(self, view, clean, generator):
        return replace(view, is_masked=None)


class TwoOfOneName(Own):
    def end(self, view, clean, prediction):
        yield replace(view, name="first")


class TeachesNothing(Own):
    def change(self, view, clean, generator):
        return replace(view, weight=0.0)

    def end(self, view, clean, prediction):
        yield replace(view, weight=0.0)


class InfiniteWeight(Own):
    def change(self, view, clean, generator):
        level = self.level.quantile(torch.zeros(view.ids.shape))
        return replace(view, weight=1 / (1 - level))


class NegativeWeight(Own):
    def end(self, view, clean, prediction):
        yield replace(view, weight=-1.0)


class MeanObjective(Own):
    def end(self, view, clean, prediction):
        yield replace(view, objectives=(lambda at: at.cross_entropy.mean(),))


class VectorObjective(Own):
    def end(self, view, clean, prediction):
        yield replace(view, objectives=(lambda at: at.cross_entropy,))


class StopsWhenRight(Own):
    def end(self, view, clean, prediction):
        if not torch.equal(view.ids, clean.ids):
            yield view


class KeepsGradient(Own):
    def end(self, view, clean, prediction):
        probability, tokens = prediction.logits.softmax(-1).max(-1)
        weights = torch.ones(view.ids.shape)
        weights[prediction.positions] = probability
        soft = SoftTokens.with_mask(
            prediction.scatter(tokens, clean.ids).unsqueeze(-1),
            weights.unsqueeze(-1),
            clean.special.mask_id,
            clean.response,
        )
        yield replace(view, soft=soft)


class YieldsInNoGrad(Own):
    def end(self, view, clean, prediction):
        with torch.no_grad():
            yield view


class SharesOverPositions(Own):
    """Weighs each position by its share of all that it is given."""

    def end(self, view, clean, prediction):
        share = prediction.map(lambda logits: logits.amax(-1).softmax(0))
        yield replace(view, weight=prediction.scatter(share, torch.zeros(view.ids.shape)))


class FallingGroups(Own):
    def change(self, view, clean, generator):
        return replace(view, groups=-clean.blocks[::8].expand(len(clean.ids), -1))


class GroupsWithPrompts(Own):
    def change(self, view, clean, generator):
        return replace(view, groups=torch.zeros_like(clean.ids[:, ::8]))


class CountsPads(Own):
    """Masks one span, whose start depends on the padded length."""

    def positions(self, clean, generator):
        length = clean.ids.shape[1]
        count = super().positions(clean, generator).sum(1, keepdim=True)
        start = (generator.rand(1) * length).floor()
        return ((torch.arange(length) - start) % length < count) & clean.response


class MeanOverRows(Own):
    def end(self, view, clean, prediction):
        share = view.model_filled.float().mean()
        yield replace(view, weight=share.expand(view.ids.shape))


class Counter(Own):
    count = 0

    def change(self, view, clean, generator):
        self.count += 1
        return replace(view, weight=float(self.count))


class AddsObjective(Own):
    count = 0

    def change(self, view, clean, generator):
        self.count += 1
        return view if self.count == 1 else replace(view, objectives=(*view.objectives, ConfidentEntropy(0.1)))


class GlobalRandom(Own):
    def positions(self, clean, generator):
        return (torch.rand(clean.ids.shape) < self.level.t) & clean.response


class WastesRandom(Own):
    def change(self, view, clean, generator):
        random.random()
        return view


class WastesNumpy(Own):
    def change(self, view, clean, generator):
        np.random.rand()
        return view


class IgnoresLevel(Own):
    def positions(self, clean, generator):
        return (generator.rand(clean.ids.shape[1]) < 0.5) & clean.response


class NeverAll(Own):
    def positions(self, clean, generator):
        return super().positions(clean, generator) & (generator.rand(clean.ids.shape[1]) < 0.8)


class LeavesFill(Own):
    def positions(self, clean, generator):
        return super().positions(clean, generator) & clean.in_loss


class SquaredLevel(Own):
    def positions(self, clean, generator):
        level = self.level.at(clean.step).quantile(generator.rand(1))
        return (generator.rand(clean.ids.shape[1]) < level**2) & clean.response


class IgnoresStep(Own):
    def positions(self, clean, generator):
        level = self.level.quantile(generator.rand(1))
        return (generator.rand(clean.ids.shape[1]) < level) & clean.response


class OneSeed(Own):
    def positions(self, clean, generator):
        u = torch.rand(500, generator=torch.Generator().manual_seed(0))[: clean.ids.shape[1]]
        level = self.level.at(clean.step).quantile(torch.full((clean.ids.shape[0], 1), 0.5))
        return (u < level) & clean.response


BROKEN = {
    ReturnsList: ("views is a generator", "expected views to be a generator, which yields its views, got a value of"),
    FloatMask: ("views have the right types and shapes", "expected supervised of view 'first' to be bool of shape"),
    YieldsNothing: ("views have the right types and shapes", "expected at least one view, got none"),
    WritesClean: ("the clean batch is not written to", "expected view 'first' to leave the clean batch unchanged"),
    GuessesRoles: ("prompts and pads stay as they are", "expected view 'first' to leave prompts and pads as they are"),
    SupervisesPads: ("prompts and pads are not supervised", "supervises prompts or pads"),
    BeyondVocabulary: ("token ids are in the vocabulary", "to hold token ids from 0 to 199, got others"),
    MasksElsewhere: ("masks are where is_masked says so", "to hold the mask token where is_masked says so"),
    SoftPrompt: ("soft tokens are in the response", "to put soft tokens in the response only"),
    SoftBlanks: ("soft tokens are in the vocabulary", "to hold soft tokens from 0 to"),
    Unnamed: ("is_masked names every mask", "masks are not named; pass is_masked to View"),
    TwoOfOneName: ("view names differ", "expected a name of its own for each view that has a loss, got 'first' twice"),
    TeachesNothing: ("something is supervised", "nothing would be learnt"),
    InfiniteWeight: ("weights are finite and at least 0", "expected finite weights of at least 0"),
    NegativeWeight: ("weights are finite and at least 0", "expected finite weights of at least 0"),
    MeanObjective: ("objectives are sums over chunks, which may be empty", "return a sum, not a mean"),
    VectorObjective: ("objectives are sums over chunks, which may be empty", "a scalar float tensor, got float32 of"),
    StopsWhenRight: ("the number of views does not depend on the data", "for every batch, got 1 and 2"),
    KeepsGradient: ("predictions are used without gradients", "expected view 'second' to carry no gradients"),
    YieldsInNoGrad: ("views have the right types and shapes", "'second' to be yielded outside of torch.no_grad()"),
    SharesOverPositions: ("views are the same where predictions come in chunks", "but weight of view 'second' differs"),
    FallingGroups: ("groups do not fall along a row", "to number groups of blocks in the order of the row"),
    GroupsWithPrompts: ("blocks without response tokens are groups by themselves", "in a group by itself"),
    CountsPads: ("rows do not depend on the padding", "but ids of view 'first' differs; count positions of"),
    MeanOverRows: ("rows do not depend on other rows", "but weight of view 'second' differs; reduce over positions"),
    Counter: ("the same seed gives the same views", "but weight of view 'first' differs"),
    AddsObjective: ("the same seed gives the same views", "but ConfidentEntropy of view 'first' differs"),
    GlobalRandom: ("the same seed gives the same views", "but ids of view 'first' differs; draw all random numbers"),
    WastesRandom: ("global random generators are not used", "the global generator of python was used"),
    WastesNumpy: ("global random generators are not used", "the global generator of numpy was used"),
    IgnoresLevel: ("level 0 is the clean text", "expected view 'first' at level 0 to be the"),
    NeverAll: ("level 1 corrupts every response token", "to corrupt every response token, but it corrupts"),
    LeavesFill: ("level 1 corrupts every response token", "to corrupt every response token, but it corrupts"),
    SquaredLevel: (
        "the corrupted share is the level",
        "at level 0.25 to corrupt 25% of the response",
    ),
    IgnoresStep: ("levels follow the step", "a curriculum's level at step 5 to corrupt 75% of the response, but 25%"),
    OneSeed: ("another seed gives other views", "expected another seed of generator to give other views, got the same"),
}
