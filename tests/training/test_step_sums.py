import pytest
import torch

from dmaxlit.training import step_sums
from dmaxlit.training.step_sums import StepSums, means


class Strategy:
    """Two ranks, of which the other holds the given pairs."""

    root_device = torch.device("cpu")

    def __init__(self, other):
        self.other = other
        self.reductions = 0

    def reduce(self, tensor, reduce_op):
        self.reductions += 1
        if reduce_op == "max":
            code = step_sums.stable_seed(*sorted(self.other))
            return torch.maximum(tensor, torch.tensor([code, -code]))
        names = sorted({*self.other, *self.names})
        return tensor + torch.tensor([self.other.get(name, (0.0, 0.0)) for name in names])


class Trainer:
    world_size = 2

    def __init__(self, other, names):
        self.strategy = Strategy(other)
        self.strategy.names = names


def sums_of(**pairs):
    sums = StepSums()
    for name, added in pairs.items():
        for total, count in added:
            sums.add(name, torch.tensor(total), torch.tensor(count))
    return sums


def test_means_are_over_what_was_added_on_all_ranks():
    sums = sums_of(a=[(3.0, 2), (5.0, 6)], b=[(1.0, 4)], nothing=[(0.0, 0)])
    trainer = Trainer({"a": (4.0, 4.0), "b": (9.0, 1.0), "nothing": (0.0, 0.0)}, ["a", "b", "nothing"])
    values = means(sums.reduced(trainer))
    assert {name: float(value) for name, value in values.items()} == {"a": 1.0, "b": 2.0}
    assert trainer.strategy.reductions == 2
    assert not sums  # begins again


def test_ranks_with_other_names_are_added_name_by_name(monkeypatch):
    def gather(gathered, names):
        gathered[:] = [names, ["b", "c"]]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    trainer = Trainer({"b": (3.0, 1.0), "c": (6.0, 2.0)}, ["a", "b"])
    values = means(sums_of(a=[(2.0, 1)], b=[(1.0, 1)]).reduced(trainer))
    assert {name: float(value) for name, value in values.items()} == {"a": 2.0, "b": 2.0, "c": 3.0}


def test_a_single_process_reduces_nothing():
    trainer = Trainer({}, [])
    trainer.world_size = 1
    assert float(means(sums_of(a=[(3.0, 2)]).reduced(trainer))["a"]) == pytest.approx(1.5)
    assert trainer.strategy.reductions == 0
    assert means({}) == {}
