import copy
import dataclasses
import json
import re

import lightning as L
import pytest
import torch

from dmaxlit import DMaxModule, UserError
from dmaxlit.callbacks import FiniteGuard
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.noise import MaskedNoise, OnPolicyNoise
from tests.conftest import make_denoiser
from tests.test_module import QUIET, assert_same_weights, loader, sgd

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class BreakingNoise(OnPolicyNoise):
    """OPUT whose second view has a weight that is not finite in rows whose prompt begins with a certain token."""

    def __init__(self, token, weight=float("nan")):
        super().__init__(level=0.5)
        self.token, self.weight = token, weight

    def views(self, clean, generator):
        dialogue = super().views(clean, generator)
        answer = yield next(dialogue)
        view = dialogue.send(answer)
        broken = (clean.ids[:, :1] == self.token).expand_as(clean.ids)
        yield dataclasses.replace(view, weight=torch.where(broken, self.weight, 1.0))


@pytest.fixture
def data(tmp_path):
    """Return a data module of twelve rows, with a bad line and an empty one between them."""
    rows = [{"prompt": f"{digit} +1 ?", "response": f"{digit} ."} for digit in range(10)] * 2
    lines = [json.dumps(row) for row in rows[:12]]
    (tmp_path / "corpus.jsonl").write_text("\n".join([*lines[:3], "no json", "", *lines[3:]]) + "\n")
    return SelfDistilledDataModule(
        corpus=str(tmp_path / "corpus.jsonl"), on_bad_row="skip", batch_size=4, num_val=0, task="chain"
    )


def fit(module, data, guard=None, **trainer):
    settings = {**QUIET, "max_epochs": 1, "callbacks": [guard or FiniteGuard()], **trainer}
    trainer = L.Trainer(**settings)
    trainer.fit(module, datamodule=data)
    return trainer


def token_of(module, text):
    return module.tokenizer(text, add_special_tokens=False)["input_ids"][0]


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_stops_before_the_update_and_names_rows_step_and_view(data, tmp_path, weight, accumulate):
    module = DMaxModule(make_denoiser(), OnPolicyNoise(level=0.5), optimizer=sgd)
    module.noise = BreakingNoise(token_of(module, "5"), weight)
    batches = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batches.append((batch["index"].tolist(), copy.deepcopy(pl_module.state_dict())))

    with pytest.raises(UserError) as refusal:
        fit(module, data, callbacks=[FiniteGuard(), Watch()], accumulate_grad_batches=accumulate)
    index = next(index for index, (rows, _) in enumerate(batches) if 5 in rows)
    step = index // accumulate
    # Row 5 is the sixth that can be used: line 8 of the file, behind the bad one and the empty one.
    assert str(refusal.value) == (
        f"training: expected finite losses and gradients, got at step {step + 1} a loss of {weight} in view predicted "
        f"for row 5 ({tmp_path}/corpus.jsonl, row 8) of the data. The step was not taken; the last checkpoint is none"
    )
    before = batches[step * accumulate][1]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize(("accumulate", "step"), [(1, 2), (2, 1)])
def test_a_skipped_micro_batch_is_no_part_of_its_step_or_the_next(data, accumulate, step):
    class Skips(DMaxModule):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 0 else self.loss(batch) * float("nan")

    module = Skips(make_denoiser(), OnPolicyNoise(level=0.5), optimizer=sgd)
    batches = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batches.append(batch["index"].tolist())

    with pytest.raises(UserError, match=f"got at step {step} a loss of nan for rows") as refusal:
        fit(module, data, callbacks=[FiniteGuard(), Watch()], accumulate_grad_batches=accumulate)
    assert list(map(int, re.findall(r"(\d+) \(", str(refusal.value)))) == batches[1]


class HighNoise(MaskedNoise):
    """Stratified levels; of rows whose level is high, the loss is not finite."""

    def __init__(self):
        super().__init__(level=(0.1, 0.9), per="sequence", stratified=True)
        self.drawn = []

    def views(self, clean, generator):
        for view in super().views(clean, generator):
            self.drawn.append(view.level[:, 0] > 0.6)
            yield dataclasses.replace(view, weight=torch.where(view.level > 0.6, float("nan"), 1.0))


@pytest.mark.parametrize("max_tokens", [None, 64])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_rows_draw_alone_what_they_drew_among_those_of_their_step(data, accumulate, max_tokens):
    data = SelfDistilledDataModule(
        corpus=data.corpora[0], on_bad_row="skip", batch_size=4, num_val=0, task="chain", max_tokens=max_tokens
    )
    module = DMaxModule(make_denoiser(), HighNoise(), optimizer=sgd)
    batches = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batches.append(batch["index"].tolist())

    with pytest.raises(UserError) as refusal:
        fit(module, data, callbacks=[FiniteGuard(), Watch()], accumulate_grad_batches=accumulate)
    drawn = module.noise.drawn[: len(batches)]
    broken = [
        [row for row, high in zip(rows, highs, strict=True) if high] for rows, highs in zip(batches, drawn, strict=True)
    ]
    named = [list(map(int, re.findall(r"(\d+) \(", cause))) for cause in str(refusal.value).split(";")[:-1]]
    assert named == [rows for rows in broken if rows]
    assert any(len(rows) > len(high) > 0 for rows, high in zip(batches, broken, strict=True))


def test_a_gradient_that_is_not_finite_is_found_though_the_loss_is():
    class Broken(DMaxModule):
        def on_after_backward(self):
            if self.global_step == 2:
                self.backbone.embedding.grad.view(-1)[7] = float("inf")

    module = Broken(make_denoiser(), OnPolicyNoise(level=0.5), optimizer=sgd)
    with pytest.raises(UserError, match=r"at step 3 the gradient of backbone\.\S*embed_tokens.weight for rows"):
        L.Trainer(**QUIET, max_steps=5, callbacks=[FiniteGuard()]).fit(module, loader())


def test_a_great_but_finite_gradient_is_no_reason():
    class Great(DMaxModule):
        def on_after_backward(self):
            self.backbone.embedding.grad.fill_(1e30)  # the sum of its squares is not finite

    module = Great(make_denoiser(), OnPolicyNoise(level=0.5), lambda p: torch.optim.SGD([q for _, q in p], lr=0.0))
    L.Trainer(**QUIET, max_steps=2, callbacks=[FiniteGuard()]).fit(module, loader())


def test_it_changes_nothing():
    def run(callbacks):
        module = DMaxModule(make_denoiser(), OnPolicyNoise(level=0.5), optimizer=sgd)
        L.Trainer(**QUIET, max_steps=3, callbacks=callbacks).fit(module, loader())
        return module

    assert_same_weights(run([]), run([FiniteGuard()]))


def test_it_can_be_switched_off():
    class Broken(DMaxModule):
        def on_after_backward(self):
            self.backbone.embedding.grad.fill_(float("inf"))

    module = Broken(make_denoiser(), OnPolicyNoise(level=0.5), optimizer=sgd)
    L.Trainer(**QUIET, max_steps=1, callbacks=[FiniteGuard(enabled=False)]).fit(module, loader())
    assert not module.backbone.embedding.isfinite().any()


def test_of_many_rows_the_first_are_named_and_the_others_counted(data):
    rows = data.batch_size = 12
    module = DMaxModule(make_denoiser(), OnPolicyNoise(level=0.5), optimizer=sgd)
    for parameter in module.parameters():
        parameter.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match=rf"rows (\d+ \([^)]+\), ){{7}}\d+ \([^)]+\) and {rows - 8} more of the data"):
        fit(module, data)
