"""Streamed corpora under a trainer: what a run sees, also after an interruption."""

import contextlib
import json
import shutil

import lightning as L
import pytest
import torch

from dmaxlit.errors import UserError
from tests.data.streaming import numbers_of, streamed, write_shards
from tests.data.test_datamodule_training import QUIET as TRAINING

QUIET = {**TRAINING, "num_sanity_val_steps": 0}


class Recorder(L.LightningModule):
    def __init__(self, stop_at=None, checkpoint=None):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.layer.weight)
        self.seen, self.stop_at, self.checkpoint = [], stop_at, checkpoint

    def training_step(self, batch, _):
        self.seen.append((self.current_epoch, numbers_of(batch)))
        return self.layer(batch["index"][:, None].float()).mean()

    def validation_step(self, batch, _):
        self.seen.append(("val", self.current_epoch))

    def on_train_batch_end(self, *_):
        if self.global_step == self.stop_at:
            self.trainer.save_checkpoint(self.checkpoint)
            raise KeyboardInterrupt

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-4)


def fit(module, corpus, resume=None, workers=0, **limits):
    trainer = L.Trainer(default_root_dir=corpus, **QUIET, **limits)
    data = streamed(corpus, num_workers=workers, task="chain", num_val=2)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("limits", "number", "of_epoch"),
    [
        ({"max_epochs": 3}, 21, 7),
        ({"max_steps": 17}, 17, 7),
        ({"max_epochs": 3, "limit_train_batches": 5}, 15, 5),
        ({"max_epochs": 3, "overfit_batches": 5}, 15, 5),
    ],
    ids=["epochs", "steps", "limit", "overfit"],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_resumed_at_any_step_sees_what_an_uninterrupted_one_sees(tmp_path, limits, number, of_epoch, workers):
    folder = write_shards(tmp_path / "c", [12, 13])
    whole = fit(Recorder(), folder, **limits)
    steps = [seen for seen in whole.seen if seen[0] != "val"]
    assert [epoch for epoch, _ in steps] == [step // of_epoch for step in range(number)]
    for epoch in (0, 1) if of_epoch == 7 else ():
        assert sorted(number for when, batch in steps if when == epoch for number in batch) == list(range(25))
    assert [seen for seen in whole.seen if seen[0] == "val"] == [("val", epoch) for epoch in range(number // of_epoch)]
    for stop in (1, 3, 6, 7, 8, 14, 15) if workers == 0 else (6,):
        file = tmp_path / f"{stop}.ckpt"
        before = fit(Recorder(stop, file), folder, workers=workers, **limits)
        after = fit(Recorder(), folder, resume=file, workers=workers, **limits)
        trained = [seen for seen in before.seen + after.seen if seen[0] != "val"]
        assert trained == steps, stop
        assert torch.equal(after.layer.weight, whole.layer.weight)


@pytest.mark.filterwarnings("ignore")
def test_overfit_batches_repeats_the_first_batches_of_the_corpus(tmp_path):
    module = fit(Recorder(), write_shards(tmp_path / "c", [12, 3]), overfit_batches=2, max_epochs=2)
    batches = [numbers for epoch, numbers in module.seen if epoch != "val"]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2


@pytest.mark.parametrize(
    ("name", "share"), [("val_check_interval", 0.5), ("limit_train_batches", 0.5), ("overfit_batches", 0.1)]
)
@pytest.mark.filterwarnings("ignore")
def test_shares_of_an_epoch_are_refused(tmp_path, name, share):
    expected = rf"^trainer.{name}: expected a number of batches with streaming, got the share {share}$"
    with pytest.raises(UserError, match=expected):
        fit(Recorder(), write_shards(tmp_path / "c", [12]), max_epochs=2, **{name: share})


def test_a_corpus_or_setting_that_changed_is_seen_in_the_fingerprint(tmp_path):
    folder = write_shards(tmp_path / "c", [12, 13])
    data = streamed(folder)
    before = data.fingerprint()
    assert before.startswith("stream of 2 shards, ")
    assert streamed(folder, batch_size=2, num_workers=1, seed=7).fingerprint() == before
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert streamed(str(copy)).fingerprint() == before
    for options in ({"shuffle_buffer": 11}, {"on_bad_row": "skip"}, {"max_length": 12}, {"eos_fill": 2}):
        assert streamed(folder, **options).fingerprint() != before
    with (copy / "0.jsonl").open("a") as file:
        file.write("\n")
    assert streamed(str(copy)).fingerprint() != before
    (copy / "0.jsonl").rename(copy / "2.jsonl")
    assert len({streamed(str(copy)).fingerprint(), streamed(folder).fingerprint(), before}) == 2


def test_the_rows_of_the_last_batches_have_places(tmp_path):
    folder = write_shards(tmp_path / "c", [5])
    data = streamed(folder, batch_size=2, shuffle_buffer=1)
    assert data.places([0]) == ["?"]
    seen = list(data.train_dataloader())
    assert data.places([4, 1, 99]) == [f"{folder}/0.jsonl, row 5", f"{folder}/0.jsonl, row 2", "?"]
    assert [numbers_of(batch) for batch in seen] == [[0, 1], [2, 3], [4]]


@pytest.mark.slow
def test_two_processes_share_a_stream_and_resume_it(processes, tmp_path):
    folder = write_shards(tmp_path / "c", [12, 13, 14])
    codes = processes.run([folder, tmp_path], tmp_path / "log", module="tests.data.stream_ranks")
    assert codes == [0], (tmp_path / "log").read_text()
    whole, first, rest = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "first", "rest"))
    alone = streamed(folder, batch_size=6).train_dataloader()
    expected = []
    for epoch in (0, 1):  # of 7 global batches, the last with 3 rows
        alone.set_epoch(epoch)
        expected += [[epoch, numbers_of(batch)] for batch in alone]
    for rank, (seen, weight) in enumerate(whole):
        assert seen == [[epoch, numbers[rank::2]] for epoch, numbers in expected[:11]]
        assert [*first[rank][0], *rest[rank][0]] == seen
        assert rest[rank][1] == weight == whole[0][1]
