import threading

import pytest
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter

from dmaxlit.checkpoints import tensorboard_internals
from dmaxlit.errors import DMaxWarning
from tests.conftest import limited_files


@pytest.fixture
def patched(monkeypatch):
    """Restore TensorBoard's own writer afterwards."""
    monkeypatch.setattr(event_file_writer, "RecordWriter", event_file_writer.RecordWriter)
    tensorboard_internals.outlive_full_disks()


def test_a_full_disk_ends_the_log_with_one_warning(patched, tmp_path, monkeypatch):
    failures = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    writer = SummaryWriter(str(tmp_path))
    writer.add_text("notes", "x" * 1000)
    writer.flush()

    def write_on():
        for step in range(300):
            writer.add_text("notes", "x" * 1000, step)
            writer.flush()

    with limited_files(8000), pytest.warns(DMaxWarning, match=r"log ends here, it cannot be written \(.*\)") as caught:
        write_on()
    writer.add_scalar("loss", 1.0)
    writer.close()
    assert len(caught) == 1
    assert failures == []
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 8000


def test_a_log_on_a_good_disk_is_whole(patched, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(20):
            writer.add_scalar("loss", step, step)
    log = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in log.Scalars("loss")] == list(range(20))
