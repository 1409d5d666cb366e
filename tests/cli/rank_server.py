"""Runs command lines, each by some number of processes that are its ranks, without importing everything again.

Run by test_ranks.py. Reads a JSON object a line: ``args``, ``log`` (the output of rank r goes to ``<log>.<r>``),
``ranks`` and ``slurm``, whether SLURM or torchrun is said to have started them. Answers with the ids of the processes,
and with their exit codes when they have ended.
"""

import json
import os
import socket
import sys
import warnings

import torch

import dmaxlit.cli.training
import dmaxlit.training.fsdp  # noqa: F401  (imported before the processes are started)
from tests.cli.fit_server import answer, run_cli


def environment_of(rank, ranks, port):
    """Return what torchrun tells a rank."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    return {name: str(value) for name, value in names.items()}


def slurm_environment_of(rank, ranks, port):
    """Return what SLURM tells a task of a job on one node."""
    names = {"SLURM_NTASKS": ranks, "SLURM_NTASKS_PER_NODE": ranks, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}
    names |= {"SLURM_NODEID": 0, "SLURM_JOB_ID": 7, "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1"}
    return {name: str(value) for name, value in {**names, "MASTER_PORT": port}.items()}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(request, rank, port):
    process = os.fork()
    if process == 0:
        code = 70
        try:
            describe = slurm_environment_of if request["slurm"] else environment_of
            os.environ.update(describe(rank, request["ranks"], port))
            code = run_cli(request["args"], f"{request['log']}.{rank}", -1)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return process


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        request, port = json.loads(line), free_port()
        processes = [start(request, rank, port) for rank in range(request["ranks"])]
        answer(json.dumps(processes))
        answer(json.dumps([os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]))
