import pytest
import yaml

from dmaxlit.cli.model_flag import expand_model_flag
from tests.cli.conftest import printed


@pytest.mark.parametrize("flag", ["--model {}", "--model={}"])
def test_a_run_names_the_model_it_starts_from_as_other_commands_do(dmax, base, flag):
    settings = yaml.safe_load(printed(dmax, "--config", str(base), *flag.format("builtin:chain-base").split()))
    assert settings["model"]["backbone"]["init_args"]["pretrained"] == "builtin:chain-base"
    assert settings["model"]["noise"]["init_args"]["level"] == 0.5  # the section's other settings stay
    for command in ("validate", "test", "predict"):
        ended = dmax(f"{command} --config {base} {flag.format('./gone')}")
        assert ended.err.splitlines()[-1].startswith("error: model: expected a model folder")


@pytest.mark.parametrize(
    "args",
    [
        ["--model.noise", "masked", "--trainer.max_steps", "3"],
        ["--model", "settings.yaml"],
        ["--model", '{"seed": 1}'],
        ["--model", "--print_config"],
        ["--model"],
    ],
)
def test_settings_of_the_section_stay_as_they_are(args):
    assert expand_model_flag(args) == args


def test_a_checkpoint_is_refused_with_what_to_give_instead(dmax, base):
    refusal = dmax(f"test --config {base} --model x.ckpt").refusal
    assert refusal.startswith(
        "model: expected a folder, hub id or builtin:NAME, got 'x.ckpt'; a checkpoint is given as"
    )
