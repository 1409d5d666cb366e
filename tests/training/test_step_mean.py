import copy
from dataclasses import replace
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from dmaxlit import DMaxModule, UserError
from dmaxlit.noise import MaskedNoise, NoiseStrategy, OnPolicyNoise, View
from dmaxlit.tokens import Role
from dmaxlit.training.losses import ViewLoss
from dmaxlit.training.step_mean import StepMean
from tests.conftest import make_denoiser
from tests.test_module import QUIET, assert_same_weights, loader, sgd, train

AUXILIARY = 0.3


def auxiliary(module, batch):
    """A second loss of a micro-batch, of some size in every gradient."""
    return AUXILIARY * (1 + batch["ids"].float().mean() / 38) * module.backbone.embedding.square().sum()


class AddsToLoss(DMaxModule):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) + auxiliary(self, batch)


class AddsToStep(DMaxModule):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + auxiliary(self, batch)


class InLoss(DMaxModule):
    def loss(self, batch):
        return super().loss(batch) + auxiliary(self, batch)


class Alone(DMaxModule):
    def training_step(self, batch, batch_idx):
        return auxiliary(self, batch)


def by_hand(batches, loss):
    """Return the module after one step of gradient descent on the mean of the losses, weighted by response tokens."""
    module = DMaxModule(make_denoiser(sharpen=3.0), MaskedNoise(level=1.0))
    tokens = [int((batch["roles"] == Role.RESPONSE).sum()) for batch in batches]
    total = sum(count * loss(module, batch) for count, batch in zip(tokens, batches, strict=True)) / sum(tokens)
    total.backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= 0.05 * parameter.grad
    return module


def small_steps(params):
    return torch.optim.SGD([p for _, p in params], lr=0.05)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("cls", [AddsToLoss, AddsToStep, InLoss])
def test_a_second_loss_keeps_its_gradient(cls, accumulate):
    module = cls(make_denoiser(sharpen=3.0), MaskedNoise(level=1.0), optimizer=small_steps)
    L.Trainer(**QUIET, max_steps=1, accumulate_grad_batches=accumulate).fit(module, loader(4))
    batches = list(loader(4))[:accumulate]
    expected = by_hand(batches, lambda module, batch: module.loss(batch) + auxiliary(module, batch))
    assert_same_weights(module, expected, 2e-6)
    without = by_hand(batches, lambda module, batch: module.loss(batch))
    assert (module.backbone.embedding - without.backbone.embedding).abs().max() > 1e-3


def test_steps_without_our_loss_are_those_of_lightning():
    module = Alone(make_denoiser(sharpen=3.0), optimizer=small_steps)
    L.Trainer(**QUIET, max_steps=1, accumulate_grad_batches=2).fit(module, loader(4))
    expected = make_denoiser(sharpen=3.0)
    one, two = list(loader(4))[:2]
    factor = AUXILIARY * (2 + (one["ids"].float().mean() + two["ids"].float().mean()) / 38) / 2
    torch.testing.assert_close(module.backbone.embedding, expected.embedding * (1 - 0.1 * factor))


def test_a_step_in_which_only_some_micro_batches_have_our_loss_is_refused():
    class Alternates(DMaxModule):
        def training_step(self, batch, batch_idx):
            return self.loss(batch) if batch_idx % 2 else auxiliary(self, batch)

    module = Alternates(make_denoiser(), optimizer=small_steps)
    with pytest.raises(UserError, match=r"training_step: expected every micro-batch .* got 1 of 2"):
        L.Trainer(**QUIET, max_steps=1, accumulate_grad_batches=2).fit(module, loader(4))


def test_a_subclass_that_hides_our_hook_is_refused():
    class Hides(DMaxModule):
        def on_before_optimizer_step(self, optimizer):
            pass

    with pytest.raises(UserError, match="expected a subclass to call super"):
        L.Trainer(**QUIET, max_steps=2).fit(Hides(make_denoiser(), optimizer=small_steps), loader(4))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_skipped_micro_batch_has_no_weight():
    class Skips(DMaxModule):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            return None if batch_idx == 1 else loss

    module = Skips(make_denoiser(sharpen=3.0), MaskedNoise(level=1.0), optimizer=small_steps)
    L.Trainer(**QUIET, max_steps=1, accumulate_grad_batches=3).fit(module, loader(4))
    one, _, three = list(loader(4))[:3]
    assert_same_weights(module, by_hand([one, three], lambda module, batch: module.loss(batch)), 2e-6)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("records", [False, True])
def test_a_step_may_be_skipped(records):
    class Skips(DMaxModule):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch) if batch_idx or records else None
            return loss if batch_idx else None

    module = Skips(make_denoiser(sharpen=3.0), MaskedNoise(level=1.0), optimizer=small_steps)
    L.Trainer(**QUIET, max_steps=2).fit(module, loader(4))
    _, second = list(loader(4))[:2]
    assert_same_weights(module, by_hand([second], lambda module, batch: module.loss(batch)), 2e-6)


class Breaks(L.Callback):
    """Ends a run between the gradients of a step and its update."""

    def __init__(self, step):
        self.step = step

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == self.step:
            raise RuntimeError("ended")


@pytest.mark.parametrize("step", [0, 1])
def test_what_an_ended_run_left_of_a_step_has_no_part_in_the_next_run(step):
    module = DMaxModule(make_denoiser(sharpen=3.0), MaskedNoise(level=1.0), optimizer=small_steps)
    with pytest.raises(RuntimeError, match="ended"):
        L.Trainer(**QUIET, max_steps=2, callbacks=[Breaks(step)]).fit(module, loader(4))
    before, figures = copy.deepcopy(module), Figures()
    fresh = Figures()
    for trained, kept in ((module, figures), (before, fresh)):
        L.Trainer(**QUIET, max_steps=1, callbacks=[kept]).fit(trained, loader(4))
    assert_same_weights(module, before)
    assert figures.steps == fresh.steps


def test_figures_of_a_view_may_be_on_another_device():
    """Of two micro-batches: once on the meta device, as the losses, once on the CPU."""
    here, there = torch.device("cpu"), torch.device("meta")
    trainer = SimpleNamespace(
        global_step=0,
        current_epoch=0,
        world_size=1,
        fit_loop=SimpleNamespace(batch_idx=0),
        strategy=SimpleNamespace(root_device=there),
    )
    mean, zero = StepMean(), torch.zeros((), device=there)
    for device in (there, here):
        figures = {"own": (torch.ones((), device=device), torch.ones((), device=device))}
        mean.record(trainer, [ViewLoss("v", *[zero] * 9, figures=figures)], zero)
        mean.weight(trainer)
    pairs = mean._sums.reduced(trainer)
    assert {value.device for pair in pairs.values() for value in pair} == {there}
    assert "own" in pairs


def finished(gradients, tokens, world_size):
    """Divide the gradients of a step whose ranks have so many tokens together, in one micro-batch."""
    trainer = SimpleNamespace(
        global_step=0,
        current_epoch=0,
        world_size=world_size,
        accumulate_grad_batches=1,
        fit_loop=SimpleNamespace(batch_idx=0),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    mean, one, count = StepMean(), torch.ones(()), torch.tensor(float(tokens))
    mean._sums.reduced = lambda _: {"response tokens": (count, one), "micro-batches that recorded losses": (one, one)}
    mean.record(trainer, [], count)
    mean.finish(trainer, gradients)
    return gradients


def test_a_step_of_fewer_tokens_than_ranks_is_a_mean_too():
    gradient = torch.ones(3) / 1024 / 4  # of one rank with one token: weighted, and averaged over the ranks
    (divided,) = finished([gradient], tokens=1, world_size=4)
    assert divided.tolist() == [1, 1, 1]


@pytest.mark.parametrize("first", [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_of_any_type_are_divided_exactly(first):
    before = [torch.linspace(0.1, 3, 500, dtype=dtype) for dtype in (first, torch.float32)]
    gradients = finished([gradient.clone() for gradient in before], tokens=1001, world_size=1)
    for gradient, value in zip(gradients, before, strict=True):
        expected = value.double() * 1024 / 1001
        torch.testing.assert_close(gradient, expected.to(value.dtype), atol=0, rtol=torch.finfo(torch.float32).eps)
    (small,) = finished([torch.full((3,), 2.0**-20, dtype=first)], tokens=1, world_size=128)
    assert small.tolist() == [0.125] * 3  # by a number beyond float16


def test_a_loss_that_is_only_looked_at_has_no_weight():
    class Looks(DMaxModule):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self.loss(batch)
            return self.loss(batch)

    module = Looks(make_denoiser(sharpen=3.0), OnPolicyNoise(level=0.6), optimizer=sgd)
    L.Trainer(**QUIET, max_steps=2).fit(module, loader(4))
    assert_same_weights(module, train(max_steps=2))


def test_the_loss_of_a_batch_is_the_sum_of_its_views_over_its_response_tokens():
    module = DMaxModule(make_denoiser(sharpen=3.0), OnPolicyNoise(level=0.6))
    batch = next(iter(loader(4)))
    clean = module.clean_batch(batch)
    losses = module.view_losses(clean, module.row_generator(batch, clean))
    expected = sum(float(loss.total.detach()) for loss in losses) / int(clean.response.sum())
    assert float(module.loss(batch).detach()) == pytest.approx(expected, rel=1e-6)


class Figures(L.Callback):
    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def figures(noise, batch_size, accumulate=1):
    module = DMaxModule(make_denoiser(sharpen=3.0), noise, optimizer=sgd)
    kept = Figures()
    options = {"max_steps": 2, "accumulate_grad_batches": accumulate, "callbacks": [kept]}
    L.Trainer(**{**QUIET, **options}).fit(module, loader(batch_size))
    return kept.steps[accumulate - 1 :: accumulate]


@pytest.mark.parametrize("stratified", [False, True])
def test_figures_are_those_of_the_whole_step(stratified):
    noise = OnPolicyNoise(level=(0.2, 0.9), stratified=stratified)
    whole, parts = figures(noise, 8), figures(noise, 2, 4)
    assert len(whole) == len(parts) == 2
    for one, other in zip(whole, parts, strict=True):
        names = {"loss", "loss_masked", "loss_predicted", "rollout_error", "corrected_predicted", "corrupted_predicted"}
        assert set(one) == {f"train/{name}" for name in names}
        assert other == pytest.approx(one, rel=1e-5)


def test_levels_are_stratified_over_accumulated_micro_batches():
    levels = []

    class Spy(MaskedNoise):
        def views(self, clean, generator):
            for view in super().views(clean, generator):
                levels.extend(view.level[:, 0].tolist())
                yield view

    noise = Spy(level=(0.0, 1.0), stratified=True)
    train(noise, batch_size=2, max_steps=1, accumulate_grad_batches=8)
    gaps = torch.tensor(sorted(levels)).diff()
    assert len(levels) == 16
    assert float(gaps.max()) < 2 / 16 + 1e-6  # one level in each sixteenth, up to the shift of them all
    accumulated = list(levels)
    levels.clear()
    train(noise, batch_size=16, max_steps=1)
    assert accumulated == levels


class Twice(NoiseStrategy):
    """Two views of one name: the clean text, and the masked one at some of its positions."""

    def views(self, clean, generator):
        masked = self.corrupt(clean, generator).positions
        yield View(clean.ids, clean.response, "same")
        yield View(clean.with_masks(masked), masked, "same", is_masked=masked)


class Apart(Twice):
    def views(self, clean, generator):
        one, two = list(super().views(clean, generator))
        yield replace(one, name="one")
        yield replace(two, name="two")


def test_views_of_one_name_have_one_mean_over_all_their_positions():
    losses = []

    class Watch(DMaxModule):
        def view_losses(self, clean, generator):
            losses.extend(super().view_losses(clean, generator))
            return losses

    module = Watch(make_denoiser(sharpen=3.0), Apart(0.5), optimizer=sgd)
    L.Trainer(**QUIET, max_steps=1).fit(module, loader(8))
    total, count = (sum(float(getattr(loss, name)) for loss in losses) for name in ("cross_entropy", "supervised"))
    module = DMaxModule(make_denoiser(sharpen=3.0), Twice(0.5), optimizer=sgd, check_noise=False)
    trainer = L.Trainer(**QUIET, max_steps=1)
    trainer.fit(module, loader(8))
    assert float(trainer.callback_metrics["train/loss_same"]) == pytest.approx(total / count, rel=1e-5)


def test_a_copy_of_a_module_is_not_watched():
    module = DMaxModule(make_denoiser())
    module.view_watchers.append(lambda *args: None)
    assert copy.deepcopy(module).view_watchers == []
    assert len(module.view_watchers) == 1


class Counting(MaskedNoise):
    figure = "tokens"

    def views(self, clean, generator):
        (view,) = super().views(clean, generator)
        yield replace(view, figures={self.figure: (view.is_masked.sum() * 7, torch.ones(()))})


@pytest.mark.parametrize("name", ["tokens", "weighted"])
def test_the_name_of_a_figure_changes_no_gradient(name):
    noise = Counting(level=0.5)
    noise.figure = name
    counted, plain = train(noise, max_steps=1), train(MaskedNoise(level=0.5), max_steps=1)
    assert_same_weights(counted, plain)
    assert f"train/{name}" in counted.trainer.callback_metrics
