"""Plain texts as a corpus on the command line."""

import logging

import pytest

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"
)
TEXT = "so 3 +1 is 4 .\n" * 20  # 120 tokens


def test_a_text_needs_no_task(dmax, base, tmp_path, caplog):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(TEXT)
    flags = "--data.task null --data.task_options null --data.max_length 48 --model.noise masked"
    with caplog.at_level(logging.INFO):
        ended = dmax(f"fit --config {base} --data.corpus texts {flags}")
    assert ended.status == 0, ended.err
    assert "corpus: 1 rows in 3 windows of at most 48 tokens" in caplog.messages
    assert (tmp_path / "runs" / "checkpoints" / "last.ckpt").exists()


def test_rows_of_another_column(dmax, base, write_rows, caplog):
    path = write_rows([{"body": TEXT, "answer": "no"}])
    with caplog.at_level(logging.INFO):
        ended = dmax(f"fit --config {base} --data.corpus {path} --data.columns.text body --data.max_length 64")
    assert ended.status == 0, ended.err
    assert "corpus: 1 rows in 2 windows of at most 64 tokens" in caplog.messages
