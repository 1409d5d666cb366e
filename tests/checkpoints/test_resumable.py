import pytest

from dmaxlit import UserError
from dmaxlit.checkpoints.resumable import check_resumable

LOOPS = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress", "epoch_loop.state_dict")


def checkpoint():
    """Return a checkpoint with the fewest fields from which training can go on."""
    run = {
        **{"settings": "{}", "data": "", "log_step": 1, "void_from_step": 1, "log_versions": [0], "generators": []},
        **{"metrics": {}, "unlogged": {}, "validation_is_due": False, "train_batch_is_last": True},
    }
    return {
        **{"global_step": 2, "epoch": 0, "loops": {"fit_loop": {name: {} for name in LOOPS}}},
        **{"optimizer_states": [], "lr_schedulers": [], "callbacks": {}, "dmaxlit_run": run},
    }


def test_a_whole_checkpoint_passes(tmp_path):
    check_resumable("a.ckpt", checkpoint())
    foreign = checkpoint()
    del foreign["dmaxlit_run"]  # Lightning's ModelCheckpoint in a program of the user's
    check_resumable("a.ckpt", foreign)


def test_only_a_sharded_checkpoint_has_its_optimizer_elsewhere(tmp_path):
    content = checkpoint()
    del content["optimizer_states"]
    check_resumable(tmp_path, content)
    with pytest.raises(UserError, match="optimizer_states: expected a list, got nothing"):
        check_resumable(tmp_path / "a.ckpt", content)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("global_step", None),
        ("global_step", -1),
        ("global_step", "2"),
        ("global_step", True),
        ("epoch", True),
        ("epoch", -1),
        ("loops", None),
        ("loops", [1]),
        ("loops/fit_loop", None),
        ("loops/fit_loop/epoch_progress", None),
        ("optimizer_states", {}),
        ("lr_schedulers", None),
        ("callbacks", None),
        ("dmaxlit_run", [1]),
        ("dmaxlit_run/settings", "["),
        ("dmaxlit_run/settings", "[1]"),
        ("dmaxlit_run/settings", "[" * 100_000),
        ("dmaxlit_run/log_step", True),
        ("dmaxlit_run/generators", None),
    ],
)
def test_a_field_from_which_training_cannot_go_on_is_refused_by_name(field, value):
    content = checkpoint()
    *parents, last = field.split("/")
    inner = content
    for name in parents:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    with pytest.raises(UserError) as caught:
        check_resumable("a.ckpt", content)
    start = f"checkpoint: 'a.ckpt' cannot be resumed from: {field.replace('/', '.')}: expected "
    assert str(caught.value).startswith(start)
    assert len(str(caught.value)) < 200
