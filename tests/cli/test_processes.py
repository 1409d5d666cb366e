import json
import sys
from pathlib import Path

import pytest

from dmaxlit.cli.processes import launch_ranks
from dmaxlit.errors import UserError
from tests.cli.conftest import start

ROOT = Path(__file__).parents[2]


def die(command, folder, after):
    """Run a command in two processes, the second of which is killed after so many records."""
    return start([sys.executable, str(ROOT / "tests/cli/one_rank_dies.py"), str(after), *command], folder)


@pytest.mark.slow
def test_two_processes_one_of_which_was_killed_write_what_one_process_writes(dmax, processes, tiny, tmp_path):
    flags = f"--model {tiny} --num_prompts 12 --max_new_tokens 6 --temperature 1.5 --batch_size 2".split()
    distill, devices = ["distill", "--keep", "all", *flags], ["--accelerator", "cpu", "--devices", "2"]
    killed = die([*distill, *devices, "--output", "two.jsonl"], tmp_path, after=2)
    assert killed.returncode != 0
    assert "rank 1 has ended" in killed.stderr or "[rank: 1] Child process" in killed.stderr  # Lightning looks too
    assert not (tmp_path / "two.jsonl").exists()
    recorded = json.loads((tmp_path / ".two.rank1.jsonl.progress.json").read_text())["progress"]
    assert recorded["prompts"] == 4
    again = [*distill, *devices, "--output", "two.jsonl", "--batch_size", "3"]
    codes = processes.run(again, tmp_path / "log", folder=tmp_path, ranks=2)
    output = "".join((tmp_path / f"log.{rank}").read_text() for rank in range(2))
    assert codes == [0, 0], output
    assert output.count("kept 12 of 12 answers") == 1
    assert dmax([*distill, "--output", "one.jsonl"]).status == 0
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    one, two = (json.loads((tmp_path / f"{name}.jsonl.manifest.json").read_text()) for name in ("one", "two"))
    assert one.pop("seconds") > 0 < two.pop("seconds")
    assert one == two
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--devices 0", "devices: expected at least 1, got 0"),
        ("--devices many", "devices: expected what torch can compute on here, got many of 'auto'"),
        ("--num_nodes 0", "num_nodes: expected at least 1, got 0"),
        ("--accelerator nothing", "accelerator: expected what torch can compute on here, got 'nothing'"),
        ("--accelerator cpu --device cpu", "accelerator: expected no --device with it, got 'cpu' and 'cpu'"),
        ("--strategy fsdp", "strategy: expected 'auto' or 'ddp', got 'fsdp'"),
    ],
)
@pytest.mark.parametrize("command", ["distill", "generate"])
def test_devices_that_cannot_be_used_are_one_line(dmax, tiny, tmp_path, command, flags, refusal):
    ended = dmax(f"{command} --model {tiny} --output c.jsonl --task chain --num_prompts 2 {flags}")
    assert ended.refusal.startswith(refusal)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--prompt 3", "output: expected a file for the answers of several processes, got none"),
        ("--output a.jsonl", "prompts: expected a file, --prompt or --task for several processes, got standard input"),
        ("--output a.jsonl --prompts -", "prompts: expected a file, --prompt or --task for several processes, got st"),
    ],
)
def test_what_several_processes_cannot_share_is_refused_before_they_start(dmax, tiny, tmp_path, flags, refusal):
    ended = dmax(f"generate --model {tiny} --devices 2 {flags}")
    assert ended.refusal.startswith(refusal)


def test_one_process_is_connected_to_nobody_and_may_have_any_device():
    ranks, device = launch_ranks("meta", "auto", 1, 1, "auto")
    assert (ranks.world_size, device) == (1, "meta")
    ranks, device = launch_ranks("auto", "cpu", 1, 1, "auto")
    assert (ranks.world_size, device) == (1, "cpu")
    with pytest.raises(UserError, match="accelerator: expected no --device"):
        launch_ranks("cuda:1", "gpu", 1, 1, "auto")
