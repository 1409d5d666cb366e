import errno
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import SoftFileLock

from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.locks import exclusive, exclusive_folder, hold_of, holder
from tests.lock_holder import held_by_another

KINDS = {"exclusive": exclusive, "exclusive_folder": exclusive_folder}


@pytest.mark.parametrize("kind", KINDS)
def test_who_comes_second_is_refused_with_the_name_of_the_first_and_nothing_stays(tmp_path, kind):
    path = tmp_path / "new" / "x"
    with held_by_another(path, kind) as other:
        with (
            pytest.raises(
                UserError,
                match=re.escape(
                    f"corpus: {str(path)!r} is being written by process {other.pid} on {socket.gethostname()}"
                ),
            ),
            KINDS[kind](path, "corpus"),
        ):
            pass
        with KINDS[kind](tmp_path / "new" / "y", "corpus"):
            pass
    with KINDS[kind](path, "corpus"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_is_no_path(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(UserError, match=r"^output: expected a path on this machine, got the address 's3:/bucket/x'$"),
        KINDS[kind](Path("s3://bucket/x"), "output"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_whether_and_by_whom_a_file_is_held_can_be_seen(tmp_path):
    path = tmp_path / "x"
    assert hold_of(path) == "released"
    with held_by_another(path) as other:
        assert hold_of(path) == "held"
        assert holder(path) == f"process {other.pid} on {socket.gethostname()}"
        other.kill()
        other.wait()
        assert [hold_of(path), hold_of(path)] == ["killed", "killed"]
    with exclusive(path, "output"):
        assert hold_of(path) == "held"
    assert hold_of(path) == "released"
    (tmp_path / ".x.lock").touch()
    assert hold_of(path) == "released"
    assert holder(path) == "another process"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, kind):
    with held_by_another(tmp_path / "x", kind) as other:
        os.kill(other.pid, signal.SIGKILL)
    assert any(path.name.endswith(".lock") for path in tmp_path.rglob("*"))
    with KINDS[kind](tmp_path / "x", "output"):
        assert not can_hold(tmp_path / "x", kind)
    assert not any(path.name.endswith(".lock") for path in tmp_path.rglob("*"))


def can_hold(path, kind):
    try:
        with held_by_another(path, kind):
            return True
    except AssertionError:
        return False


def test_contexts_of_a_process_nest_and_the_outer_one_keeps_the_lock(tmp_path):
    path = tmp_path / "x"
    with exclusive(path, "output"):
        with exclusive(path, "output"):
            pass
        assert not can_hold(path, "exclusive")
    assert can_hold(path, "exclusive")


def test_who_waits_is_told_for_whom_and_comes_after(tmp_path):
    path, waits = tmp_path / "x", []
    with held_by_another(path) as other:

        def end_other(process):
            waits.append(process)
            other.stdin.close()

        with exclusive(path, "cache_dir", on_wait=end_other):
            assert not can_hold(path, "exclusive")
    assert waits == [f"process {other.pid} on {socket.gethostname()}"]
    with exclusive(path, "cache_dir", on_wait=waits.append):
        pass
    assert len(waits) == 1


def test_a_folder_keeps_what_was_written_into_it(tmp_path):
    with exclusive_folder(tmp_path / "a" / "b", "output"):
        (tmp_path / "a" / "b" / "file").write_text("")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_link_in_place_of_the_lock_is_refused_and_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".x.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="output: cannot write"), exclusive(tmp_path / "x", "output"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"output: cannot write .*/file/x'"),
        exclusive(tmp_path / "file" / "x", "output"),
    ):
        pass


HURRY = """
import sys
from pathlib import Path
from dmaxlit.errors import UserError
from dmaxlit.locks import exclusive
path, inside = Path(sys.argv[1]), Path(sys.argv[2])
done = 0
while done < 100:
    try:
        with exclusive(path, "output"):
            inside.touch(exist_ok=False)  # fails if another process is in here
            inside.unlink()
            done += 1
    except UserError:
        pass
"""


def test_of_three_that_come_and_go_one_at_a_time_is_inside(tmp_path):
    command = [sys.executable, "-c", HURRY, str(tmp_path / "x"), str(tmp_path / "inside")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []


FORK = """
import os, sys
from pathlib import Path
from dmaxlit.locks import exclusive
path = Path(sys.argv[1])
with exclusive(path, "output"):
    child = os.fork()
    if child == 0:
        sys.exit(0)  # leaves the context
    os.waitpid(child, 0)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_end_of_a_forked_process_frees_nothing(tmp_path):
    command = [sys.executable, "-c", FORK, str(tmp_path / "x")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert not can_hold(tmp_path / "x", "exclusive")
        assert (tmp_path / ".x.lock").exists()
    assert can_hold(tmp_path / "x", "exclusive")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_on_a_disk_without_locks_a_file_is_the_lock(tmp_path, monkeypatch, code):
    def flock(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    path, lock = tmp_path / "x", tmp_path / ".x.lock"
    with SoftFileLock(lock, thread_local=False):  # of another process, as far as ours can tell
        expected = rf"^corpus: .*x' is being written by process {os.getpid()} on {re.escape(socket.gethostname())}$"
        with pytest.raises(UserError, match=expected), exclusive(path, "corpus"):
            pass
        assert hold_of(path) == "held"
    if (child := os.fork()) == 0:
        left = SoftFileLock(lock, thread_local=False)
        left.acquire()
        os._exit(0)
    os.waitpid(child, 0)
    assert lock.exists()
    with pytest.warns(DMaxWarning, match=r"is on a disk without locks: a lock there that a killed process of another"):  # noqa: SIM117
        with exclusive(path, "corpus"), exclusive(path, "corpus"):
            assert lock.read_text().startswith(f"{os.getpid()}\n")
    assert list(tmp_path.iterdir()) == []
    assert hold_of(path) == "released"
