"""Do one job of a benchmark: ``python -m dmaxlit.bench CLASS SETTINGS METHOD NUMBER``; see ``jobs.py``."""

import json
import sys

import dmaxlit.bench

if __name__ == "__main__":
    name, settings, method, number = sys.argv[1:]
    getattr(dmaxlit.bench, name)(**json.loads(settings)).job(method, int(number))
