import itertools
from collections import Counter

import pytest
import torch

from dmaxlit import DMaxModule
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.data.mixture import Mixture, check_weights
from dmaxlit.data.sampling import LengthGroupedSampler, ResumableLoader, RowSampler
from dmaxlit.errors import UserError
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks import ChainTask
from tests.conftest import make_denoiser


def permutation(size, *keys):
    return torch.randperm(size, generator=torch.Generator().manual_seed(stable_seed(*keys))).tolist()


def slow_order(sizes, counts, seed, epoch):
    """Return an epoch as the definition has it: each corpus is an endless queue of shuffled, numbered rounds."""
    rows, begin, total = [], 0, sum(sizes)
    for number, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        rounds = (
            [lap * total + row for row in permutation(size, "mixture", seed, number, lap)] for lap in itertools.count()
        )
        queue = itertools.chain.from_iterable(rounds)
        rows += [begin + row for row in itertools.islice(queue, epoch * count, (epoch + 1) * count)]
        begin += size
    return [rows[place] for place in permutation(len(rows), "order", seed, epoch)]


@pytest.mark.parametrize(
    ("sizes", "weights", "counts"),
    [
        ([10, 30], [3, 1], [30, 10]),
        ([10, 30], [1, 1], [20, 20]),
        ([5, 5, 1], [0.1, 0.1, 0.2], [3, 3, 5]),  # 2.75, 2.75 and 5.5
        ([2, 2, 2], [1, 1, 2], [2, 1, 3]),  # of equal remainders the first is rounded up
        ([1, 99], [1, 1], [50, 50]),
        ([7], [2], [7]),
    ],
)
def test_an_epoch_has_each_corpuss_share(sizes, weights, counts):
    mixture = Mixture(sizes, weights)
    assert mixture.counts() == counts
    for seed, epoch in itertools.product((0, 5), range(4)):
        assert mixture.order(seed, epoch).tolist() == slow_order(sizes, counts, seed, epoch)


def test_a_share_that_no_row_of_an_epoch_falls_to_is_refused():
    message = r"^weights: expected a share of .* a row of the 1000 in an epoch, got \[2000, 1\], with \[1000, 0\] rows$"
    with pytest.raises(UserError, match=message):
        Mixture([500, 500], [2000, 1])


def test_no_row_comes_again_before_all_of_its_corpus_came():
    mixture = Mixture([10, 30], [1, 3.5])
    seen = Counter()
    for epoch in range(7):
        seen.update((mixture.order(3, epoch) % 40).tolist())
        for rows in range(10), range(10, 40):
            times = [seen[row] for row in rows]
            assert max(times) - min(times) <= 1
    assert sum(seen.values()) == 7 * 40


@pytest.mark.parametrize("lengths", [None, torch.arange(40) % 7])
def test_ranks_share_the_batches_and_a_loader_resumes(lengths):
    mixture = Mixture([10, 30], [3, 1])

    def sampler(batch_size, world=1, rank=0):
        shape = batch_size, world, rank
        grouped = lengths is not None
        new: RowSampler = RowSampler(40, *shape, seed=2, mixture=mixture)
        if grouped:
            new = LengthGroupedSampler(lengths, *shape, 2, mixture)
        new.set_epoch(1)
        return new

    alone = list(sampler(8))
    assert sum(row % 40 < 10 for row in alone) == 30
    assert len(set(alone)) == 40
    ranks = [list(sampler(4, 2, rank)) for rank in range(2)]
    assert [row for pair in zip(*ranks, strict=True) for row in pair] == alone
    loader = ResumableLoader(range(40 * 7), sampler(8), collate_fn=list)  # of the 10 rows, 60 came in two epochs
    loader.load_state_dict({"epoch": 1, "batches": 2})
    assert list(itertools.chain(*loader)) == alone[16:]


def module(corpora, **options):
    data = SelfDistilledDataModule(corpus=corpora, batch_size=4, seed=1, **options)
    data.bind(ChainTask.tokenizer(), 32, 128)
    data.setup("fit")
    return data


@pytest.fixture
def corpora(write_rows):
    parts = [("1", 4), ("2", 12)]
    return [
        write_rows([{"prompt": f"{digit} ?", "response": "so " * n} for n in range(1, size + 1)], f"{digit}.jsonl")
        for digit, size in parts
    ]


def test_corpora_are_mixed_by_weight_and_rows_keep_their_places(corpora):
    data = module(corpora, weights=[3, 1])
    batches = list(data.train_dataloader())
    digits = ChainTask.tokenizer().convert_ids_to_tokens(torch.cat([batch["ids"][:, 0] for batch in batches]).tolist())
    assert Counter(digits) == {"1": 12, "2": 4}
    indices = torch.cat([batch["index"] for batch in batches]).tolist()
    assert len(set(indices)) == 16
    assert [place.rpartition("/")[2][0] for place in data.places(indices)] == digits
    assert data.places([0, 4, 15, 4]) == [f"{corpora[0]}, row 1"] + [f"{corpora[1]}, row {row}" for row in (1, 12, 1)]
    assert data.first_rows(5)["index"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("group_by_length", [False, True])
def test_a_row_that_comes_again_in_an_epoch_has_other_noise(corpora, group_by_length):
    data = module(corpora, weights=[3, 1], group_by_length=group_by_length)
    trained = DMaxModule(make_denoiser(block_length=32, max_position_embeddings=128))
    draws = {}
    for batch in data.train_dataloader():
        numbers = trained.row_generator(batch, trained.clean_batch(batch)).rand(4)
        for place, row in zip(data.places(batch["index"].tolist()), numbers.tolist(), strict=True):
            draws.setdefault(place, []).append(tuple(row))
    of_first = [drawn for place, drawn in draws.items() if place.startswith(corpora[0])]
    assert [len(drawn) for drawn in of_first] == [3, 3, 3, 3]
    assert all(len(set(drawn)) == 3 for drawn in of_first)


def test_a_mixtures_fingerprint_is_that_of_its_corpora_in_their_order(corpora):
    mixed = module(corpora, weights=[3, 1]).fingerprint()
    assert mixed == module(corpora, weights=[1, 1]).fingerprint()
    assert mixed.startswith("16 rows, ")
    others = module(corpora[::-1], weights=[3, 1]).fingerprint(), module(corpora).fingerprint()
    assert mixed not in others


def test_rows_of_a_mixture_are_grouped_by_length(corpora):
    data = module(corpora, weights=[1, 3], group_by_length=True)
    widest = [(batch["roles"] == 1).sum(1) for batch in data.train_dataloader()]
    assert all(int(lengths.max() - lengths.min()) <= 4 for lengths in widest)


@pytest.mark.parametrize("weights", [[], [1], [1, 2, 3], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_weights_that_are_not_one_for_each_corpus_are_refused(weights):
    with pytest.raises(UserError, match=r"^weights: expected a positive number for each corpus, 2 in all, got \["):
        SelfDistilledDataModule(corpus=["a.jsonl", "b.jsonl"], weights=weights)
    check_weights(None, 2)


@pytest.mark.parametrize("weights", [[], [1.0]])
def test_weights_without_a_corpus_are_refused(weights):
    with pytest.raises(UserError, match=r"^weights: expected none without a corpus, got \["):
        SelfDistilledDataModule(task="chain", weights=weights)
