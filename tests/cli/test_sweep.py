"""The loop of the shell that the README of evaluation shows."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

README = Path(__file__).parents[2] / "dmaxlit" / "evaluation" / "README.md"

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")


@pytest.fixture
def commands(tmp_path):
    """The commands that the loop calls, from the shell itself."""
    (loop,) = re.findall(r"^```\n(for level in .*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    record = 'python() { printf "%q " "$@" >> calls; echo >> calls; }\n'
    (tmp_path / "runs").mkdir()
    for level in ("0.25", "0.5", "0.75"):  # as fit would leave them, for runs/level-*
        (tmp_path / "runs" / f"level-{level}").mkdir()
    subprocess.run(["bash", "-ec", record + loop], cwd=tmp_path, check=True)
    return [shlex.split(line)[2:] for line in (tmp_path / "calls").read_text().splitlines()]


@pytest.mark.slow
def test_a_sweep_of_the_shell_trains_each_setting_and_compares_them(dmax, base, commands, tmp_path):
    settings = yaml.safe_load(base.read_text())
    report = {
        "class_path": "ComparisonReport",
        "init_args": {"decoders": [{"name": "threshold"}], "num_examples": 1, "max_new_tokens": 4},
    }
    settings["trainer"] |= {"callbacks": [report], "max_steps": 1, "limit_val_batches": 0}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text(yaml.safe_dump(settings))
    *fits, compare = commands
    assert [line[0] for line in commands] == ["fit", "fit", "fit", "compare"]
    for line in fits:
        ended = dmax(line)
        assert ended.status == 0, ended.err
    ended = dmax([*compare, "--json", "runs.json"])
    assert ended.status == 0, ended.err
    compared = json.loads((tmp_path / "runs.json").read_text())
    levels = {f"level-{level}": level for level in (0.25, 0.5, 0.75)}
    assert compared["differences"] == {"model.noise.level": levels}
    bases = [next(row for row in run["rows"] if row["model"] == "base") for run in compared["runs"]]
    assert bases[0] == bases[1] == bases[2]  # its time too: it was decoded with once
