"""The process in which math-verify compares LaTeX answers: a script that ``math_equivalence`` starts.

It reads one JSON object a line (``reference``, ``answer``) and writes ``true`` or ``false``. Its arguments are the CPU
time of a comparison, in seconds, at which it is ended by a signal, and the memory of the process, in bytes.
"""

import contextlib
import json
import logging
import os
import resource
import signal
import sys

_ROUNDING = 12  # decimal places to which numbers have to agree


def limit(memory: int) -> None:
    """Bound the memory (in bytes) of this process, and forbid it files, processes and core dumps."""
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (bound, bound))


def equal(reference: str, answer: str) -> bool:
    """Return whether math-verify finds two LaTeX answers equivalent."""
    from math_verify import LatexExtractionConfig, parse, verify

    # LaTeX alone: the plain expressions of math-verify would go through sympy's parse_expr, which is eval.
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    parsed = [parse(f"\\boxed{{{text}}}", config, parsing_timeout=None) for text in (reference, answer)]
    return bool(verify(*parsed, float_rounding=_ROUNDING, timeout_seconds=None))


def main(seconds: float, memory: int) -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    logging.disable(logging.CRITICAL)
    equal("1", "1")  # imports everything
    limit(memory)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
        try:
            verdict = equal(request["reference"], request["answer"])
        except Exception:
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), file=answers, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
