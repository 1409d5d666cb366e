import json
import time

import pytest

from dmaxlit.bench import ScaleBench, scale
from dmaxlit.bench.process_figures import ProcessFigures
from dmaxlit.bench.scale_table import ScaleRun, format_table
from dmaxlit.bench.start_line import wait_for_others
from dmaxlit.errors import UserError


@pytest.fixture
def commands(monkeypatch):
    """The commands that were run; each process of them writes figures, and takes a second for each process."""
    started = []

    def run_module(module, settings, name, environment):
        run = json.loads(settings)
        started.append((name, run["devices"], run["num_prompts"], run["number"], environment))
        write(run["folder"], run["number"], run["devices"], run["total"])

    def fit(recipe, folder, seed, *arguments, environment):
        options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
        (clock,) = json.loads(options["trainer.callbacks"])
        number, total = clock["init_args"]["number"], clock["init_args"]["total"]
        devices = json.loads(options["trainer.devices"])
        started.append((options["trainer.strategy"], devices, int(options["data.batch_size"]), number, environment))
        write(clock["init_args"]["folder"], number, devices, total)

    def write(folder, number, devices, total):
        folder = scale.Path(folder)
        folder.mkdir(exist_ok=True)
        for rank in range(devices if isinstance(devices, int) else 1):
            ProcessFigures(float(total), 1.0, 100).write(folder, number + rank)

    monkeypatch.setattr(scale, "run_module", run_module)
    monkeypatch.setattr(scale, "fit", fit)
    return started


def test_the_command_measures_every_way_in_turns_and_resumes(tmp_path, commands, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    table = ScaleBench(tmp_path / "out", processes=[2], prompts=8, rows=4, updates=1, repeats=1, threads=3).run()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "results.json",
        "runs",
        "settings.json",
        "table.md",
    ]
    assert all(environment["OMP_NUM_THREADS"] == "3" for *_, environment in commands)
    assert not any(name.startswith("SLURM") for *_, environment in commands for name in environment)
    assert [entry[:4] for entry in commands if entry[0] == "distill"] == [
        ("distill", 1, 8, 0),
        *[("distill", 1, 4, number) for number in (0, 1)],  # apart, strong scaling
        ("distill", 2, 8, 0),
        *[("distill", 1, 8, number) for number in (0, 1)],  # apart, weak scaling
        ("distill", 2, 16, 0),
    ]
    assert [entry[:4] for entry in commands if entry[0] not in ("distill", "evaluate")] == [
        ("auto", 1, 4, 0),
        *[("auto", 1, 2, number) for number in (0, 1)],
        *[(name, 2, 2, 0) for name in ("ddp", "FSDP2Strategy")],
        *[("auto", 1, 4, number) for number in (0, 1)],
        *[(name, 2, 4, 0) for name in ("ddp", "FSDP2Strategy")],
    ]
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert format_table([ScaleRun(**run) for run in content["runs"]]) == table
    assert "| fit, FSDP2 | 2 | weak | 100 | 0.50 | 0.50 | 1.00 | 1.00 | 1.00 | 0 |" in table

    before = len(commands)
    ScaleBench(tmp_path / "out", processes=[2], prompts=8, rows=4, updates=1, repeats=2, threads=3).run()
    assert len(commands) == 2 * before  # the second turn alone
    turns = [run["repeat"] for run in json.loads((tmp_path / "out" / "results.json").read_text())["runs"]]
    assert turns == [0] * len(content["runs"]) + [1] * len(content["runs"])


def test_on_gpus_separate_runs_have_one_each(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(scale.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(scale.torch.cuda, "get_device_name", lambda: "a GPU")
    ScaleBench(tmp_path, prompts=8, rows=4, updates=1, repeats=1, device="cuda").run()
    apart = [entry[1] for entry in commands if entry[0] == "evaluate" and isinstance(entry[1], list)]
    assert apart == [[0], [1]] * 2


def test_of_separate_runs_none_waits_for_one_that_has_failed(tmp_path, commands, monkeypatch):
    complete = scale.run_module

    def run_module(module, settings, name, environment):
        run = json.loads(settings)
        if run["total"] == 1:
            complete(module, settings, name, environment)
        elif run["number"] == 1:
            raise UserError("distill failed with exit status 1: out of memory")
        else:
            wait_for_others(scale.Path(run["folder"]) / "start", 0, run["total"])

    monkeypatch.setattr(scale, "run_module", run_module)
    monkeypatch.setattr("dmaxlit.bench.start_line._LONGEST", 10)
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"^distill failed with exit status 1: out of memory$"):
        ScaleBench(tmp_path, prompts=2, rows=2, updates=1, repeats=1).run()
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": []}, "^processes: expected at least one, got none$"),
        ({"processes": [0]}, "^processes: expected at least 1, got 0$"),
        ({"processes": [3]}, "^prompts: expected a multiple of 3 processes, got 128$"),
        ({"rows": 3}, "^rows: expected a multiple of 2 processes, got 3$"),
        ({"hidden_size": 33}, "^hidden_size: expected a multiple of head_dim 32, got 33$"),
        ({"repeats": 0}, "^repeats: expected at least 1, got 0$"),
        ({"device": "cuda"}, "^processes: expected at most 0 GPUs, got 2$"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, monkeypatch, settings, message):
    monkeypatch.setattr(scale.torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=message):
        ScaleBench(tmp_path, **settings)


def test_a_model_of_another_size_is_written_once(tmp_path, commands):
    bench = ScaleBench(tmp_path, prompts=2, rows=2, updates=1, repeats=1, hidden_size=64, layers=1)
    bench.run()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]) == (64, 1, 2)
