import sys

import pytest

from tests.cli.conftest import start

pytest.importorskip("lm_eval")


def lm_eval(folder, *args):
    """Run the command in a process of its own: lm-eval sets up the logging of the whole process."""
    return start([sys.executable, "-m", "dmaxlit", "lm_eval", *args], folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("dtype=float32", "error: pretrained: expected a folder, .ckpt file, hub id or builtin:NAME, as in "),
        ("pretrained=builtin:chain-base,tau=0.5", "error: decoder 'spd': unknown option tau; known: "),
    ],
)
def test_bad_arguments_of_the_model_are_one_line(tmp_path, arguments, line):
    task = tmp_path / "local.yaml"
    task.write_text("{task: local, dataset_path: json, output_type: generate_until, doc_to_text: a, test_split: test}")
    args = ["--model", "dmaxlit", "--model_args", arguments, "--tasks", "local", "--include_path", str(tmp_path)]
    process = lm_eval(tmp_path, *args)
    assert process.returncode == 2, process.stderr
    assert process.stderr.splitlines()[-1].startswith(line)
    assert "Traceback" not in process.stderr
