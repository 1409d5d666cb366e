import math

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision

from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone import TrainingForward
from dmaxlit.callbacks import ViewDiagnostics
from dmaxlit.noise import MaskedNoise, OnPolicyNoise
from dmaxlit.tokens import Role
from tests.callbacks.fakes import LIGHTNING_WARNINGS, events
from tests.conftest import make_denoiser
from tests.test_module import QUIET, loader, sgd
from tests.training.test_losses import slow_cross_entropy

pytestmark = LIGHTNING_WARNINGS


class Recorder(DMaxModule):
    """Records every view of every step with its prediction."""

    def __init__(self, noise, recompute=False):
        super().__init__(make_denoiser(sharpen=3.0, recompute=recompute), noise, optimizer=sgd)
        self.views = []
        self.view_watchers.append(self.note)

    def note(self, view, prediction, loss, clean):
        self.views.append((self.trainer.global_step, view, prediction.logits.detach().clone(), clean))


def fit(folder, noise, callback, recompute=False, fill=False, **options):
    module = Recorder(noise, recompute)
    settings = {**QUIET, "logger": TensorBoardLogger(folder, None, ""), "max_steps": 4, "log_every_n_steps": 2}
    L.Trainer(**{**settings, **options}, callbacks=[callback]).fit(module, loader(fill=fill))
    return module, events(folder)


@pytest.mark.parametrize("every", [1, 2])
def test_losses_by_level_and_calibration_are_those_of_plain_loops(tmp_path, every):
    callback = ViewDiagnostics(level_bins=3, confidence=0.4)
    noise = OnPolicyNoise(level=(0.0, 1.0), per="block")
    module, log = fit(tmp_path, noise, callback, fill=True, accumulate_grad_batches=2, log_every_n_steps=every)
    expected = {}
    for step, view, logits, clean in module.views:
        if (step + 1) % every:
            continue
        for n, (row, column) in enumerate(view.supervised.nonzero().tolist()):
            target = int(clean.ids[row, column])
            if clean.roles[row, column] == Role.FILL:
                continue
            index = min(int(float(view.level[row, column]) * 3), 2)
            name = f"loss_{view.name}/level_{index / 3:.2f}-{(index + 1) / 3:.2f}"
            expected.setdefault((name, step), []).append(slow_cross_entropy(logits[n], target))
            if view.name == "predicted":
                values = [float(x) for x in logits[n]]
                sure = math.exp(max(values)) / sum(math.exp(x) for x in values) >= 0.4
                expected.setdefault(("accepted_0.4_predicted", step), []).append(float(sure))
                if sure:
                    right = values.index(max(values)) == target
                    expected.setdefault(("precision_0.4_predicted", step), []).append(float(right))
    assert {step for _, step in expected} == ({1, 3} if every == 2 else {0, 1, 2, 3})
    assert len({name for name, _ in expected}) == 8
    for (name, step), values in expected.items():
        logged = {point.step: point.value for point in log.Scalars(f"train/{name}")}
        assert logged[step] == pytest.approx(sum(values) / len(values), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("recompute", [False, True])
def test_gradient_norms_are_those_of_each_view_s_mean_loss(tmp_path, recompute):
    callback = ViewDiagnostics(grad_norm_every_n_steps=1)
    module, log = fit(tmp_path, OnPolicyNoise(), callback, recompute, log_every_n_steps=1, max_steps=1)
    fresh = DMaxModule(make_denoiser(sharpen=3.0), OnPolicyNoise())
    (_, masked, _, clean), (_, predicted, _, _) = module.views
    for view in (masked, predicted):
        fresh.zero_grad()
        logits = fresh.predict_view(view, TrainingForward(fresh.backbone, clean, doubled=True)).logits
        mean = torch.nn.functional.cross_entropy(logits, clean.ids[clean.response])
        mean.backward()
        squares = sum(float((p.grad.double() ** 2).sum()) for p in fresh.parameters() if p.grad is not None)
        (point,) = log.Scalars(f"train/grad_norm_{view.name}")
        assert point.value == pytest.approx(math.sqrt(squares), rel=1e-4)


def test_gradient_norms_in_half_precision_are_those_of_scaled_gradients(tmp_path):
    """The small weight makes the other gradients smaller than what half precision holds."""
    found = []
    for name, plugin in (("single", None), ("half", MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu")))):
        noise, callback = OnPolicyNoise(predicted_weight=1e-8), ViewDiagnostics(grad_norm_every_n_steps=1)
        options = {"log_every_n_steps": 1, "max_steps": 1, "plugins": plugin}
        _, log = fit(tmp_path / name, noise, callback, **options)
        found.append([log.Scalars(f"train/grad_norm_{view}")[0].value for view in ("masked", "predicted")])
    assert found[1] == pytest.approx(found[0], rel=1e-2)


def test_gradient_norms_of_compiled_training_are_refused():
    module = DMaxModule(make_denoiser(), compile=True)
    trainer = L.Trainer(**QUIET, max_steps=1, callbacks=[ViewDiagnostics(grad_norm_every_n_steps=2)])
    with pytest.raises(UserError, match=r"^grad_norm_every_n_steps: expected 0 with model\.compile, got 2$"):
        trainer.fit(module, loader())


@pytest.mark.parametrize("recompute", [False, True])
def test_looking_on_changes_nothing_and_ends_with_training(recompute):
    plain, watched = (
        DMaxModule(make_denoiser(sharpen=3.0, recompute=recompute), OnPolicyNoise(), optimizer=sgd) for _ in range(2)
    )
    L.Trainer(**QUIET, max_steps=3).fit(plain, loader())
    callback = ViewDiagnostics(grad_norm_every_n_steps=1)
    L.Trainer(**QUIET, max_steps=3, log_every_n_steps=1, callbacks=[callback]).fit(watched, loader())
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert watched.view_watchers == []


def test_a_view_without_guesses_has_no_calibration_and_nothing_is_logged_between(tmp_path):
    _, log = fit(tmp_path, MaskedNoise(level=0.6), ViewDiagnostics(level_bins=1), log_every_n_steps=2, max_steps=3)
    tags = [tag for tag in log.Tags()["scalars"] if "level" in tag or "precision" in tag or "grad" in tag]
    assert tags == ["train/loss_masked/level_0.00-1.00"]
    assert [point.step for point in log.Scalars(tags[0])] == [1]


@pytest.mark.parametrize("bad", [{"level_bins": 0}, {"confidence": 1.5}, {"grad_norm_every_n_steps": -1}])
def test_bad_options_are_refused_by_name(bad):
    with pytest.raises(UserError, match=f"{next(iter(bad))}: expected"):
        ViewDiagnostics(**bad)
