"""Do one job of a benchmark: ``python -m dmaxlit.bench CLASS SETTINGS METHOD NUMBER``; see ``jobs.py``."""

import json
import sys

import dmaxlit.bench
from dmaxlit.bench.termination import exit_on_signals

if __name__ == "__main__":
    name, settings, method, number = sys.argv[1:]
    with exit_on_signals():
        getattr(dmaxlit.bench, name)(**json.loads(settings)).job(method, int(number))
