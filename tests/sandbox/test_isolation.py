"""What a program in the sandbox cannot reach, take or leave behind."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from dmaxlit import UserError
from dmaxlit.errors import DMaxWarning
from dmaxlit.sandbox import SandboxSettings, available_levels, isolation, run_program
from dmaxlit.sandbox.inside import landlock
from tests.sandbox.levels import levels

pytestmark = pytest.mark.filterwarnings("ignore:sandbox. level 'rlimits'")
SEPARATED = levels()[:-1]
EVERY = pytest.mark.parametrize("level", levels())
# What samples say of an action: "done", or the error that came of it.
TRIED = """
import os, sys
def tried(action):
    try:
        action()
        return "done"
    except OSError as error:
        return type(error).__name__
"""


def run(code, level, **settings):
    return run_program(code, settings=SandboxSettings(level=level, **{"wall_seconds": 30, **settings}))


@EVERY
def test_environment_descriptors_and_path_hold_nothing_of_ours(level, monkeypatch):
    monkeypatch.setenv("SECRET", "secret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/libraries")  # what Python starts with, the sample does not see
    opened = os.open(__file__, os.O_RDONLY)
    os.set_inheritable(opened, True)
    code = """
import json, os, sys
def is_open(descriptor):
    try:
        os.fstat(descriptor)
        return True
    except OSError:
        return False
print(json.dumps([dict(os.environ), [d for d in range(64) if is_open(d)], sys.path, os.getcwd()]))
assert sys.argv + sys.orig_argv == ["program"]
"""
    try:
        output = run(code, level)
        environment, descriptors, path, folder = json.loads(output.stdout)
    finally:
        os.close(opened)
    assert (output.status, environment) == (0, {})
    assert isolation.environment()["LD_LIBRARY_PATH"] == "/libraries"
    assert descriptors == [0, 1, 2]
    assert all(folder.startswith(sys.base_prefix) for folder in path)
    assert folder != os.getcwd()


@EVERY
@pytest.mark.parametrize(
    "code", ["socket.socket()", "socket.socket(socket.AF_UNIX)", "socket.create_connection(ADDRESS)"]
)
def test_there_is_no_network(level, code):
    with socket.create_server(("127.0.0.1", 0)) as server:
        run_of = run(f"import socket\nADDRESS = {server.getsockname()!r}\n{code}\nprint('connected')", level)
    assert run_of.stdout == ""
    assert run_of.status != 0


@pytest.mark.parametrize("level", SEPARATED)
def test_files_of_the_user_are_not_there_and_only_the_scratch_folder_is_written(level, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    code = f"""{TRIED}
print(tried(lambda: open({str(secret)!r})), tried(lambda: os.listdir("/proc")), tried(lambda: open("/x", "w")))
print(tried(lambda: open(os.path.join(sys.prefix, "x"), "w")), tried(lambda: open("x", "w")), os.listdir("/scratch"))
"""
    assert run(code, level).stdout.split() == [*["FileNotFoundError"] * 2, *["OSError"] * 2, "done", "['x']"]


@pytest.mark.parametrize("level", SEPARATED)
@pytest.mark.parametrize("links", ["installation", "folder above", "installation, folder above"])
def test_python_is_found_where_its_path_has_links(level, links, tmp_path, monkeypatch):
    prefix = Path(os.path.realpath(sys.base_prefix))
    if "above" in links:
        (tmp_path / "above").symlink_to(prefix.parent)
        prefix = tmp_path / "above" / prefix.name
    if "installation" in links:
        (tmp_path / "version").symlink_to(prefix)
        prefix = tmp_path / "version"
    monkeypatch.setattr(sys, "base_prefix", str(prefix))
    monkeypatch.setattr(sys, "base_exec_prefix", str(prefix))
    output = run(f"import os, random; print(random.__file__, os.listdir({str(prefix)!r}) != [])", level)
    assert output.stdout.split() == [os.path.realpath(random.__file__), "True"]


@pytest.mark.skipif("namespaces" not in str(SEPARATED), reason="no namespaces here")
@pytest.mark.skipif(os.path.realpath(sys.base_prefix) == "/usr", reason="Python is one of the system's files")
def test_a_python_that_starts_and_then_lacks_its_library_is_no_level(monkeypatch):
    def visible(interpreter, packages):
        return [path for path in (*isolation._SYSTEM, os.path.dirname(interpreter)) if os.path.exists(path)]

    monkeypatch.setattr(isolation, "_visible", visible)
    assert "No module named" in isolation.reason_against.__wrapped__("namespaces")


def test_a_python_that_does_not_start_is_no_level(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho libpython3.so: cannot open >&2\nexit 127\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(isolation, "reason_against", isolation.reason_against.__wrapped__)
    with pytest.raises(UserError, match=r"^sandbox: expected rlimits, got none here \(rlimits: libpython3.so: cannot"):
        run_program("print(1)", settings=SandboxSettings(level="rlimits"))
    assert available_levels()["rlimits"] == "libpython3.so: cannot open"


@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux")
@pytest.mark.parametrize("path", ["{}", "bin"])
def test_bubblewrap_is_started_wherever_it_was_found(tmp_path, monkeypatch, path):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "bwrap"
    program.write_text("#!/bin/sh\necho 42\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path.format(program.parent))
    assert isolation.reason_against.__wrapped__("bubblewrap") is None
    command = isolation.command_of("program", "bubblewrap", SandboxSettings(), {"pipes": [0], "arguments": []})
    assert command[0] == str(program)


def test_the_least_level_says_what_it_does_not_enforce(monkeypatch):
    assert "bounded one by one" in isolation.unenforced() or not landlock.version()
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert "read and write what this user can" in isolation.unenforced()
    monkeypatch.setattr(isolation.platform, "machine", lambda: "riscv64")
    assert "the network is open" in isolation.unenforced()


@pytest.mark.skipif(not landlock.version(), reason="no Landlock here")
def test_landlock_keeps_files_and_processes_from_a_sample_at_the_least_level(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    code = f"""{TRIED}
for action in [
    lambda: open({str(secret)!r}), lambda: open({str(secret)!r}, "a"), lambda: os.listdir({str(tmp_path)!r}),
    lambda: os.remove({str(secret)!r}), lambda: open(f"/proc/{{os.getppid()}}/mem"), lambda: os.listdir("/proc"),
    lambda: open(os.__file__, "r+"), lambda: os.rename({str(secret)!r}, "x"), lambda: open("x", "w"),
    lambda: os.remove("x"),
]:
    print(tried(action))
"""
    tried = run(code, "rlimits").stdout.split()
    assert tried[:7] == ["PermissionError"] * 7
    assert tried[7] in ("PermissionError", "OSError")
    assert tried[8:] == ["done", "done"]
    assert secret.read_text() == "secret"


@EVERY
def test_each_run_has_a_scratch_folder_of_its_own(level):
    run("open('left', 'w').write('x')", level)
    assert run("import os; print(os.listdir())", level).stdout == "[]\n"


@EVERY
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("bytearray(300 * 2**20)", "MemoryError"),
        ("open('x', 'wb').write(bytes(2 * 2**20))", "File too large"),
        ("import os; os.fork()", "PermissionError"),
        ("import subprocess; subprocess.run(['/usr/bin/true'])", "PermissionError"),
        ("import os; os.kill(os.getppid(), 0)", "PermissionError"),
        ("import ctypes; print(ctypes.CDLL(None).ptrace(16, 1, 0, 0)); raise OSError('refused')", "refused"),
        ("import resource as r; r.setrlimit(r.RLIMIT_AS, (2**40, 2**40))", "ValueError"),
    ],
)
def test_bounds_of_a_process(level, code, error):
    output = run(code, level, memory_mib=256, file_mib=1)
    assert output.status == 1
    assert error in output.stderr
    assert output.stdout in ("", "-1\n")


@EVERY
def test_threads_are_bounded(level, monkeypatch):
    monkeypatch.setattr(isolation, "_threads_of_user", lambda now: 1000)
    limit = int(run("import resource as r; print(r.getrlimit(r.RLIMIT_NPROC)[1])", level).stdout)
    assert 0 < limit <= (1256 if level == "rlimits" else 256)


@pytest.mark.parametrize(
    ("level", "release", "processes", "others", "most"),
    [
        ("namespaces", "5.14.0-570.el9", 1, 1000, 256),
        ("namespaces", "6.1", 4, 1000, 6),
        ("bubblewrap", "4.18.0-553.el8", 1, 1000, 1256),  # which counts all threads of the user
        ("bubblewrap", "4.18.0-553.el8", 300, 1000, 1302),
        ("rlimits", "6.1", 4, 1000, 1256),
        ("rlimits", "24.1.0", 1, None, None),
    ],
)
def test_the_bound_of_threads_is_that_of_what_the_system_counts(level, release, processes, others, most, monkeypatch):
    monkeypatch.setattr(isolation.platform, "release", lambda: release)
    monkeypatch.setattr(isolation, "_threads_of_user", lambda now: others)
    assert isolation._most_threads(level, processes) == most


@pytest.mark.parametrize(("failing", "bounds"), [((), True), ((1256,), False), ((1256, None), True)])
def test_where_more_threads_count_than_are_seen_there_is_no_bound(failing, bounds, monkeypatch):
    monkeypatch.setattr(isolation, "_threads_of_user", lambda now: 1000)
    monkeypatch.setattr(isolation, "_failure", lambda level, threads: "none" if threads in failing else None)
    monkeypatch.setattr(isolation, "_sees_all_threads", isolation._sees_all_threads.__wrapped__)
    assert isolation._most_threads("rlimits", 1) == (1256 if bounds else None)


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_threads_of_this_user_are_counted():
    ends = threading.Event()
    with ThreadPoolExecutor(20) as pool:
        for _ in range(20):
            pool.submit(ends.wait)
        try:
            assert isolation._threads_of_user.__wrapped__(0) > 20
        finally:
            ends.set()


@pytest.mark.parametrize("level", SEPARATED)
def test_the_scratch_folder_is_bounded_as_a_whole(level):
    output = run("for i in range(5):\n    open(str(i), 'wb').write(bytes(2**19))", level, file_mib=1)
    assert "No space left" in output.stderr


@EVERY
def test_cpu_time_wall_time_and_output_are_bounded(level):
    with ThreadPoolExecutor() as pool:  # at the same time, so that we wait once
        endless = pool.submit(run, "while True: pass", level, cpu_seconds=1)
        sleeping = pool.submit(run, "import time; print('begun', flush=True); time.sleep(60)", level, wall_seconds=1.5)
        closing = pool.submit(run, "import time, os; os.closerange(0, 3); time.sleep(60)", level, wall_seconds=1.5)
        printed = run("while True: print('x' * 1000)", level, output_kib=2)
    assert endless.result().status == -signal.SIGKILL
    slept, closed = sleeping.result(), closing.result()
    assert (slept.status, slept.stopped_by, slept.stdout) == (None, "wall_seconds", "begun\n")
    assert slept.seconds < 10
    assert (closed.status, closed.stopped_by) == (None, "wall_seconds")
    assert (printed.status, printed.stopped_by, len(printed.stdout)) == (None, "output_kib", 2048)


def processes_with(marker):
    """Return the ids of the processes whose command has a text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until_gone(marker):
    deadline = time.monotonic() + 10
    while (left := processes_with(marker)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


DAEMON = """
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(50)", sys.argv[1]])
    os._exit(0)
os.wait()
time.sleep(0.2)
print("left")
"""


@pytest.mark.parametrize("level", SEPARATED)
def test_a_daemon_ends_with_its_sample(level):
    marker = f"daemon-{level}-{os.getpid()}"
    settings = SandboxSettings(level=level, processes=10, wall_seconds=5)
    output = run_program(DAEMON, arguments=[marker], settings=settings)
    assert output.stdout == "left\n"
    assert not wait_until_gone(marker.encode())


@EVERY
def test_the_sandbox_ends_with_its_parent(level):
    marker = f"orphan-{level}-{os.getpid()}"
    code = f"""
import os, warnings; warnings.simplefilter("ignore")
from dmaxlit.sandbox import SandboxSettings, run_program
run_program("import time; time.sleep(50)", arguments=[os.environ["MARKER"]],
            settings=SandboxSettings(level={level!r}, wall_seconds=60))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "MARKER": marker})
    deadline = time.monotonic() + 60
    while not (begun := processes_with(marker.encode())) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)  # until it sleeps
    parent.kill()
    parent.wait()
    assert begun
    assert not wait_until_gone(marker.encode())


def test_a_machine_without_namespaces_is_refused_in_one_line_and_less_is_accepted_by_name(monkeypatch):
    monkeypatch.setattr(isolation, "reason_against", lambda level: None if level == "rlimits" else "not allowed")
    with pytest.raises(UserError, match=r"install bubblewrap, .* or accept less with the level 'rlimits'") as error:
        run_program("print(1)")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="expected bubblewrap, got none here"):
        run_program("print(1)", settings=SandboxSettings(level="bubblewrap"))
    isolation._warn_once.cache_clear()
    with pytest.warns(DMaxWarning, match="level 'rlimits': "):
        assert run_program("print(1)", settings=SandboxSettings(level="rlimits")).stdout == "1\n"


def test_windows_is_refused(monkeypatch):
    monkeypatch.setattr(isolation, "os", SimpleNamespace(name="nt"))
    monkeypatch.setattr(isolation.platform, "system", lambda: "Windows")
    with pytest.raises(UserError, match="expected Linux or macOS, got Windows"):
        run_program("print(1)")


def test_the_levels_of_this_machine_are_named():
    found = available_levels()
    assert list(found) == ["bubblewrap", "namespaces", "rlimits"]
    assert [level for level, text in found.items() if text == "works"] == [
        level for level in ("bubblewrap", "namespaces") if isolation.reason_against(level) is None
    ]
