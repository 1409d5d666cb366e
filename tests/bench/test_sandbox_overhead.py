import itertools

import numpy as np

from dmaxlit.bench.sandbox_overhead import sandbox_overhead
from dmaxlit.sandbox import Verdict, run_tests
from tests.sandbox.requirement import needs_sandbox


def test_median_and_percentile_of_the_runs_after_the_first():
    times = [0.3, 0.1, 0.2, 0.9, 0.4, 0.5, 0.15]
    clock = itertools.chain.from_iterable((10.0 * i, 10.0 * i + seconds) for i, seconds in enumerate(times))
    verdict = Verdict("passed", "", 0.1, "namespaces")
    judged = []

    def judge(code, tests, settings):
        judged.append(code)
        return verdict

    measured = sandbox_overhead(len(times), judge=judge, clock=clock.__next__)
    assert (measured.level, measured.runs, len(judged)) == ("namespaces", 7, 8)
    assert np.allclose((measured.median, measured.percentile_95), np.percentile(times, [50, 95]))


@needs_sandbox
def test_the_sandbox_itself_is_measured():
    measured = sandbox_overhead(2)
    assert measured.level == run_tests("def f(): pass", "assert f() is None").level
    assert 0.001 < measured.median <= measured.percentile_95
