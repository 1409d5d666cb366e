import pytest
from lightning.fabric import Fabric

from dmaxlit.errors import UserError
from dmaxlit.evaluation.ranks import Ranks


class Second(Ranks):
    """The rank of two whose values come second; the other one's are given."""

    def __init__(self, rank, other):
        self.rank, self.world_size, self.other = rank, 2, other

    def gather(self, value):
        return [value, self.other] if self.rank == 0 else [self.other, value]


def refuse():
    raise UserError("disk: full")


def test_one_process_does_everything_alone():
    ranks = Ranks(Fabric(accelerator="cpu", devices=1))
    assert (ranks.is_main, ranks.gather(3), ranks.together(lambda: 4), ranks.from_main(lambda: 5)) == (True, [3], 4, 5)
    with pytest.raises(UserError, match="disk: full"):
        ranks.from_main(refuse)
    ranks.end()


def test_what_one_rank_refuses_is_said_by_the_main_one_alone():
    with pytest.raises(UserError, match="disk: full"):
        Second(0, other="disk: full").together(lambda: 1)
    with pytest.raises(UserError, match="disk: full"):
        Second(0, other=None).together(refuse)
    for other in ("disk: full", None):
        with pytest.raises(SystemExit) as end:
            Second(1, other).together(refuse)
        assert end.value.code == 0
    with pytest.raises(SystemExit):
        Second(1, other="disk: full").together(lambda: 1)


def test_only_the_main_rank_calls_what_is_for_it():
    called = []
    assert Second(0, other=None).from_main(lambda: called.append(0)) is None
    Second(1, other=None).from_main(lambda: called.append(1))
    assert called == [0]


def test_a_process_ends_with_the_one_that_started_it(monkeypatch):
    ranks = Ranks(Fabric(accelerator="cpu", devices=1))
    ranks.end_with_parent()
    monkeypatch.setattr("os.getppid", lambda: 1)
    ranks.end_with_parent()  # the main one is nobody's share
    ranks.rank = 1
    with pytest.raises(SystemExit):
        ranks.end_with_parent()


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("nowhere",), "device: expected what torch can compute on here, got 'nowhere'"),
        (("cpu:1x",), "device: expected a kind of device, or one with devices 1, got 'cpu:1x'"),
        (("cuda:0", 2), "device: expected a kind of device, or one with devices 1, got 'cuda:0'"),
        (("cpu", 0), "devices: expected at least 1, got 0"),
        (("cpu", 1, 0), "num_nodes: expected at least 1, got 0"),
    ],
)
def test_devices_that_do_not_exist_are_refused(arguments, refusal):
    with pytest.raises(UserError, match=refusal):
        Ranks.launch(*arguments)
