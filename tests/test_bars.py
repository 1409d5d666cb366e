import io
import sys

from dmaxlit.bars import make_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_log_of_a_job_is_not_filled_with_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with make_bar(total=100) as bar:
        for _ in range(100):
            bar.update(0)
            bar.update()
        assert bar.mininterval == 10
    assert "100/100" in log.getvalue()
    assert log.getvalue().count("\r") < 5


def test_a_terminal_is_redrawn(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with make_bar(total=100) as bar:
        assert bar.mininterval == 0.1
    with make_bar(total=100, mininterval=3.0) as bar:
        assert bar.mininterval == 3
