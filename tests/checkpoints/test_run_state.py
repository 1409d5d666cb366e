import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dmaxlit.checkpoints import run_state
from dmaxlit.randomness import generator_states

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _generators_are_restored():
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(before[0])
    np.random.set_state(before[1])


def draws():
    return random.random(), np.random.rand(), float(torch.rand(()))


def restored(monkeypatch, states, rank, step=5):
    for name in ("end_restart", "load_loader_states"):
        monkeypatch.setattr(run_state, name, lambda trainer: None)
    trainer = SimpleNamespace(
        global_rank=rank,
        global_step=step,
        strategy=SimpleNamespace(root_device=CPU),
        callback_metrics={},
        callbacks=[],
        loggers=[],
    )
    run_state.restore_run(trainer, {"generators": states, "metrics": {}, "unlogged": {}})
    return draws()


def states_of_two():
    states = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        states.append(generator_states(CPU))
    return states


def test_ranks_go_on_with_their_own_generators_whatever_their_number(monkeypatch):
    states, expected = states_of_two(), []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        expected.append(draws())
    assert [restored(monkeypatch, states, rank) for rank in (0, 1)] == expected
    assert restored(monkeypatch, states, 0) == expected[0]  # one rank is left


def test_a_new_rank_has_generators_of_its_own_which_are_the_same_again(monkeypatch):
    states = states_of_two()
    new = [restored(monkeypatch, states, rank) for rank in (2, 3)]
    later = restored(monkeypatch, states, 2, step=6)
    assert len({*new, later, restored(monkeypatch, states, 0), restored(monkeypatch, states, 1)}) == 5
    draws()
    assert [restored(monkeypatch, states, rank) for rank in (2, 3)] == new


def test_where_the_clock_decides_no_batch_is_followed_by_validation():
    trainer = SimpleNamespace(enable_validation=True, check_val_every_n_epoch=None, is_last_batch=True)
    trainer.val_check_batch = None
    assert not run_state.validation_is_due(trainer)
    trainer.val_check_batch = float("inf")  # after each epoch of a stream
    assert run_state.validation_is_due(trainer)


@pytest.mark.parametrize(
    ("state", "scaled"),
    [
        ({"accumulate_grad_batches": 4, "settings": "{}"}, True),
        ({"accumulate_grad_batches": 2, "settings": "{}"}, False),
        ({"settings": '{"trainer.accumulate_grad_batches": 4}'}, True),  # of an earlier version
        ({"settings": "{}"}, False),
    ],
)
def test_micro_batches_are_counted_anew_where_a_step_has_another_number_of_them(state, scaled):
    counts = {"ready": 8, "started": 8, "processed": 8, "completed": 7}
    loops = {"fit_loop": {"epoch_loop.batch_progress": {"total": dict(counts), "current": dict(counts)}}}
    before = copy.deepcopy(loops)
    run_state.recount_batches(SimpleNamespace(accumulate_grad_batches=2, callbacks=[]), loops, state)
    assert (loops != before) is scaled
    assert loops["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] == (4 if scaled else 8)
