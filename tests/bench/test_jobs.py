import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from dmaxlit import UserError
from dmaxlit.bench.jobs import run_jobs


@dataclass
class Bench:
    output: Path
    seeds: tuple[int, ...] = (0, 1)
    workers: int = 2
    threads: int = 3


@pytest.fixture
def interpreter(replace_python):
    """Replace Python by a script that writes its arguments and threads, and fails for the method ``bad``."""
    replace_python('printf "%s\\n" "$@" "$OMP_NUM_THREADS" "$MKL_NUM_THREADS"\n[ "$5" != bad ] || exit 3\n')


def test_each_job_gets_the_benchmark_and_its_settings_in_a_process_with_a_log(interpreter, tmp_path):
    run_jobs(Bench(tmp_path / "out"), [("base", 0), ("on_policy", 2)], tmp_path / "logs", "models")
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["base-0.log", "on_policy-2.log"]
    *module, name, settings, method, number, omp, mkl = (
        (tmp_path / "logs" / "on_policy-2.log").read_text().split("\n")[:-1]
    )
    assert module == ["-m", "dmaxlit.bench"]
    assert (name, method, number, omp, mkl) == ("Bench", "on_policy", "2", "3", "3")
    expected = {"output": str(tmp_path / "out"), "seeds": [0, 1], "workers": 2, "threads": 3}
    assert json.loads(settings) == expected


def test_a_job_that_fails_is_named_with_its_log_which_is_appended_to(interpreter, tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match=r"bench: bad 1 failed with exit status 3; see .*bad-1\.log"):
            run_jobs(Bench(tmp_path), [("bad", 1)], tmp_path, "models")
    assert (tmp_path / "bad-1.log").read_text().count("bad") == 2


def test_a_job_that_fails_ends_the_others_which_save_what_they_have(replace_python, tmp_path):
    replace_python(
        f'trap "echo saved; exit 143" TERM\n'
        f'if [ "$5" = bad ]; then while ! [ -s {tmp_path}/good-0.log ]; do sleep 0.02; done; exit 3; fi\n'
        "echo begun\nwhile :; do sleep 0.02; done\n"
    )
    with pytest.raises(UserError, match=r"^bench: bad 1 failed with exit status 3; see .*bad-1\.log$"):
        run_jobs(Bench(tmp_path), [("good", 0), ("bad", 1), ("late", 2)], tmp_path, "models")
    assert (tmp_path / "good-0.log").read_text().split() == ["begun", "saved"]
    assert not (tmp_path / "late-2.log").exists()
