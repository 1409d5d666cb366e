import contextlib
import itertools
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from dmaxlit import UserError
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.data.sampling import ResumableLoader, RowSampler
from dmaxlit.data.token_batches import TokenBatchSampler
from dmaxlit.tasks import ChainTask
from dmaxlit.tokens import Role
from dmaxlit.training.row_slots import row_slots
from tests.data.test_sampling import Recorder

LENGTHS = torch.tensor([8 * (1 + (17 * n) % 13) for n in range(331)])


def sampler_of(world=1, rank=0, epoch=0, lengths=LENGTHS, max_tokens=300, max_rows=9, seed=0):
    sampler = TokenBatchSampler(lengths, max_tokens, max_rows, world, rank, seed)
    sampler.set_epoch(epoch)
    return sampler


def batches_of(**options):
    return list(sampler_of(**options))


def slow_sizes(lengths, max_tokens, max_rows):
    """Return the rows of each batch, from the longest row to the shortest, by adding one row after the other."""
    sizes, longest = [], 0
    for length in sorted(lengths.tolist(), reverse=True):
        if sizes and sizes[-1] < max_rows and (sizes[-1] + 1) * longest <= max_tokens:
            sizes[-1] += 1
        else:
            sizes.append(1)
            longest = length
    return sizes


@pytest.mark.parametrize(("max_tokens", "max_rows"), [(104, 9), (300, 9), (300, 1000), (5000, 7), (10**6, 10**6)])
def test_batches_have_as_many_rows_as_fit(max_tokens, max_rows):
    batches = batches_of(max_tokens=max_tokens, max_rows=max_rows, epoch=2)
    assert sorted(map(len, batches)) == sorted(slow_sizes(LENGTHS, max_tokens, max_rows))
    assert all(len(rows) * int(LENGTHS[rows].max()) <= max_tokens for rows in batches)
    assert sorted(itertools.chain(*batches)) == list(range(len(LENGTHS)))
    by_length = sorted(batches, key=lambda rows: -int(LENGTHS[rows].max()))
    assert all(len(LENGTHS[rows].unique()) <= 2 or max_tokens > 1000 for rows in by_length)


def test_the_order_depends_on_seed_and_epoch_and_the_number_of_batches_on_neither():
    assert batches_of(epoch=1) == batches_of(epoch=1)
    orders = [batches_of(epoch=epoch, seed=seed) for epoch in range(3) for seed in range(3)]
    assert len({len(order) for order in orders}) == 1
    contents = [{frozenset(rows) for rows in order} for order in orders]
    assert all(one != other for one, other in itertools.combinations(contents, 2))  # who shares a batch differs too
    longest = [int(LENGTHS[rows].max()) for rows in orders[0]]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))
    assert len(orders[0]) == len(sampler_of())
    assert {len(order[-1]) for order in orders} == {max(map(len, orders[0]))}


@pytest.mark.parametrize("world", [2, 3, 4, 5, 7, 16])
@pytest.mark.parametrize("count", [5, 17, 100, 331])
def test_ranks_together_have_the_batches_that_one_process_accumulates(world, count):
    lengths = LENGTHS[:count]
    for epoch in range(3):
        if count < world:
            continue
        ranks = [batches_of(world=world, rank=rank, epoch=epoch, lengths=lengths) for rank in range(world)]
        alone = batches_of(epoch=epoch, lengths=lengths)
        assert {len(batches) for batches in ranks} == {len(sampler_of(world=world, lengths=lengths))}
        together = [list(itertools.chain(*batches)) for batches in zip(*ranks, strict=True)]
        steps = [list(itertools.chain(*alone[begin : begin + world])) for begin in range(0, len(alone), world)]
        left_out = steps[len(together) :]
        assert together == steps[: len(together)]
        assert len(left_out) <= 1
        fit = (len(rows) * int(lengths[rows].max()) <= 300 for batches in ranks for rows in batches)
        assert all(fit)


def test_what_may_have_fewer_rows_than_ranks_is_left_out():
    lengths = torch.full((10,), 100)
    assert [len(sampler_of(world=4, rank=rank, lengths=lengths, max_tokens=100)) for rank in range(4)] == [2] * 4
    assert len(sampler_of(world=3, lengths=lengths, max_tokens=200)) == 2  # batches of 2: the last two have 4 rows
    assert [len(batches_of(world=10, rank=rank, lengths=lengths)) for rank in range(10)] == [1] * 10


@pytest.mark.parametrize(("world", "accumulate"), [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_every_division_of_a_step_gives_its_rows_the_same_slots(world, accumulate):
    expected = {}
    alone = batches_of(epoch=1)
    for begin in range(0, len(alone), 6):
        rows = list(itertools.chain(*alone[begin : begin + 6]))
        expected |= {row: (slot, len(rows)) for slot, row in enumerate(rows)}
    slots = {}
    for rank in range(world):
        sampler = sampler_of(world=world, rank=rank, epoch=1)
        trainer = SimpleNamespace(
            world_size=world,
            global_rank=rank,
            accumulate_grad_batches=accumulate,
            train_dataloader=ResumableLoader(range(331), sampler),
            num_training_batches=len(sampler),
        )
        for batch, rows in enumerate(sampler):
            mine, number = row_slots(trainer, len(rows), batch)
            slots |= {row: (slot, number) for row, slot in zip(rows, mine, strict=True)}
    assert slots == expected


@pytest.mark.parametrize("batches", [0, 1, 5])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_loader_goes_on_from_a_state_of_other_ranks(batches, ranks):
    loader = ResumableLoader(range(331), sampler_of(world=2, epoch=3), collate_fn=list)
    list(itertools.islice(loader, batches))
    state = loader.state_dict()
    assert state == {"epoch": 3, "batches": batches, "ranks": 2, "max_tokens": 300, "max_rows": 9}
    rest = []
    for rank in range(ranks):
        again = ResumableLoader(range(331), sampler_of(world=ranks, rank=rank), collate_fn=list)
        again.load_state_dict(state)
        rest += itertools.chain(*again)
    seen = -(-2 * batches // ranks) * ranks
    assert sorted(rest) == sorted(itertools.chain(*batches_of(epoch=3)[seen:]))


def test_a_state_of_other_batches_is_refused():
    def state_of(sampler):
        return ResumableLoader(range(331), sampler).state_dict()

    ours, rows = sampler_of(), RowSampler(331, 9)
    for before, here, refusal in [
        (sampler_of(max_tokens=200), ours, "max_tokens: expected 200, as in the run that is resumed, got 300"),
        (sampler_of(max_rows=8), ours, "batch_size: expected 8, as in the run that is resumed, got 9"),
        (rows, ours, "max_tokens: expected None, as in the run that is resumed, got 300"),
        (ours, rows, "max_tokens: expected 300, as in the run that is resumed, got none"),
    ]:
        with pytest.raises(UserError, match=f"^{refusal}$"):
            ResumableLoader(range(331), here).load_state_dict(state_of(before))


def test_rows_that_are_longer_are_refused_with_their_number():
    reason = (
        r"^max_tokens: expected at least 104, the tokens of the longest row with its last block, got 95, which "
        rf"{int((LENGTHS > 95).sum())} of 331 rows exceed; max_length bounds rows$"
    )
    with pytest.raises(UserError, match=reason):
        sampler_of(max_tokens=95)


def test_a_process_that_loads_changes_nothing():
    def loaded(workers):
        sampler = sampler_of(lengths=LENGTHS[:40])
        return list(ResumableLoader(range(40), sampler, num_workers=workers, collate_fn=list))

    assert loaded(1) == loaded(0) == batches_of(lengths=LENGTHS[:40])


def fit(module, folder, resume=None, **limits):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", default_root_dir=folder, **quiet, **limits)
    sampler = sampler_of(lengths=LENGTHS[:40])
    loader = ResumableLoader(torch.arange(40), sampler, collate_fn=torch.stack)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    return module.seen


@pytest.mark.filterwarnings("ignore")
def test_a_run_resumed_within_an_epoch_sees_what_an_uninterrupted_one_sees(tmp_path):
    whole = fit(Recorder(), tmp_path, max_epochs=2)
    expected = [(epoch, rows) for epoch in range(2) for rows in batches_of(epoch=epoch, lengths=LENGTHS[:40])]
    assert whole == expected
    before = fit(Recorder(len(whole) // 2 + 2, tmp_path / "a.ckpt"), tmp_path, max_epochs=2)
    assert before == whole[: len(whole) // 2 + 2]
    assert before + fit(Recorder(), tmp_path, tmp_path / "a.ckpt", max_epochs=2) == whole


def data_of(write_rows, rows=60, **options):
    records = [{"prompt": "1 ?", "response": " ".join(["so"] * (1 + (7 * n) % 29))} for n in range(rows)]
    data = SelfDistilledDataModule(corpus=write_rows(records), seed=1, **options)
    data.bind(ChainTask.tokenizer(), block_length=8, max_length=64)
    data.setup("fit")
    return data


def test_batches_of_a_data_module_have_no_more_tokens(write_rows):
    data = data_of(write_rows, max_tokens=128, batch_size=6)
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader())
    shapes = [tuple(batch["ids"].shape) for batch in batches]
    assert all(rows * length <= 128 and rows <= 6 for rows, length in shapes)
    assert (6, 16) in shapes  # the limit of rows
    assert (128 // 32, 32) in shapes  # that of tokens
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(60))
    tokens = sum(int((batch["roles"] != Role.PAD).sum()) for batch in batches)
    assert tokens > 0.9 * sum(rows * length for rows, length in shapes)
    with pytest.raises(UserError, match=r"^max_tokens: expected at least 32, .*, got 31, which \d+ of 60 rows exceed"):
        data_of(write_rows, max_tokens=31)
    with pytest.raises(UserError, match=r"^max_tokens: expected at least one block of 8, got 7$"):
        data_of(write_rows, max_tokens=7)


def test_too_few_rows_are_refused_before_anything_is_decoded(write_rows):
    corpus = write_rows([{"prompt": "1 ?", "response": "so"}] * 2)
    data = SelfDistilledDataModule(corpus=corpus, batch_size=2)
    data.bind(ChainTask.tokenizer(), 4, 64)
    data.trainer = SimpleNamespace(overfit_batches=0, global_rank=0, world_size=3)
    with pytest.raises(UserError, match=r"^corpus: expected at least one row for each of 3 ranks, found 2$"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"max_tokens": 0}, r"max_tokens: expected at least 1, got 0"),
        ({"group_by_length": True}, "max_tokens: expected none with group_by_length, for its batches are of similar "),
        ({"weights": [1.0]}, "max_tokens: expected none with weights, since epochs differ in rows then, got 64"),
    ],
)
def test_what_does_not_go_together_is_refused(options, refusal):
    with pytest.raises(UserError, match=rf"^{refusal}"):
        SelfDistilledDataModule(corpus="a.jsonl", **{"max_tokens": 64, **options})


def test_overfitting_keeps_the_order_of_rows(write_rows):
    data = data_of(write_rows, max_tokens=128)
    data.trainer = SimpleNamespace(overfit_batches=2, global_rank=0, world_size=1)
    with pytest.raises(UserError, match=r"^max_tokens: expected none with overfit_batches, which keeps the order"):
        data.setup("fit")
