"""Starts processes in which the package and its libraries are imported already, which takes a new one seconds.

Run by ``tests/processes.py``. Reads a JSON object a line: ``module`` and ``args``, which run as ``python -m MODULE
ARGS`` does; ``folder`` to run in; ``environments`` and ``logs``, of each process; and ``die_in_write``: the process is
killed while it writes its n-th file to the disk. Answers with the ids of the processes, and with their exit codes when
all have ended.
"""

import gc
import json
import os
import runpy
import signal
import sys
import warnings

import torch

# Imported before the processes are started.
import dmaxlit.cli.distill
import dmaxlit.cli.evaluate
import dmaxlit.cli.training
import dmaxlit.training.fsdp  # noqa: F401


def die_in_write(number):
    """Kill this process while it writes its ``number``-th file to the disk."""
    synced, left = os.fsync, [number]

    def sync(handle):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        synced(handle)

    os.fsync = sync


def run(request, environment, log):
    """Run the module in this process, as a new interpreter would; return its exit code."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # not the requests
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, request["folder"])
    sys.argv = [request["module"], *request["args"]]
    die_in_write(request["die_in_write"])
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def start(request, environment, log):
    """Start a process; return its id."""
    process = os.fork()
    if process == 0:
        code = 70
        try:
            code = run(request, environment, log)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return process


def answer(numbers):
    sys.stdout.write(f"{json.dumps(numbers)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    gc.freeze()
    gc.enable()  # disabled by the package ``tests``
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        request = json.loads(line)
        pairs = zip(request["environments"], request["logs"], strict=True)
        processes = [start(request, environment, log) for environment, log in pairs]
        answer(processes)
        answer([os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes])
