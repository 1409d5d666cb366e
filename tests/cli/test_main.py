import sys
from io import BytesIO, TextIOWrapper

import pytest
import torch

import dmaxlit
from dmaxlit.cli import COMMANDS, main
from tests.cli.conftest import start


def test_the_overview_names_every_command(dmax):
    overview = dmax("--help")
    assert overview.status == 0
    for command in COMMANDS:
        assert f"  {command} " in overview.out
    assert dmax("").out == overview.out


def test_the_version_is_the_package_s(dmax):
    assert dmax("--version").out.strip() == dmaxlit.__version__


def test_an_unknown_command_is_refused_with_the_closest_and_all_known(dmax):
    assert dmax("ftt").refusal == f"unknown command 'ftt' (did you mean fit?); known: {', '.join(COMMANDS)}"


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("analyse", "bench", "lm_eval")])
def test_help_of_every_command_explains_its_options_from_the_docstrings(dmax, command):
    outcome = dmax(f"{command} --help")
    assert outcome.status == 0
    assert "usage: dmaxlit" in outcome.out
    explanation = {
        "chat": "Seconds to wait after each forward, to watch a small model.",
        "check": "For a name that classes of several kinds have.",
        "list": "Only this kind.",
        "export": "Folder to write; an earlier export there is replaced.",
        "generate": "Registered name of the decoder",
        "serve": "Address to listen at. The default is reached from this machine only.",
        "evaluate": "Prompts of each task, the first ones",
        "distill": "every answer that ended in EOS",
        "convert": "The router's bias always keeps its type.",
        "compare": "Folders of runs of fit or evaluate, such as runs/*.",
        "trace": "Indices of the prompts to show, from 0.",
        "preview": "Optimiser step, for levels, and blocks of BlockWarmup",
        "plan": "Memory of each GPU; the last line then says whether the run fits",
    }.get(command, "Seed of corruption and rollout.")
    assert explanation in " ".join(outcome.out.split())
    assert "Args:" not in outcome.out


def test_a_device_with_too_little_memory_is_said_in_one_line(dmax, monkeypatch):
    def fail(command, args):
        raise error

    monkeypatch.setattr("dmaxlit.cli.listing.run", fail)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\na total capacity of ...")
    assert dmax("list").refusal == (
        "device: expected memory for the batch size (--batch_size; of fit --data.batch_size) and the dtype (--dtype; "
        "of fit --trainer.precision), got too little (CUDA out of memory. Tried to allocate 2.00 GiB)"
    )
    error = RuntimeError("a mistake of ours")
    with pytest.raises(RuntimeError, match="ours"):
        dmax("list")


def loaded_after(code, names, folder):
    """Return the modules that a fresh process has loaded after some code."""
    code = f"import sys\n{code}\nprint(*(name for name in {names} if name in sys.modules), file=sys.stderr)"
    process = start([sys.executable, "-c", code], folder)
    assert process.returncode == 0, process.stderr
    return process.stderr.split()


@pytest.mark.parametrize("code", ["import dmaxlit", "from dmaxlit.cli import main; main(['--help'])"])
def test_neither_the_import_nor_help_waits_for_a_large_library(tmp_path, code):
    names = ("torch", "numpy", "lightning", "transformers", "jsonargparse", "yaml")
    assert loaded_after(code, names, tmp_path) == []


def test_list_waits_for_torch_alone(tmp_path):
    names = ("lightning", "transformers", "tokenizers", "datasets", "huggingface_hub", "torchmetrics", "matplotlib")
    assert loaded_after("from dmaxlit.cli import main; main(['list'])", names, tmp_path) == []


def test_a_reader_that_stops_early_causes_no_traceback(tmp_path):
    line = f"{sys.executable} -m dmaxlit --help | true"
    ended = start(["bash", "-c", line], tmp_path)
    assert "Traceback" not in ended.stderr


def test_a_stream_that_is_not_utf_8_loses_no_answer(monkeypatch):
    stream = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("dmaxlit.cli.listing.run", lambda command, args: sys.stdout.write("π ≈ 3"))
    main(["list"])
    stream.flush()
    assert stream.buffer.getvalue() == rb"\u03c0 \u2248 3"
