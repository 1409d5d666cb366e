import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone import TrainingForward
from dmaxlit.callbacks import BlockWarmup
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.noise import MaskedNoise
from tests.conftest import make_denoiser
from tests.test_module import QUIET, assert_same_weights, loader, sgd

STAGES = {0: 1, 2: 4, 3: 8}


class Spy(MaskedNoise):
    """Records block length and width of every batch."""

    def __init__(self):
        super().__init__(level=0.5)
        self.batches = []

    def views(self, clean, generator):
        self.batches.append((clean.step, clean.block_length, clean.ids.shape[1]))
        yield from super().views(clean, generator)


def fit(stages, steps=5, **trainer):
    module = DMaxModule(make_denoiser(sharpen=3.0), Spy(), optimizer=sgd)
    callbacks = [] if stages is None else [BlockWarmup(stages)]
    L.Trainer(**{**QUIET, "max_steps": steps, "callbacks": callbacks, **trainer}).fit(module, loader())
    return module


def test_blocks_grow_with_the_optimiser_step_while_rows_stay_as_they_are():
    module = fit(STAGES)
    assert [length for _, length, _ in module.noise.batches] == [1, 1, 4, 8, 8]
    assert {width % 8 for _, _, width in module.noise.batches} == {0}
    assert module.training_block_length is None
    assert module.backbone.block_length == module.metadata()["block_length"] == 8


def test_an_accumulation_window_has_one_length():
    batches = fit(STAGES, 4, accumulate_grad_batches=2).noise.batches
    assert [(step, length) for step, length, _ in batches] == [
        (s, {0: 1, 1: 1, 2: 4, 3: 8}[s]) for s in range(4) for _ in "ab"
    ]


def test_a_single_stage_is_training_without_the_callback():
    assert_same_weights(fit({0: 8}), fit(None))
    with pytest.raises(AssertionError):
        assert_same_weights(fit({0: 1, 100: 8}), fit(None))


def test_blocks_of_one_see_all_the_text_before_and_nothing_after():
    module = DMaxModule(make_denoiser(sharpen=3.0), MaskedNoise(level=1.0))
    batch = next(iter(loader()))
    module.training_block_length = 1
    clean = module.clean_batch(batch)
    view = torch.where(clean.response, clean.special.mask_id, clean.ids)
    hidden = TrainingForward(module.backbone, clean)(view)
    row, column = 0, int(clean.response[0].nonzero()[3])
    for changed, attends in ((column - 1, True), (column + 1, False), (column, False)):
        batch_two = {**batch, "ids": batch["ids"].clone()}
        batch_two["ids"][row, changed] = (batch["ids"][row, changed] + 1) % 30
        two = module.clean_batch(batch_two)
        after = TrainingForward(module.backbone, two)(view)
        assert ((hidden - after)[row, column].abs().max() > 1e-6) == attends


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_goes_on_where_it_was(tmp_path):
    def run(folder, ckpt_path=None):
        module = DMaxModule(make_denoiser(sharpen=3.0), Spy(), optimizer=sgd)
        data = SelfDistilledDataModule(
            task="chain", task_options={"operations": 3}, num_train=32, num_val=0, batch_size=4, seed=1
        )
        saved = ModelCheckpoint(tmp_path / folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        callbacks = [BlockWarmup(STAGES), saved]
        trainer = L.Trainer(**{**QUIET, "enable_checkpointing": True}, max_steps=5, callbacks=callbacks)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module

    straight, resumed = run("straight"), run("resumed", tmp_path / "straight" / "step=2.ckpt")
    assert resumed.noise.batches == straight.noise.batches[2:]
    assert_same_weights(straight, resumed)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({}, "expected a first stage that begins at step 0"),
        ({5: 8}, "expected a first stage that begins at step 0"),
        ({0: 4, 5: 2}, "lengths of at least 1 that grow"),
        ({0: 0, 5: 8}, "lengths of at least 1 that grow"),
        ({0: 3, 5: 8}, "divisors of the model's block length 8"),
        ({0: 1, 5: 4}, "divisors of the model's block length 8"),
    ],
)
def test_bad_stages_are_refused(stages, message):
    with pytest.raises(UserError, match=message):
        fit(stages)
