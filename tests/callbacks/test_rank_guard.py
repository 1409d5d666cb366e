from types import SimpleNamespace

import pytest

from dmaxlit.callbacks import RankGuard, rank_guard
from dmaxlit.errors import DMaxWarning


@pytest.mark.parametrize(("rank", "problem"), [(0, "rank 0 cannot open a port"), (3, "rank 3 cannot reach rank 0")])
def test_fit_goes_on_unwatched_where_ranks_cannot_be_connected(monkeypatch, rank, problem):
    def refuse(*args):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(rank_guard, "RankConnections", refuse)
    environment = SimpleNamespace(main_address="127.0.0.1")
    strategy = SimpleNamespace(cluster_environment=environment, broadcast=None)
    trainer = SimpleNamespace(global_rank=rank, world_size=4, strategy=strategy)
    guard = RankGuard()
    warning = rf"^{problem} \(.*Permission denied\): the death of a rank may be noticed only"
    with pytest.warns(DMaxWarning, match=warning):
        guard.setup(trainer, None, "fit")
    guard.on_exception(trainer, None, ValueError("x"))
    guard.teardown(trainer, None, "fit")
