import contextlib
import itertools

import lightning as L
import pytest
import torch
from torch.utils.data import DistributedSampler

from dmaxlit.data.sampling import (
    LengthGroupedSampler,
    OrderedRowSampler,
    ResumableLoader,
    RowSampler,
    leave_process_group,
)
from dmaxlit.errors import UserError
from dmaxlit.randomness import stable_seed


def epoch_of(rows, batch_size, epoch, world=1, rank=0, shuffle=True, seed=0):
    sampler = RowSampler(rows, batch_size, world, rank, shuffle, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def batched(rows, size):
    return [rows[i : i + size] for i in range(0, len(rows), size)]


@pytest.mark.parametrize(
    ("rows", "batch_size", "world"), list(itertools.product([1, 7, 24, 25, 31], [1, 3, 4], [1, 2, 3]))
)
def test_ranks_share_each_global_batch_without_repeats(rows, batch_size, world):
    ranks = [batched(epoch_of(rows, batch_size, 2, world, rank), batch_size) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    together = [sorted(itertools.chain(*batches)) for batches in zip(*ranks, strict=True)]
    alone = [sorted(batch) for batch in batched(epoch_of(rows, batch_size * world, 2), batch_size * world)]
    assert together == (alone if len(alone[-1]) >= world else alone[:-1])
    seen = list(itertools.chain(*together))
    assert len(set(seen)) == len(seen) > rows - world


@pytest.mark.parametrize(("rows", "world"), [(7, 1), (7, 2), (7, 3), (2, 3)])
def test_in_evaluation_every_row_comes_exactly_once(rows, world):
    ranks = [epoch_of(rows, 4, 0, world, rank, shuffle=False) for rank in range(world)]
    assert sorted(itertools.chain(*ranks)) == list(range(rows))
    assert all(order == sorted(order) for order in ranks)


@pytest.mark.parametrize(("rows", "world", "used"), [(25, 2, 24), (7, 3, 7), (24, 2, 24)])
def test_ordered_rows_are_the_same_in_every_epoch_and_even_if_asked(rows, world, used):
    samplers = [OrderedRowSampler(rows, 4, world, rank, even=True) for rank in range(world)]
    ranks = [list(sampler) for sampler in samplers]
    assert len({len(batched(order, 4)) for order in ranks}) == 1
    assert sorted(itertools.chain(*ranks)) == list(range(used))
    for sampler, order in zip(samplers, ranks, strict=True):
        sampler.set_epoch(3)
        assert list(sampler) == order == sorted(order)
        assert len(sampler) == len(order)
    uneven = [list(OrderedRowSampler(rows, 4, world, rank)) for rank in range(world)]
    assert sorted(itertools.chain(*uneven)) == list(range(rows))


def test_order_depends_on_seed_and_epoch_only():
    first = epoch_of(50, 4, 0)
    torch.manual_seed(1)
    assert epoch_of(50, 4, 0) == first
    assert sorted(first) == list(range(50)) != first
    assert len({tuple(epoch_of(50, 4, e, seed=s)) for e in range(3) for s in range(3)}) == 9
    assert epoch_of(10, 4, 1) == [0, 2, 9, 6, 4, 7, 8, 3, 1, 5]


@pytest.mark.parametrize(("rows", "world"), [(25, 2), (9, 1)])
def test_length_is_that_of_the_whole_epoch(rows, world):
    for rank in range(world):
        sampler = RowSampler(rows, 4, world, rank)
        assert len(sampler) == len(list(sampler))
        sampler.first_batch = 1
        assert len(sampler) == len(list(sampler)) + 4


def test_lightning_takes_it_for_a_distributed_sampler():
    assert isinstance(RowSampler(3, 1), DistributedSampler)


def test_a_loader_goes_on_from_its_state_once():
    def fresh():
        return ResumableLoader(range(10), RowSampler(10, 3, seed=5), collate_fn=list)

    loader = fresh()
    loader.sampler.set_epoch(2)
    whole, batches = list(loader), iter(loader)
    assert [next(batches), next(batches)] == whole[:2]
    again = fresh()
    again.load_state_dict(loader.state_dict())
    assert again.state_dict() == {"epoch": 2, "batches": 2, "rows_of_batch": 3}
    assert len(again) == 4
    assert list(again) == whole[2:]
    assert list(again) == whole


@pytest.mark.parametrize("batches", range(6))
@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 2), (2, 1), (2, 2), (1, 8)])
def test_a_state_of_other_batches_skips_the_rows_that_were_seen(batches, ranks, batch_size):
    seen = {"epoch": 2, "batches": batches, "rows_of_batch": 4}
    rest = []
    for rank in range(ranks):
        loader = ResumableLoader(range(20), RowSampler(20, batch_size, ranks, rank, seed=5), collate_fn=list)
        loader.load_state_dict(seen)
        rest += itertools.chain(*loader)
    order = epoch_of(20, 4, 2, seed=5)
    skipped = min(-(-4 * batches // (ranks * batch_size)) * ranks * batch_size, 20)
    assert sorted(rest) == sorted(order[skipped:])


def test_grouped_rows_resume_with_as_many_rows_of_a_batch_alone():
    loader = ResumableLoader(range(20), LengthGroupedSampler(torch.arange(20), 2, 2), collate_fn=list)
    loader.load_state_dict({"epoch": 2, "batches": 3, "rows_of_batch": 4})
    assert len(list(itertools.chain(*loader))) == 4
    expected = r"^batch_size: expected 8 rows over all ranks with group_by_length, as in the run .* resumed, got 4$"
    with pytest.raises(UserError, match=expected):
        loader.load_state_dict({"epoch": 2, "batches": 3, "rows_of_batch": 8})


def test_a_state_of_another_epoch_skips_nothing():
    loader = ResumableLoader(range(10), RowSampler(10, 3, seed=5), collate_fn=list)
    loader.load_state_dict({"epoch": 2, "batches": 2})
    loader.sampler.set_epoch(3)
    assert list(itertools.chain(*loader)) == epoch_of(10, 3, 3, seed=5)


def test_a_system_without_process_groups_needs_none(monkeypatch):
    monkeypatch.delattr("os.setpgid")
    leave_process_group(0)


class Recorder(L.LightningModule):
    def __init__(self, stop_at=None, checkpoint=None):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen, self.stop_at, self.checkpoint = [], stop_at, checkpoint

    def training_step(self, batch, _):
        self.seen.append((self.current_epoch, batch.tolist()))
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, _):
        return None

    def on_train_batch_end(self, *_):
        if self.global_step == self.stop_at:
            self.trainer.save_checkpoint(self.checkpoint)
            raise KeyboardInterrupt

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(module, folder, workers, resume=None, **limits):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(accelerator="cpu", default_root_dir=folder, num_sanity_val_steps=0, **quiet, **limits)
    loader = ResumableLoader(range(10), RowSampler(10, 3, seed=5), num_workers=workers)
    val = torch.utils.data.DataLoader(range(2))
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(module, loader, val, ckpt_path=resume, weights_only=True)
    return module.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limits", [{"max_epochs": 4}, {"max_steps": 14}], ids=["epochs", "steps"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_resumed_at_any_step_sees_what_an_uninterrupted_one_sees(tmp_path, limits, workers):
    whole = fit(Recorder(), tmp_path, 0, **limits)
    assert len(whole) == limits.get("max_steps", 16)
    assert [epoch for epoch, _ in whole] == [i // 4 for i in range(len(whole))]
    for epoch in range(3):
        rows = list(itertools.chain(*(batch for e, batch in whole if e == epoch)))
        assert rows == epoch_of(10, 3, epoch, seed=5)
    for stop in (2, 4, 5, 8, 11) if workers == 0 else (6,):
        file = tmp_path / f"{stop}.ckpt"
        before = fit(Recorder(stop, file), tmp_path, workers, **limits)
        assert before == whole[:stop]
        assert before + fit(Recorder(), tmp_path, workers, resume=file, **limits) == whole


LENGTHS = torch.tensor([(17 * n) % 101 for n in range(431)])


def grouped(batch_size, epoch, world=1, rank=0, seed=0):
    sampler = LengthGroupedSampler(LENGTHS, batch_size, world, rank, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def slowly_grouped(size, epoch, seed):
    """Return the order of an epoch as the definition has it."""
    order = epoch_of(len(LENGTHS), size, epoch, seed=seed)
    whole, rest = order[: len(order) // size * size], order[len(order) // size * size :]
    batches = []
    for window in batched(whole, 50 * size):
        batches += batched(sorted(window, key=lambda row: -int(LENGTHS[row])), size)
    generator = torch.Generator().manual_seed(stable_seed("batches", seed, epoch))
    shuffled = [batches[number] for number in torch.randperm(len(batches), generator=generator).tolist()]
    return [*itertools.chain(*shuffled), *rest]


@pytest.mark.parametrize(("size", "seed", "epoch"), [(4, 0, 0), (4, 3, 2), (7, 1, 1), (500, 1, 1)])
def test_batches_of_similar_lengths_are_what_sorting_windows_makes(size, seed, epoch):
    assert grouped(size, epoch, seed=seed) == slowly_grouped(size, epoch, seed)


def test_similar_lengths_come_together_and_every_row_once_an_epoch():
    def padded(order):
        return sum(len(rows) * max(LENGTHS[rows].tolist()) for rows in batched(order, 4))

    first, second, plain = grouped(4, 0), grouped(4, 1), epoch_of(len(LENGTHS), 4, 0)
    assert sorted(first) == sorted(second) == sorted(plain)
    assert first != second
    assert padded(first) < 1.05 * int(LENGTHS.sum()) < 0.8 * padded(plain)
    longest = [int(LENGTHS[rows].max()) for rows in batched(first, 4)]
    assert longest != sorted(longest, reverse=True)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_global_batches_of_similar_lengths(world):
    ranks = [batched(grouped(4, 2, world, rank), 4) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    together = [sorted(itertools.chain(*batches)) for batches in zip(*ranks, strict=True)]
    alone = [sorted(batch) for batch in batched(grouped(4 * world, 2), 4 * world)]
    assert together == (alone if len(alone[-1]) >= world else alone[:-1])


def test_batches_of_similar_lengths_resume_in_the_middle_of_an_epoch():
    def loader():
        return ResumableLoader(range(len(LENGTHS)), LengthGroupedSampler(LENGTHS, 3, seed=5), collate_fn=list)

    first = loader()
    first.sampler.set_epoch(1)
    batches = iter(first)
    seen = [next(batches) for _ in range(60)]
    second = loader()
    second.load_state_dict(first.state_dict())
    second.sampler.set_epoch(1)
    assert [*seen, *second] == batched(grouped(3, 1, seed=5), 3)
