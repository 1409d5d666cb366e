"""Runs command lines, each in a separate process, without importing everything again: run by test_interruption.py.

Reads a JSON object a line: ``args``, ``log`` (a file for the output) and ``die_in_write`` (kill it while it writes its
n-th file to the disk). Answers with the process's id, and with its exit code when it has ended.
"""

import json
import os
import signal
import sys
import warnings

import torch

import dmaxlit.cli.training  # noqa: F401  (imported before the processes are started)
from dmaxlit.cli import main


def run_cli(args, log, die_in_write):
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    synced, left = os.fsync, [die_in_write]

    def sync(handle):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        synced(handle)

    os.fsync = sync
    try:
        main(args)
    except SystemExit as end:
        return end.code or 0
    return 0


def answer(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            code = 70
            try:
                code = run_cli(request["args"], request["log"], request["die_in_write"])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        answer(process)
        answer(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
