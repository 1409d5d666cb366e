"""Strategies, decoders and data modules in the user's files, imported from the current folder."""

import json
import sys

import pytest
import yaml

from tests.cli.conftest import printed, start

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"
)

OWN_NOISE = '''
from dataclasses import replace

from dmaxlit.noise import OnPolicyNoise

class TwiceNoise(OnPolicyNoise):
    """OPUT with the last view repeated."""

    def views(self, clean, generator):
        dialogue = super().views(clean, generator)
        view = next(dialogue)
        while view is not None:
            answer = yield view
            last = view
            try:
                view = dialogue.send(answer)
            except StopIteration:
                view = None
        yield replace(last, name="again")
'''

OWN_DECODER = '''
from dmaxlit.decoding import ThresholdDecoder

class Bold(ThresholdDecoder):
    """Commits whatever is likelier than not bold."""

    def __init__(self, boldness: float = 0.5):
        super().__init__(threshold=1 - boldness)
'''

UNCOUNTED = """
from dataclasses import replace

from dmaxlit.decoding import ThresholdDecoder

class Uncounted(ThresholdDecoder):
    def step(self, state, logits, special):
        return replace(super().step(state, logits, special), step=state.step)
"""

OWN_DATA = '''
from dmaxlit.data import SelfDistilledDataModule

class Twice(SelfDistilledDataModule):
    """With an option more."""

    def __init__(self, times: int = 2, **options):
        super().__init__(**options)
        self.times = times
'''


def noise_of(text):
    return yaml.safe_load(text)["model"]["noise"]


@pytest.mark.slow
def test_a_strategy_in_the_current_folder_is_found_by_the_console_script_too(base, tmp_path):
    (tmp_path / "my_noise.py").write_text(OWN_NOISE)
    flags = ["--model.noise", "my_noise.TwiceNoise", "--model.noise.level", "0.75", "--trainer.fast_dev_run", "true"]
    # Like a console script, -P does not put the current folder on the path.
    script = [sys.executable, "-P", "-c", "from dmaxlit.cli import main; main()"]
    command = [*script, "fit", "--config", str(base), *flags]
    ended = start(command, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_refusal_is_one_line_and_status_2_of_the_process(processes, base, tmp_path):
    command = ["fit", "--config", base, "--model.noise", "no_such_noise"]
    assert processes.run(command, tmp_path / "log", folder=tmp_path) == [2]
    assert (tmp_path / "log").read_text() == (
        "error: unknown noise strategy 'no_such_noise'; known: complementary, confidence, editing, masked, mmd, "
        "multi_block, on_policy, rollout_k, soft_on_policy, stage_consistency, tsd, "
        "uniform\n"
    )


def test_a_decoder_of_one_s_own_is_found_too(dmax, base, tmp_path, monkeypatch):
    (tmp_path / "my_decoder.py").write_text(OWN_DECODER)
    monkeypatch.syspath_prepend(tmp_path)
    ended = dmax(f"predict --config {base} --decoder my_decoder.Bold --decoder.boldness 1.0")
    assert ended.status == 0, ended.err
    rows = [json.loads(line) for line in (tmp_path / "runs" / "predictions.jsonl").read_text().splitlines()]
    assert {row["num_forwards"] for row in rows} == {
        3
    }  # one a block: a prompt of five tokens, a budget of 32, blocks of 16


@pytest.mark.parametrize(
    "line",
    [
        "generate --model {tiny} --prompt 3 --max_new_tokens 6",
        "distill --model {tiny} --output c.jsonl --num_prompts 2 --max_new_tokens 6 --keep all",
        "predict --config {base}",
    ],
)
def test_the_check_of_a_decoder_can_be_switched_off(dmax, base, tiny, tmp_path, monkeypatch, line):
    (tmp_path / "my_uncounted.py").write_text(UNCOUNTED)
    monkeypatch.syspath_prepend(tmp_path)
    line = line.format(base=base, tiny=tiny) + " --decoder my_uncounted.Uncounted"
    refused = dmax(line)
    assert refused.status == 2
    assert refused.err.splitlines()[-1].startswith("error: decoder Uncounted: expected step to count a forward")
    ended = dmax(f"{line} --check_decoder false")
    assert ended.status == 0, ended.err


@pytest.mark.parametrize("in_file", [True, False])
def test_a_data_module_of_one_s_own_is_found_too(dmax, base, tmp_path, monkeypatch, in_file):
    (tmp_path / "my_data.py").write_text(OWN_DATA)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "more.yaml").write_text("data: {class_path: my_data.Twice, init_args: {times: 3}}\n")
    chosen = ["--config", "more.yaml"] if in_file else ["--data", "my_data.Twice", "--data.times", "3"]
    data = yaml.safe_load(printed(dmax, "--config", base, *chosen))["data"]
    assert data["class_path"] == "my_data.Twice"
    assert (data["init_args"]["times"], data["init_args"]["batch_size"]) == (3, 4)
    assert dmax(["fit", "--config", str(base), *chosen, "--trainer.fast_dev_run", "true"]).status == 0
