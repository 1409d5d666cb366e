"""Strategies on the command line: by name, with options, in files."""

import pytest
import yaml

from tests.cli.conftest import printed

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"
)


def noise_of(text):
    return yaml.safe_load(text)["model"]["noise"]


@pytest.mark.parametrize("name", ["masked", "MaskedNoise", "dmaxlit.noise.MaskedNoise"])
def test_a_strategy_is_given_by_name_with_its_options_as_flags(dmax, base, name):
    noise = noise_of(printed(dmax, "--config", base, "--model.noise", name, "--model.noise.per", "block"))
    assert noise["class_path"].endswith("MaskedNoise")
    assert noise["init_args"]["per"] == "block"


@pytest.mark.parametrize(
    "written",
    ["masked", "{class_path: masked}", "{class_path: MaskedNoise}", "{class_path: dmaxlit.noise.MaskedNoise}"],
)
def test_a_strategy_is_given_by_name_in_a_file(dmax, base, tmp_path, written):
    (tmp_path / "more.yaml").write_text(f"model: {{noise: {written}}}\n")
    noise = noise_of(printed(dmax, "--config", base, "--config", tmp_path / "more.yaml"))
    assert noise["class_path"].endswith("MaskedNoise")


def test_an_option_alone_changes_the_configured_strategy(dmax, base):
    noise = noise_of(printed(dmax, "--config", base, "--model.noise.temperature", "0.5"))
    assert noise["class_path"].endswith("OnPolicyNoise")
    assert (noise["init_args"]["level"], noise["init_args"]["temperature"]) == (0.5, 0.5)


def test_a_class_that_is_named_takes_nothing_over_from_the_one_before(dmax, base, tiny):
    alone = printed(
        dmax, "--model.backbone.pretrained", tiny, "--model.noise", "masked", "--model.optimizer", "MuonAdamW"
    )
    assert noise_of(alone)["init_args"]["level"] == [0.0, 1.0]
    optimizer = yaml.safe_load(alone)["model"]["optimizer"]["init_args"]
    assert (optimizer["lr"], optimizer["weight_decay"], optimizer["betas"]) == (0.02, 0.0, [0.9, 0.95])
    assert noise_of(printed(dmax, "--config", base, "--model.noise", "masked"))["init_args"]["level"] == [0.0, 1.0]


@pytest.mark.parametrize("name", ["FSDP2Strategy", "dmaxlit.training.fsdp.FSDP2Strategy"])
def test_the_trainer_s_strategy_goes_by_class_name_too(dmax, base, tmp_path, name):
    (tmp_path / "more.yaml").write_text(f"trainer: {{strategy: {{class_path: {name}}}}}\n")
    for flags in (["--config", "more.yaml"], ["--trainer.strategy", name], [f"--trainer.strategy={name}"]):
        strategy = yaml.safe_load(printed(dmax, "--config", base, *flags))["trainer"]["strategy"]
        assert strategy["class_path"] == "dmaxlit.training.fsdp.FSDP2Strategy"


def test_lightning_s_names_of_strategies_are_left_to_it(dmax, base):
    for flags in (["--trainer.strategy", "ddp"], ["--trainer.strategy=ddp"]):
        assert yaml.safe_load(printed(dmax, "--config", base, *flags))["trainer"]["strategy"] == "ddp"


def test_the_default_strategy_takes_options_too(dmax, tiny):
    noise = noise_of(printed(dmax, "--model.backbone.pretrained", tiny, "--model.noise.level", "0.25"))
    assert noise["init_args"]["level"] == 0.25


def test_a_level_may_be_a_range_or_a_distribution(dmax, base):
    assert noise_of(printed(dmax, "--config", base, "--model.noise.level", "[0, 1]"))["init_args"]["level"] == [
        0.0,
        1.0,
    ]
    flags = ["--model.noise.level", "UniformLevel", "--model.noise.level.low", "0.25"]
    level = noise_of(printed(dmax, "--config", base, *flags))["init_args"]["level"]
    assert level["class_path"].endswith("UniformLevel")
    assert level["init_args"] == {"low": 0.25, "high": 1.0}


def test_help_on_a_strategy_goes_by_registered_name(dmax):
    text = " ".join(dmax("fit --model.noise.help on_policy").out.split())
    assert "Temperature of the rollout, above 0. 1 samples from the model, as in the paper. (type: float" in text
    # An option of the base class, with its default.
    assert "Draw one level for each sequence or for each block. (type: Literal['sequence', 'block'], default: " in text


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--model.noise", "masked", "--model.noise.level", "[0.0, 1.0]", "--model.noise.schedule", "CosineSchedule"],
        [
            "--model.optimizer",
            "MuonAdamW",
            "--model.lr_scheduler",
            "CosineAnnealingLR",
            "--model.lr_scheduler.T_max",
            "4",
        ],
        [
            "--trainer.callbacks",
            "SPDValidation",
            "--trainer.callbacks.decoders",
            "[{name: spd, options: {tau_dec: 0.3}}]",
        ],
        ["--data.task.difficulty", "easy"],
    ],
)
def test_a_printed_configuration_prints_itself(dmax, base, tmp_path, flags):
    once = printed(dmax, "--config", base, *flags)
    (tmp_path / "once.yaml").write_text(once)
    assert printed(dmax, "--config", tmp_path / "once.yaml") == once
