from dataclasses import replace

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from dmaxlit import DMaxModule
from dmaxlit.callbacks import NextTokenTraining
from dmaxlit.data.encoding import encode_pair
from dmaxlit.tokens import Role
from tests.callbacks.fakes import LIGHTNING_WARNINGS, examples, make_data, make_trainer
from tests.conftest import make_batch, make_denoiser
from tests.test_module import QUIET, loader, sgd


def test_next_token_training_replaces_the_losses_while_it_trains():
    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    trainer = L.Trainer(**QUIET, max_steps=2, callbacks=[NextTokenTraining()])
    trainer.fit(module, loader())
    losses = {name for name in trainer.callback_metrics if name.startswith("train/loss_")}
    assert losses == {"train/loss_next"}
    assert module.view_losses.__func__ is DMaxModule.view_losses
    assert module.clean_batch.__func__ is DMaxModule.clean_batch


def test_the_first_token_of_a_row_without_a_prompt_is_not_in_the_loss():
    clean = make_batch((0, 0, 3), (24, 8, 5))
    rows = {"ids": clean.ids, "roles": clean.roles, "index": torch.arange(3)}
    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    trainer = L.Trainer(**QUIET, max_steps=1, callbacks=[NextTokenTraining()])
    trainer.fit(module, DataLoader([rows], batch_size=None))
    assert trainer.callback_metrics["train/loss"] == trainer.callback_metrics["train/loss_next"]


@LIGHTNING_WARNINGS
def test_validation_logs_the_loss_of_the_reference_responses(tmp_path):
    module = DMaxModule(make_denoiser(sharpen=3.0, max_position_embeddings=64), optimizer=sgd)
    trainer = make_trainer(tmp_path, [NextTokenTraining()], max_steps=2, val_check_interval=1)
    trainer.fit(module, datamodule=make_data(num_train=16))
    losses = []
    for example in examples("val"):
        pair = encode_pair(module.tokenizer, example.prompt, example.response, 8)
        ids = torch.tensor(pair.ids)
        causal = torch.ones(1, len(ids), len(ids), dtype=torch.bool).tril()
        hidden = module.backbone.hidden(causal, torch.arange(len(ids))[None], input_ids=ids[None])
        logits = module.backbone.logits(hidden)[0]
        losses += [
            F.cross_entropy(logits[i - 1], ids[i]).item() for i, role in enumerate(pair.roles) if role == Role.RESPONSE
        ]
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@LIGHTNING_WARNINGS
def test_without_reference_responses_validation_logs_nothing(tmp_path, monkeypatch):
    data = make_data(num_train=16)
    without = [replace(example, response=None) for example in examples("val")]
    task_examples = data.task.examples
    monkeypatch.setattr(data.task, "examples", lambda split, n: without if split == "val" else task_examples(split, n))
    module = DMaxModule(make_denoiser(max_position_embeddings=64), optimizer=sgd)
    trainer = make_trainer(tmp_path, [NextTokenTraining()], max_steps=1, val_check_interval=1)
    trainer.fit(module, datamodule=data)
    assert "val/loss" not in trainer.callback_metrics
