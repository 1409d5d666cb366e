import pytest
import yaml
from jsonargparse import ArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dmaxlit.cli.class_names import CLASS_OPTIONS, PARSER_MODE, class_path, expand_class_names
from dmaxlit.errors import UserError
from dmaxlit.noise import NOISE, OnPolicyNoise
from dmaxlit.tasks import TASKS


@pytest.mark.parametrize("name", ["on_policy", "OnPolicyNoise", "dmaxlit.noise.OnPolicyNoise"])
def test_registered_name_class_name_and_import_path_are_the_same_class(name):
    assert NOISE.get(class_path(NOISE, name)) is OnPolicyNoise


def test_every_registered_name_has_an_import_path():
    for registry in (NOISE, TASKS):
        for name in registry:
            assert registry.get(class_path(registry, name)) is registry.get(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [("nope", ""), ("no_module.Nope", "No module named 'no_module'"), ("os.nope", "has no attribute 'nope'")]
    + [("os.sep", "it is no NoiseStrategy"), ("torch.nn.Linear", "it is no NoiseStrategy")],
)
def test_what_is_no_strategy_is_refused_with_the_reason_and_the_known_names(name, why):
    with pytest.raises(UserError, match=f"unknown noise strategy '{name}'.*known: complementary") as caught:
        class_path(NOISE, name)
    assert why in str(caught.value)


@pytest.mark.parametrize("name", ["MuonAdamW", "dmaxlit.training.muon.MuonAdamW"])
def test_an_optimiser_goes_by_class_name_too(name):
    assert class_path(Optimizer, name) == "dmaxlit.training.muon.MuonAdamW"


def test_of_two_schedules_of_one_name_lightning_s_is_meant():
    assert class_path(LRScheduler, "ReduceLROnPlateau") == "lightning.pytorch.cli.ReduceLROnPlateau"


def test_a_name_that_no_class_has_is_left_for_the_parser_to_refuse():
    assert class_path(Optimizer, "Nope") == "Nope"


@pytest.mark.parametrize(
    "args",
    [
        ["--model.noise.level", "masked"],
        ["--data.corpus", "masked"],
        ["--data.task", "chain"],
        ["--model.noise", "mine.yaml"],
        ["--model.lr_scheduler", "null"],
        ["--model.noise"],
    ],
)
def test_other_arguments_stay_as_they_are(args):
    assert expand_class_names(args, CLASS_OPTIONS) == args


def test_help_asks_for_the_import_path():
    expected = ["--model.noise.help", "dmaxlit.noise.masked.MaskedNoise"]
    assert expand_class_names(["--model.noise.help", "masked"], CLASS_OPTIONS) == expected


BROKEN = "{class_path: uniform, init_args: {level: 0.5}"
OWN = {
    "level": 0.75,
    "per": "sequence",
    "stratified": False,
    "schedule": None,
}


@pytest.mark.parametrize(
    ("args", "start", "options"),
    [
        (["--model.noise", "uniform"], "", OWN),
        (["--model.noise=uniform"], "--model.noise=", OWN),
        (["--model.noise", "{class_path: uniform, init_args: {per: block}}"], "", {**OWN, "per": "block"}),
    ],
)
def test_naming_a_class_means_its_own_defaults(args, start, options):
    spec = yaml.safe_load(expand_class_names(args, CLASS_OPTIONS)[-1].removeprefix(start))
    assert spec == {"class_path": "dmaxlit.noise.uniform.UniformNoise", "init_args": options}


@pytest.mark.parametrize("args", [["--model.noise", BROKEN], [f"--model.noise={BROKEN}"]])
def test_a_mapping_that_is_not_yaml_is_refused_in_one_line_that_names_the_flag(args):
    with pytest.raises(UserError, match=r"^model\.noise: expected a value, got '{class_path.*is not YAML") as refusal:
        expand_class_names(args, CLASS_OPTIONS)
    assert "\n" not in str(refusal.value)


def test_options_that_have_no_default_stay_open_and_those_the_module_gives_are_none():
    (_, written) = expand_class_names(["--model.lr_scheduler", "CosineAnnealingLR"], CLASS_OPTIONS)
    assert yaml.safe_load(written)["init_args"] == {"eta_min": 0.0, "last_epoch": -1}


def loaded(text):
    parser = ArgumentParser(parser_mode=PARSER_MODE)
    for name in ("model", "data", "noise"):
        parser.add_argument(f"--{name}", type=dict)
    return parser.parse_string(text).as_dict()


def test_yaml_is_read_with_names_in_their_places_only():
    read = loaded("{model: {noise: uniform, other: uniform}, data: {task: {class_path: chain}}}")
    assert read["model"]["noise"] == {"class_path": "dmaxlit.noise.uniform.UniformNoise", "init_args": OWN}
    assert read["model"]["other"] == "uniform"
    assert read["data"]["task"]["class_path"] == "dmaxlit.tasks.chain.ChainTask"


def test_options_without_a_class_are_left_alone_to_change_the_class_configured_before():
    assert loaded("model: {noise: {init_args: {per: block}}}")["model"]["noise"] == {"init_args": {"per": "block"}}


def test_a_task_by_its_bare_name_stays_one_because_its_options_stand_beside_it():
    assert loaded("data: {task: chain}")["data"] == {"task": "chain"}


def test_options_that_are_no_mapping_are_refused():
    with pytest.raises(UserError, match="init_args: expected a mapping of options for 'uniform', got 3"):
        loaded("model: {noise: {class_path: uniform, init_args: 3}}")
