import torch

from dmaxlit.randomness import RowGenerator, stable_seed


def test_a_row_draws_the_same_whatever_its_company_and_the_length():
    many = RowGenerator(7, ["a", "b", "c"])
    one = RowGenerator(7, ["b"])
    for length in (40, 8):
        assert torch.equal(many.rand(length + 5)[1:2, :length], one.rand(length))


def test_successive_draws_rows_and_seeds_differ():
    generator = RowGenerator(7, ["a", "b"])
    first, second = generator.rand(8), generator.rand(8)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, RowGenerator(8, ["a", "b"]).rand(8))


def test_the_seed_is_the_same_on_every_machine():
    assert stable_seed(0, "row", (1, 2), 3) == stable_seed(0, "row", (1, 2), 3)
    assert stable_seed("a") == 2340832890917691671


def test_stratified_numbers_cover_the_interval_once_a_column():
    drawn = RowGenerator(0, list(range(64))).stratified(5)
    for column in drawn.T:
        gaps = column.sort().values.diff()
        assert gaps.max() < 2 / 64


def test_two_ranks_share_the_strata_of_one_process():
    whole = RowGenerator(0, list(range(8)), batch_key=3).stratified(2)
    ranks = [RowGenerator(0, list(range(r, 8, 2)), list(range(r, 8, 2)), 8, batch_key=3) for r in (0, 1)]
    for rank, generator in enumerate(ranks):
        assert torch.equal(generator.stratified(2), whole[rank::2])


def test_numbers_lie_in_the_half_open_interval():
    drawn = RowGenerator(0, list(range(100))).rand(1000)
    assert drawn.min() >= 0
    assert drawn.max() < 1
