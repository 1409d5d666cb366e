"""Options of classes in lists, by the name of the class."""

import json

import pytest
import yaml

from tests.cli.conftest import printed

REPORT = "--trainer.callbacks.ComparisonReport"
EARLY = "--trainer.callbacks.EarlyStopping"
FIRST = {"name": "threshold", "options": {"threshold": 0.5}, "label": "half"}
SECOND = {"name": "spd", "options": {"tau_dec": 0.5}, "label": "spd"}


@pytest.fixture
def listed(base):
    """Return the configuration of a short run with two callbacks of ours and one of Lightning's."""
    settings = yaml.safe_load(base.read_text())
    report = {"num_examples": 3, "decoders": [FIRST, SECOND], "baseline": False, "batch_size": 2}
    settings["trainer"]["callbacks"] = [
        {"class_path": "ComparisonReport", "init_args": report},
        {"class_path": "SPDValidation", "init_args": {"curve": None}},
        {"class_path": "LearningRateMonitor"},
    ]
    base.write_text(yaml.safe_dump(settings))
    return base


def trainer_of(text):
    """Return the trainer's settings in a configuration, with the classes of its lists by name."""
    trainer = yaml.safe_load(text)["trainer"]
    for name in ("callbacks", "logger"):
        if isinstance(trainer[name], list):
            trainer[name] = {item["class_path"].rpartition(".")[2]: item.get("init_args") for item in trainer[name]}
    return trainer


def callbacks(dmax, *args):
    return trainer_of(printed(dmax, *args))["callbacks"]


@pytest.mark.parametrize(
    "flag",
    [
        ["ComparisonReport.num_examples", 2],
        ["dmaxlit.callbacks.ComparisonReport.num_examples=2"],
        ["dmaxlit.callbacks.comparison_report.ComparisonReport.num_examples", 2],
    ],
)
def test_an_option_is_given_to_the_class_of_that_name_and_nothing_else_changes(dmax, listed, flag):
    before = callbacks(dmax, "--config", listed)
    after = callbacks(dmax, "--config", listed, f"--trainer.callbacks.{flag[0]}", *flag[1:])
    assert list(after) == ["ComparisonReport", "SPDValidation", "LearningRateMonitor"]  # in their order
    assert after == before | {"ComparisonReport": before["ComparisonReport"] | {"num_examples": 2}}


def test_a_class_without_options_in_the_file_takes_some(dmax, listed):
    flag = "--trainer.callbacks.LearningRateMonitor.logging_interval"
    monitor = callbacks(dmax, "--config", listed, flag, "step")["LearningRateMonitor"]
    assert monitor["logging_interval"] == "step"


THRESHOLD: dict[str, object] = {"name": "threshold", "options": {}, "label": None}


@pytest.mark.parametrize(
    ("option", "value", "decoders"),
    [
        ("decoders", "[{name: threshold}]", [THRESHOLD]),
        ("decoders", '[{"name": "threshold"}, {"name": "spd", "label": "spd"}]', [THRESHOLD, SECOND | {"options": {}}]),
        ("decoders+", "{name: threshold}", [FIRST, SECOND, THRESHOLD]),
        ("decoders+", '[{"name": "threshold"}]', [FIRST, SECOND, THRESHOLD]),
        ("decoders.options.tau_dec", "0.1", [FIRST, SECOND | {"options": {"tau_dec": 0.1}}]),
        ("init_args.decoders", "[{name: threshold}, {name: threshold}]", [THRESHOLD] * 2),
        ("decoders", "null", None),
    ],
)
def test_lists_of_decoders_are_replaced_extended_and_changed(dmax, listed, option, value, decoders):
    parsed = callbacks(dmax, "--config", listed, f"{REPORT}.{option}", value)["ComparisonReport"]["decoders"]
    assert (parsed and [{name: spec[name] for name in THRESHOLD} for spec in parsed]) == decoders


@pytest.mark.parametrize("in_file", [True, False])
def test_a_whole_list_does_not_take_over_options_of_one_of_the_same_length(dmax, listed, tmp_path, in_file):
    items = [{"class_path": "ComparisonReport", "init_args": {"decoders": [{"name": "spd"}, {"name": "threshold"}]}}]
    items += [{"class_path": "SPDValidation"}, {"class_path": "TrainingThroughput"}]
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": items}}))
    flags = ["--config", "more.yaml"] if in_file else ["--trainer.callbacks", json.dumps(items)]
    after = callbacks(dmax, "--config", listed, *flags)
    assert after["ComparisonReport"]["num_examples"] == 1000
    assert [(spec["options"], spec["label"]) for spec in after["ComparisonReport"]["decoders"]] == [({}, None)] * 2
    assert after["SPDValidation"]["curve"]
    assert list(after) == ["ComparisonReport", "SPDValidation", "TrainingThroughput"]


def test_options_of_several_classes_in_any_order_and_the_last_of_one_option(dmax, listed):
    flags = [f"{REPORT}.num_examples=2", "--trainer.callbacks.SPDValidation.num_samples=1", f"{REPORT}.num_examples=1"]
    after = callbacks(dmax, *flags, "--config", listed, f"{REPORT}.max_new_tokens=null")
    assert after["ComparisonReport"]["num_examples"] == 1
    assert after["SPDValidation"]["num_samples"] == 1


@pytest.mark.parametrize("in_file", [True, False])
def test_a_class_is_added_to_the_list_of_a_recipe(dmax, listed, tmp_path, in_file):
    before = list(callbacks(dmax, "--config", listed))
    added = {"config": str(listed), "trainer": {"callbacks+": [{"class_path": "TrainingThroughput"}]}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(added))
    flags = ["--config", "more.yaml"] if in_file else ["--config", listed, "--trainer.callbacks+", "TrainingThroughput"]
    assert list(callbacks(dmax, *flags)) == [*before, "TrainingThroughput"]


def test_a_class_added_by_a_flag_takes_what_it_requires(dmax, listed):
    after = callbacks(dmax, "--config", listed, f"{EARLY}.monitor", "loss", "--trainer.callbacks+", "EarlyStopping")
    assert list(after)[-1] == "EarlyStopping"
    assert after["EarlyStopping"]["monitor"] == "loss"


def test_a_class_whose_default_is_a_member_of_an_enumeration(dmax, listed):
    flags = ["--trainer.callbacks+", "Timer", "--trainer.callbacks.Timer.duration", "00:00:01:00"]
    timer = callbacks(dmax, "--config", listed, *flags)["Timer"]
    assert (timer["duration"], timer["interval"]) == ("00:00:01:00", "step")


@pytest.mark.parametrize("first", [["--trainer.logger+", "CSVLogger", "--trainer.logger.save_dir", "logs"], []])
def test_loggers_too_alone_and_among_others(dmax, listed, first):
    board = ["--trainer.logger+" if first else "--trainer.logger", "TensorBoardLogger"]
    option = "--trainer.logger.TensorBoardLogger"
    flags = [f"{option}.save_dir", "logs", f"{option}.name", "run"]
    logger = trainer_of(printed(dmax, "--config", listed, *first, *board, *flags))["logger"]
    assert (logger["TensorBoardLogger"] if first else logger["init_args"])["name"] == "run"


def test_help_of_a_class_in_the_list(dmax, listed):
    assert "--trainer.callbacks.num_examples" in dmax(f"fit {REPORT}.help").out
    assert "--trainer.callbacks.ComparisonReport.num_examples" in dmax("fit --help").out


THERE = "there are ComparisonReport, SPDValidation, LearningRateMonitor"


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        (f"{REPORT}.num_examples x", "trainer.callbacks.ComparisonReport.num_examples: expected int, got 'x'"),
        (f"{REPORT}.num_examples", "trainer.callbacks.ComparisonReport.num_examples: expected a value, got none"),
        (f"{REPORT}.num_examples --model.seed 1", "ComparisonReport.num_examples: expected a value, got none"),
        (f"{REPORT}.num_exampels 3", "'num_exampels' of ComparisonReport (did you mean num_examples?); known: output"),
        (f"{REPORT}.decoders [{{nam:\\ spd}}]", "ComparisonReport.decoders: unknown option 'nam' of DecoderSpec"),
        (f"{REPORT}.num_examples 0", "num_examples: expected at least 1, got 0"),
        (
            f"{EARLY}.monitor loss",
            f"callbacks.EarlyStopping: expected a class in the list, got none of this name; {THERE}",
        ),
        (
            f"--trainer.callbacks null {EARLY}.monitor loss",
            "the list is empty, --trainer.callbacks+=EarlyStopping adds",
        ),
        (
            "--trainer.logger true --trainer.logger.CSVLogger.name x",
            "trainer.logger.CSVLogger: expected a class in the",
        ),
        (
            f"--trainer.callbacks+ EarlyStopping {EARLY}.patience 2",
            "EarlyStopping: the following arguments are required: monitor",
        ),
        (
            f"--trainer.callbacks+ ComparisonReport {REPORT}.num_examples 2",
            "expected one of this class in the list, got 2",
        ),
        (
            "--trainer.callbacks.other.ComparisonReport.num_examples 2",
            "trainer.callbacks.other.ComparisonReport: expected",
        ),
        (f"{REPORT}.num_examples 2 --trainer.max_steps x", "trainer.max_steps: expected int, got 'x'"),
    ],
)
def test_what_the_list_or_the_class_does_not_have_is_refused_in_one_line(dmax, listed, flags, refusal):
    assert refusal in dmax(f"fit --config {listed} {flags}").refusal


def test_a_path_is_not_imported_to_be_looked_for(dmax, listed, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    assert "got none of this name" in dmax(f"fit --config {listed} --trainer.callbacks.evil.Evil.x 1").refusal


def test_the_option_is_obeyed_saved_and_survives_a_resumption(dmax, listed, tmp_path, caplog):
    run = f"fit --config {listed} {REPORT}.num_examples 2 {REPORT}.decoders"
    assert dmax(run, json.dumps([FIRST])).status == 0
    saved = next(tmp_path.glob("runs/**/config.yaml"))
    assert trainer_of(saved.read_text())["callbacks"]["ComparisonReport"]["num_examples"] == 2
    results = json.loads((tmp_path / "runs" / "results.json").read_text())
    assert "half" in json.dumps(results)
    assert "spd" not in json.dumps(results)
    assert dmax(f"fit --config {saved} --trainer.max_steps 3").status == 0
    assert "resuming from" in caplog.text
    assert trainer_of(saved.read_text())["callbacks"]["ComparisonReport"]["num_examples"] == 2


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_commands_that_decode_have_such_options_too(dmax, listed, command):
    flag = "--trainer.callbacks.SPDValidation.decoders"
    more = ["--output", "answers.jsonl"] if command == "predict" else []
    outcome = dmax(f"{command} --config {listed}", flag, '[{"name": "threshold", "label": "mine"}]', *more)
    assert outcome.status == 0, outcome.err
    if command != "predict":
        assert "mine" in outcome.out
