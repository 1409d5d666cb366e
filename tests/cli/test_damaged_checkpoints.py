"""``fit`` called again where a checkpoint is damaged or lacks something."""

import pytest
import torch

from tests.cli.conftest import SHORT, step_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"
)


def rewrite(path, edit):
    """Write a checkpoint anew after an edit."""
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda content: content.pop("global_step"), "global_step: expected an integer, got nothing"),
        (lambda content: content.pop("loops"), "loops: expected a dictionary, got nothing"),
        (lambda content: content["loops"].pop("fit_loop"), "loops.fit_loop: expected a dictionary, got nothing"),
        (lambda content: content.pop("optimizer_states"), "optimizer_states: expected a list, got nothing"),
        (
            lambda content: content.update(dmaxlit_run=[]),
            "dmaxlit_run: expected a dictionary, got a value of type list",
        ),
        (lambda content: content["dmaxlit_run"].pop("data"), "dmaxlit_run.data: expected a text, got nothing"),
    ],
)
def test_a_checkpoint_that_lacks_something_is_refused_by_its_name(dmax, begun, folder, edit, reason):
    (folder / "previous.ckpt").unlink()
    rewrite(folder / "last.ckpt", edit)
    refusal = f"checkpoint: 'runs/checkpoints/last.ckpt' cannot be resumed from: {reason}"
    ended = dmax(f"fit --config {begun} {SHORT}")
    assert ended.err.splitlines()[-1] == (
        f"error: {refusal}, and there is none before it; --checkpoint.resume false starts over"
    )
    assert dmax(f"fit --config {begun} --ckpt_path runs/checkpoints/last.ckpt").refusal == refusal


def test_a_checkpoint_without_one_of_the_weights_is_refused(dmax, begun, folder):
    rewrite(folder / "last.ckpt", lambda content: content["state_dict"].popitem())
    ended = dmax(f"fit --config {begun} {SHORT}")
    assert ended.status == 2
    assert ended.err.splitlines()[-1].startswith(
        "error: runs/checkpoints/last.ckpt: expected the weights of the configured model, got others, such as backbone."
    )


def test_a_damaged_checkpoint_is_told_of_and_the_one_before_it_taken(dmax, begun, folder, caplog):
    caplog.set_level("INFO")
    (folder / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:5000])
    ended = dmax(f"fit --config {begun} {SHORT} --trainer.max_steps 3")
    assert ended.status == 0
    assert "checkpoint: 'runs/checkpoints/last.ckpt' cannot be read, it may be truncated" in caplog.text
    assert "resuming from runs/checkpoints/previous.ckpt, after step 1" in caplog.text
    assert [step_of(folder / f"{name}.ckpt") for name in ("previous", "last")] == [2, 3]


def test_two_damaged_checkpoints_are_not_silently_left_behind(dmax, begun, folder):
    for name in ("last.ckpt", "previous.ckpt"):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    ended = dmax(f"fit --config {begun} {SHORT}")
    assert ended.status == 2
    assert ended.err.splitlines()[-1].startswith(
        "error: checkpoint: 'runs/checkpoints/last.ckpt' cannot be read, it is"
    )
    assert "; --checkpoint.resume false starts over" in ended.err
