"""Another process that holds a lock."""

import subprocess
import sys
from contextlib import contextmanager

HOLD = """
import sys
from pathlib import Path
from dmaxlit import locks
with getattr(locks, sys.argv[1])(Path(sys.argv[2]), "output"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(path, kind="exclusive"):
    """Yield a process that holds a file, or with kind ``exclusive_folder`` a folder, until the context ends."""
    command = [sys.executable, "-c", HOLD, kind, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
