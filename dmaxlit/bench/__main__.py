"""Run one job of the self-correction benchmark: ``python -m dmaxlit.bench SETTINGS METHOD NUMBER``."""

import json
import sys

from dmaxlit.bench.self_correction import SelfCorrectionBench

if __name__ == "__main__":
    settings, method, number = sys.argv[1:]
    SelfCorrectionBench(**json.loads(settings)).job(method, int(number))
