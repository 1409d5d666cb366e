"""Options of decoders and tasks as flags."""

import pytest
import yaml

from dmaxlit.cli.option_flags import expand_option_flags
from tests.cli.conftest import printed
from tests.cli.test_option_help import OWN_TASK

COLUMNS = {"prompt": "question", "answer": "solution"}


def expand(settings, *args):
    """Return the arguments before the mapping of options, and the mapping."""
    *others, last = expand_option_flags(args, lambda others: settings)
    flag, _, text = last.partition("=")
    return others, flag, yaml.safe_load(text)


@pytest.mark.parametrize("flags", [["--decoder.tau_dec", "0.5"], ["--decoder.tau_dec=0.5"]])
def test_an_option_is_added_to_those_of_the_file(flags):
    settings = {"decoder": "spd", "decoder_options": {"soft": False}}
    expected = ["--seed", "3"], "--decoder_options", {"soft": False, "tau_dec": 0.5}
    assert expand(settings, *flags, "--seed", "3") == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("true", True),
        ("null", None),
        ("#x", "#x"),
        ("3 + 4", "3 + 4"),
        ("[a, 1]", ["a", 1]),
        ("{a: [1]}", {"a": [1]}),
        ("-1", -1),
        ("a=b", "a=b"),
        ("[a", "[a"),
        ("", ""),
        ('"3"', '"3"'),
    ],
)
def test_a_value_is_what_the_parser_reads(text, value):
    assert expand({}, f"--task.x={text}")[2] == {"x": value}


def test_what_is_nested_in_an_option_is_added_to_it():
    flags = ["--task.columns.prompt", "question", "--task.path", "a.jsonl", "--task.columns.answer", "solution"]
    assert expand({}, *flags)[2] == {"columns": COLUMNS, "path": "a.jsonl"}
    stored = {"task_options": {"columns": {"response": "r", "prompt": "p"}}}
    assert expand(stored, *flags[:2])[2] == {"columns": {"response": "r", "prompt": "question"}}
    assert expand({"task_options": {"columns": 3}}, *flags[:2])[2] == {"columns": {"prompt": "question"}}


def test_a_class_the_parser_makes_keeps_its_flags():
    settings = {"data": {"init_args": {"task": {"class_path": "my.Task"}}}}
    flags = ["--data.task.top=9", "--data.task.init_args.least=1"]
    assert sorted(expand_option_flags(flags, lambda others: settings)) == sorted(flags)


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (["distill", "--model", "m", "--output", "c.jsonl"], "task"),
        (["generate", "--model", "m"], "task"),
        (["fit"], "data.task"),
    ],
)
def test_nested_options_of_a_task_hold_together_and_with_those_of_a_file(dmax, base, tmp_path, command, flag, in_file):
    part = {"task": "jsonl", "task_options": {"path": "a.jsonl", "columns": {"prompt": "question"}}}
    if command == ["fit"]:
        settings = yaml.safe_load(base.read_text())
        settings["data"] |= part if in_file else {"task_options": None}
    else:
        settings = part if in_file else {}
    base.write_text(yaml.safe_dump(settings))
    flags = f"--config {base} --{flag}.columns.answer solution --print_config".split()
    if not in_file:
        flags += f"--{flag} jsonl --{flag}.path=a.jsonl --{flag}.columns.prompt=question".split()
    ended = dmax([*command, *flags])
    assert ended.status == 0, ended.err
    parsed = yaml.safe_load(ended.out)
    parsed = parsed["data"]["init_args"] if command == ["fit"] else parsed
    assert parsed["task"] == "jsonl"
    assert parsed["task_options"] == {"path": "a.jsonl", "columns": COLUMNS}


@pytest.mark.parametrize("name", ["AddTaskOfFile", "PairTaskOfFile"])
def test_a_task_by_import_path_in_a_file_takes_options_from_flags(dmax, base, tmp_path, name):
    source = OWN_TASK.format(name=name).replace("top: int = 5)", "top: int = 5, columns: dict[str, str] | None = None)")
    (tmp_path / f"own_{name.lower()}.py").write_text(source)
    settings = yaml.safe_load(base.read_text())
    path = f"own_{name.lower()}.{name}"
    settings["data"] |= {"task": {"class_path": path} if name.startswith("A") else path, "task_options": None}
    base.write_text(yaml.safe_dump(settings))
    flags = ["--data.task.top", "9", "--data.task.columns.prompt", "question", "--data.task.columns.answer=solution"]
    data = yaml.safe_load(printed(dmax, "--config", base, *flags))["data"]["init_args"]
    assert data["task"] == {"class_path": path, "init_args": {"top": 9, "columns": COLUMNS}}
    assert not data["task_options"]


def test_an_option_beside_one_of_a_class_in_a_list(dmax, base):
    flags = ["--data.task.operations", 4, "--trainer.callbacks.ModelCheckpoint.monitor", "loss"]
    settings = yaml.safe_load(printed(dmax, "--config", base, *flags))
    assert settings["data"]["init_args"]["task_options"] == {"operations": 4}
    assert settings["trainer"]["callbacks"][0]["init_args"]["monitor"] == "loss"


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("generate --model m --decoder.tau_dec", "decoder.tau_dec: expected a value, got none"),
        (
            "fit --config {base} --data.task.operations --data.seed 1",
            "data.task.operations: expected a value, got none",
        ),
        ("fit --config {base} --data.task.columns.prompt x", "task 'chain': unknown option columns"),
        ("generate --model m --decoder.tau_dec 0.5 --nope 3", "unknown setting 'nope'"),
        ("list --decoder.tau_dec 0.5", "unknown setting 'decoder_options'"),
    ],
)
def test_what_cannot_be_set_is_refused_in_one_line(dmax, base, line, refusal):
    assert dmax(line.format(base=base)).refusal.startswith(refusal)
