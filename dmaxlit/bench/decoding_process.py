"""Run one measurement of decoding: ``python -m dmaxlit.bench.decoding_process SETTINGS``.

A file of its own, since Python warns of running a module that its package imports.
"""

import json
import sys

from dmaxlit.bench.decoding_ranks import DecodingRun

if __name__ == "__main__":
    DecodingRun(**json.loads(sys.argv[1])).measure()
