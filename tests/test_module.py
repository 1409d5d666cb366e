import copy
import json
import weakref
from dataclasses import replace
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from dmaxlit import DMaxModule, UserError, load
from dmaxlit.backbone import TrainingForward
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.noise import NOISE, MaskedNoise, NoiseStrategy, OnPolicyNoise, View
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import Role
from dmaxlit.training.muon import MuonAdamW
from tests.conftest import make_batch, make_denoiser

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Rows(Dataset[Any]):
    """Sixteen rows with prompts and responses of different length, in a fixed order."""

    def __init__(self, n=16, fill=False):
        self.clean = make_batch([3 + i % 5 for i in range(n)], [6 + (5 * i) % 13 for i in range(n)], fill=fill)

    def __len__(self):
        return len(self.clean.ids)

    def __getitem__(self, i):
        return {"ids": self.clean.ids[i], "roles": self.clean.roles[i], "index": torch.tensor(i)}


def loader(batch_size=4, n=16, fill=False):
    return DataLoader(Rows(n, fill), batch_size=batch_size)


def sgd(params):
    return torch.optim.SGD([p for _, p in params], lr=0.5)


def train(noise=None, batch_size=4, max_steps=4, n=16, optimizer=sgd, **trainer):
    module = DMaxModule(make_denoiser(sharpen=3.0), noise or OnPolicyNoise(level=0.6), optimizer=optimizer)
    L.Trainer(**{**QUIET, "max_steps": max_steps, **trainer}).fit(module, loader(batch_size, n))
    return module


def assert_same_weights(one, two, atol=0.0):
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert (a - b).abs().max() <= atol, name


def test_accumulated_micro_batches_equal_one_batch():
    whole = train(batch_size=8, max_steps=2)
    halves = train(batch_size=4, max_steps=2, accumulate_grad_batches=2)
    quarters = train(batch_size=2, max_steps=2, accumulate_grad_batches=4)
    assert_same_weights(whole, halves, 2e-6)
    assert_same_weights(whole, quarters, 2e-6)
    assert any(
        (a - b).abs().max() > 1e-3
        for a, b in zip(whole.parameters(), train(batch_size=8, max_steps=1).parameters(), strict=True)
    )


@pytest.mark.parametrize("clean_half", ["cached", "doubled"])
def test_only_views_with_a_loss_see_dropout(clean_half):
    noise = OnPolicyNoise(level=0.6, alternate=True)
    modules = [
        DMaxModule(make_denoiser(sharpen=5.0, attention_dropout=rate), noise, clean_half=clean_half)
        for rate in (0, 0.5)
    ]
    found = []
    for module in modules:
        module.view_watchers.append(lambda view, prediction, loss, clean: found.append((view, prediction.states)))
        batch = next(iter(loader()))
        clean = replace(module.clean_batch(batch), step=1)  # trained on the predicted view
        module.view_losses(clean, module.row_generator(batch, clean))
    (masked, exact), (predicted, _), (noisy_masked, states), (noisy_predicted, trained) = found
    assert not masked.requires_grad
    assert torch.equal(masked.ids, noisy_masked.ids)
    torch.testing.assert_close(states, exact, atol=1e-5, rtol=1e-5)
    assert torch.equal(predicted.ids, noisy_predicted.ids)  # drawn without dropout
    assert (trained - found[1][1]).abs().max() > 0.01


def test_an_output_layer_with_dropout_has_none_in_views_without_a_loss():
    lora = LoraSettings(r=2, target_modules=["q_proj", "lm_head"], dropout=0.5)
    denoiser = make_denoiser(sharpen=5.0, tie_word_embeddings=False)
    module = DMaxModule(denoiser, OnPolicyNoise(level=0.6, alternate=True), lora=lora)
    head = denoiser.model.get_output_embeddings()
    torch.nn.init.ones_(head.lora_B["default"].weight)
    found = []

    def watch(view, prediction, loss, clean):
        logits = prediction.map(lambda logits: logits)
        found.append((logits, prediction.head(prediction.states).detach(), prediction.head(prediction.states).detach()))

    module.view_watchers.append(watch)
    batch = next(iter(loader()))
    clean = replace(module.clean_batch(batch), step=1)  # trained on the predicted view
    module.view_losses(clean, module.row_generator(batch, clean))
    (logits, once, twice), (_, trained, trained_again) = found
    assert torch.equal(once, twice)
    assert torch.equal(once, logits)
    assert not torch.equal(trained, trained_again)
    assert all(part.training for part in head.modules())


def test_the_gradient_is_the_mean_over_the_response_without_the_fill():
    module, by_hand = (DMaxModule(make_denoiser(sharpen=3.0), MaskedNoise(level=0.6), optimizer=sgd) for _ in range(2))
    L.Trainer(**QUIET, max_steps=1).fit(module, loader(fill=True))
    batch = next(iter(loader(fill=True)))
    clean = by_hand.clean_batch(batch)
    assert (clean.roles == Role.FILL).any()
    (loss,) = by_hand.view_losses(clean, by_hand.row_generator(batch, clean))
    (loss.total / int((clean.roles == Role.RESPONSE).sum())).backward()
    sgd(list(by_hand.named_parameters())).step()
    assert_same_weights(module, by_hand, 2e-6)


def test_a_short_last_accumulation_window_is_normalised_by_what_it_holds():
    # 12 rows in batches of 4, two a window: the second update sees one micro-batch of 4 rows.
    uneven = train(batch_size=4, max_steps=2, n=12, accumulate_grad_batches=2, max_epochs=1)
    module = DMaxModule(make_denoiser(sharpen=3.0), OnPolicyNoise(level=0.6), optimizer=sgd)
    rows = Rows(12)

    class Two(Dataset[Any]):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            part = [rows[j] for j in (range(8) if i == 0 else range(8, 12))]
            return {key: torch.stack([row[key] for row in part]) for key in part[0]}

    L.Trainer(**QUIET, max_steps=2).fit(module, DataLoader(Two(), batch_size=None))
    assert_same_weights(uneven, module, 2e-6)


def test_the_update_is_the_gradient_of_the_mean_over_response_tokens():
    module = DMaxModule(make_denoiser(sharpen=3.0), MaskedNoise(level=1.0, supervise="all"), optimizer=sgd)
    before = copy.deepcopy(module)
    L.Trainer(**QUIET, max_steps=1).fit(module, loader(16))
    clean = Rows().clean
    # The whole response masked: run the doubled sequence by hand, with every logit.
    view = torch.where(clean.response, clean.special.mask_id, clean.ids)
    hidden = TrainingForward(before.backbone, clean, doubled=True)(view)
    losses = torch.nn.functional.cross_entropy(
        before.backbone.logits(hidden).flatten(0, 1), clean.ids.flatten(), reduction="none"
    ).view_as(clean.ids)
    (losses[clean.response].sum() / clean.response.sum()).backward()
    for a, b in zip(module.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(a, b - 0.5 * b.grad, atol=2e-6, rtol=1e-5)


def test_a_copy_shares_what_makes_its_optimiser():
    run = (number for number in range(1))  # cannot be copied
    module = DMaxModule(make_denoiser(), optimizer=partial(lambda run, params: sgd(params), run))
    copied = copy.deepcopy(module)
    assert copied.optimizer is module.optimizer
    assert_same_weights(copied, module)
    assert copied.backbone.embedding is not module.backbone.embedding


def test_gradients_are_clipped_after_they_are_normalised():
    module = train(max_steps=1, optimizer=lambda p: torch.optim.SGD([q for _, q in p], lr=1.0), gradient_clip_val=0.01)
    start = make_denoiser(sharpen=3.0)
    moved = torch.stack(
        [(a - b).norm().detach() for a, b in zip(module.backbone.parameters(), start.parameters(), strict=True)]
    )
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("step", [3, 8, 11], ids=["inside an epoch", "at its end", "inside the next"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, step):
    def run(folder, ckpt_path=None):
        module = DMaxModule(make_denoiser(sharpen=3.0), OnPolicyNoise(level=(0.2, 0.9), stratified=True), MuonAdamW)
        data = SelfDistilledDataModule(
            task="chain", task_options={"operations": 3}, num_train=32, num_val=0, batch_size=4, seed=1
        )
        checkpoint = ModelCheckpoint(dirpath=tmp_path / folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = L.Trainer(**{**QUIET, "enable_checkpointing": True}, max_steps=13, callbacks=[checkpoint])
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module

    straight = run("straight")
    assert_same_weights(straight, run("resumed", tmp_path / "straight" / f"step={step}.ckpt"))


def test_corruption_differs_between_epochs():
    seen = []

    class Spy(MaskedNoise):
        def views(self, clean, generator):
            for view in super().views(clean, generator):
                seen.append(view.ids.clone())
                yield view

    train(Spy(level=0.5), batch_size=16, max_steps=2)
    assert not torch.equal(seen[0], seen[1])


def test_a_strategy_may_yield_a_view_twice():
    class Twice(OnPolicyNoise):
        def views(self, clean, generator):
            dialogue = super().views(clean, generator)
            prediction = yield next(dialogue)
            view = dialogue.send(prediction)
            yield view
            yield replace(view, name="again")

    clean = make_batch()
    module, generator = DMaxModule(make_denoiser(), Twice()), RowGenerator(0, range(len(clean.ids)))
    _, predicted, again = module.view_losses(clean, generator)
    assert (predicted.name, again.name) == ("predicted", "again")
    torch.testing.assert_close(again.total, predicted.total)
    assert again.model_filled == predicted.model_filled > 0


@pytest.mark.parametrize(
    ("noise", "options"),
    [
        *((name, {}) for name in NOISE),
        ("multi_block", {"base": "on_policy"}),
        ("editing", {"wrong": "own", "second_turn_weight": 1.0}),
    ],
)
def test_a_prediction_is_freed_before_the_next_view_is_predicted(noise, options):
    module, freed = DMaxModule(make_denoiser(), NOISE.get(noise)(**options)), []
    predict = module.predict_view

    def predict_view(view, forward):
        assert all(prediction() is None for prediction in freed)
        prediction = predict(view, forward)
        freed.append(weakref.ref(prediction))
        return prediction

    module.predict_view = predict_view
    clean = make_batch()
    assert len(module.view_losses(clean, RowGenerator(0, list(range(len(clean.ids)))))) == len(freed) > 0


def test_a_strategy_with_one_view_of_its_own():
    class Identity(NoiseStrategy):
        def views(self, clean, generator):
            yield View(clean.ids, clean.response, "clean")

    clean, module = make_batch(), DMaxModule(make_denoiser(), Identity())
    (loss,) = module.view_losses(clean, RowGenerator(0, range(len(clean.ids))))
    assert loss.name == "clean"
    assert loss.supervised == loss.right == clean.response.sum()
    assert loss.total == loss.cross_entropy > 0


def test_rows_without_response_do_not_break_a_step():
    clean = make_batch()
    clean.roles[clean.roles == Role.RESPONSE] = Role.PROMPT
    module = DMaxModule(make_denoiser(), "on_policy")
    batch = {"ids": clean.ids, "roles": clean.roles, "index": torch.arange(3)}
    trainer = L.Trainer(**QUIET, max_steps=1)
    trainer.fit(module, DataLoader([batch], batch_size=None))
    assert all(p.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("noise", [*NOISE])
def test_every_strategy_learns_from_rows_without_a_prompt(noise):
    clean = make_batch((0, 0, 3), (24, 8, 5))
    rows = {"ids": clean.ids, "roles": clean.roles, "index": torch.arange(3)}
    module = DMaxModule(make_denoiser(sharpen=3.0), NOISE.get(noise)())
    module.loss(rows).backward()
    assert 0 < module.backbone.embedding.grad.norm() < torch.inf


def test_losses_and_rates_are_logged():
    module = DMaxModule(make_denoiser(), "on_policy")
    trainer = L.Trainer(**QUIET, max_steps=1)
    trainer.fit(module, loader())
    expected = {"loss", "loss_masked", "loss_predicted", "rollout_error", "corrected_predicted", "corrupted_predicted"}
    assert {f"train/{name}" for name in expected} <= set(trainer.callback_metrics)


class NeedyNoise(MaskedNoise):
    def __init__(self, rate):
        super().__init__()


def test_an_unknown_noise_or_form_is_refused():
    with pytest.raises(UserError, match=r"known: .*masked, .*on_policy, .*uniform"):
        DMaxModule(make_denoiser(), "no_such_noise")
    with pytest.raises(UserError, match="noise 'NeedyNoise': expected the option rate, which has no default, got none"):
        DMaxModule(make_denoiser(), f"{__name__}.NeedyNoise")
    with pytest.raises(UserError, match="clean_half: expected"):
        DMaxModule(make_denoiser(), clean_half="once")


def test_an_export_loads_and_generates(tmp_path):
    module = DMaxModule(make_denoiser(sharpen=3.0)).eval()
    module.set_task("chain", {"difficulty": "easy"})
    module.export(tmp_path / "m")
    again = load(tmp_path / "m")
    assert not again.training
    assert again.task_name == "chain"
    assert again.task().options()["difficulty"] == "easy"
    prompts = ["3 +1 *3 ?", "1 +3 ?"]
    assert again.encode_prompt(prompts[0]) == module.encode_prompt(prompts[0])
    for one, two in zip(
        module.generate(prompts, max_new_tokens=16), again.generate(prompts, max_new_tokens=16), strict=True
    ):
        assert one.token_ids == two.token_ids
        assert one.num_tokens == len(one.token_ids) <= 16
        assert module.special.mask_id not in one.token_ids


def test_a_checkpoint_stands_alone(tmp_path):
    module = DMaxModule(make_denoiser(sharpen=3.0))
    module.set_task("chain", {})
    trainer = L.Trainer(**{**QUIET, "default_root_dir": tmp_path}, max_steps=1)
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = load(tmp_path / "x.ckpt")
    assert again.task_name == "chain"
    assert again.backbone.block_length == 8
    assert_same_weights(module, again)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None, "other"])
def test_a_missing_or_damaged_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "x.ckpt"
    if content == "other":
        torch.save({"weights": torch.zeros(1)}, path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="checkpoint: ") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (json.dumps, ("x",))

    torch.save({"dmaxlit": Evil()}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "x.ckpt")
