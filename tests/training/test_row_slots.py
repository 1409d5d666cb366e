from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, IterableDataset

from dmaxlit.data.sampling import RowSampler
from dmaxlit.training.row_slots import row_slots


def steps_of(rows, world, batch_size, accumulate, limit=None):
    """Return the slots and rows of each step, over all ranks and micro-batches, for rows in their own order."""
    samplers = [RowSampler(rows, batch_size, world, rank) for rank in range(world)]
    num_batches = min(-(-len(samplers[0]) // batch_size), limit or rows)
    steps = []
    for rank, sampler in enumerate(samplers):
        loader = DataLoader(range(rows), batch_size=batch_size, sampler=sampler)
        trainer = SimpleNamespace(
            world_size=world,
            global_rank=rank,
            accumulate_grad_batches=accumulate,
            train_dataloader=loader,
            num_training_batches=num_batches,
        )
        mine = list(range(rank, sampler.used, world))
        for batch in range(num_batches):
            part = mine[batch * batch_size : (batch + 1) * batch_size]
            slots, number = row_slots(trainer, len(part), batch)
            if batch // accumulate == len(steps):
                steps.append({})
            steps[batch // accumulate].update({row: (slot, number) for row, slot in zip(part, slots, strict=True)})
    return steps


@pytest.mark.parametrize("rows", [16, 26, 27, 29])
@pytest.mark.parametrize(
    ("world", "batch_size", "accumulate"), [(1, 8, 2), (2, 2, 4), (2, 4, 2), (1, 2, 8), (1, 16, 1)]
)
def test_every_division_of_a_step_gives_its_rows_the_same_slots(rows, world, batch_size, accumulate):
    for step, slots in enumerate(steps_of(rows, world, batch_size, accumulate)):
        used = min(16, RowSampler(rows, batch_size, world).used - 16 * step)
        assert slots == {16 * step + slot: (slot, used) for slot in range(used)}


def test_an_epoch_that_ends_early_ends_its_last_step():
    first, second = steps_of(32, 1, 4, 2, limit=3)
    assert {number for _, number in first.values()} == {8}
    assert {number for _, number in second.values()} == {4}


def test_a_loader_of_unknown_size_has_equal_batches():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(range(100))

    trainer = SimpleNamespace(
        world_size=2,
        global_rank=1,
        accumulate_grad_batches=3,
        train_dataloader=DataLoader(Endless(), batch_size=None),
        num_training_batches=float("inf"),
    )
    assert row_slots(trainer, 2, 4) == ([5, 7], 12)
