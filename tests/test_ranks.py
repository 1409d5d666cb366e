import pytest
from lightning.fabric import Fabric

from dmaxlit.errors import UserError
from dmaxlit.ranks import LostRankError, Ranks


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


def test_processes_of_other_nodes_are_not_among_those_of_this_one():
    launched = Fabric(accelerator="cpu", devices=2, num_nodes=3, strategy="ddp")
    alone = Fabric(accelerator="cpu", devices=1)
    assert [(ranks.world_size, ranks.local_world_size) for ranks in map(Ranks, (launched, alone, None))] == [
        (6, 2),
        (1, 1),
        (1, 1),
    ]


def test_what_one_rank_refuses_is_said_by_the_main_one_alone():
    with pytest.raises(UserError, match="disk: full"):
        Second(0, other=UserError("disk: full")).together(lambda: 1)
    with pytest.raises(UserError, match="disk: full"):
        Second(0, other=None).together(refuse)
    for other in (UserError("disk: full"), None):
        with pytest.raises(SystemExit) as end:
            Second(1, other).together(refuse)
        assert end.value.code == 0
    with pytest.raises(SystemExit):
        Second(1, other=UserError("disk: full")).together(lambda: 1)


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
        (("tpu",), "device: expected what torch can compute on here, got 'tpu'"),
        (("cpu:1x",), "device: expected a kind of device, or one with devices 1, got 'cpu:1x'"),
        (("cuda:0", 2), "device: expected a kind of device, or one with devices 1, got 'cuda:0'"),
        (("cpu", 0), "devices: expected at least 1, got 0"),
        (("cpu", 1, 0), "num_nodes: expected at least 1, got 0"),
        (("cpu", "many"), "devices: expected what torch can compute on here, got many of 'cpu'"),
        (("cpu", 1, 1, "fsdp"), "strategy: expected 'auto' or 'ddp', got 'fsdp'"),
    ],
)
def test_devices_that_do_not_exist_are_refused(arguments, refusal):
    with pytest.raises(UserError, match=refusal):
        Ranks.launch(*arguments)


def test_another_number_of_processes_than_torchrun_has_started_is_refused(monkeypatch):
    started = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    for devices in (1, 2):
        with pytest.raises(UserError, match=r"devices: expected as many as processes were started .*size \(3\)"):
            Ranks.launch("cpu", devices)


class Broken(Second):
    """A rank whose exchange fails, as that with a process that has died."""

    gather = Ranks.gather
    watch = None

    def _exchange(self, value):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:7")


def test_one_rank_says_that_another_one_has_ended():
    expected = r"^devices: expected 2 processes until the end, but one of them has ended \(Connection closed by peer "
    with pytest.raises(UserError, match=expected):
        Broken(0, None).together(lambda: 1)
    with pytest.raises(SystemExit) as end:
        Broken(1, None).together(lambda: 1)
    assert end.value.code == 1


def test_the_reason_is_said_rather_than_the_end_that_it_caused():
    with pytest.raises(UserError, match=r"^disk: full$"):
        Second(0, other=UserError("disk: full")).together(lambda: (_ for _ in ()).throw(LostRankError(2, [1])))
