"""Errors provoked from the installed jsonargparse: a failure here names the text that a new release has changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from dmaxlit.cli import jsonargparse_internals as internals
from dmaxlit.noise import NoiseStrategy


@dataclass
class Range:
    low: int = 1
    high: int = 2


def provoke(*args, config=None, **types):
    """Return the messages of an error from the outermost to the innermost."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    for name, type_ in types.items():
        parser.add_argument(f"--{name}", type=type_)
    subcommands = parser.add_subcommands(required=False)
    fit = ArgumentParser(exit_on_error=False)
    fit.add_argument("--steps", type=int)
    subcommands.add_subcommand("fit", fit)
    with pytest.raises(ArgumentError) as caught:
        parser.parse_args(list(args)) if config is None else parser.parse_object(config)
    error, messages = caught.value, []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__
    return messages


def innermost(messages):
    return " ".join(internals.without_settings(messages[-1]).split())


def check(function, text, expected):
    """Fail with the function that no longer understands a text, and the text."""
    actual = function(text)
    assert actual == expected, (
        f"jsonargparse {version('jsonargparse')} words this error differently from what jsonargparse_internals."
        f"{function.__name__} reads: got {actual!r}, expected {expected!r}, from {text!r}"
    )


def test_the_setting_an_error_is_about():
    messages = provoke("--steps", "x", steps=int)
    check(internals.setting_of, messages[0], "steps")
    check(internals.setting_of, messages[-1], None)
    assert messages[-1] in internals.without_settings(messages[0])
    assert "steps" not in internals.without_settings(messages[0])


def test_the_expected_type_and_the_value():
    check(internals.wrong_value, innermost(provoke("--steps", "x", steps=int)), ("<class 'int'>", "x"))
    nested = provoke("--steps.key", "x", steps=int)
    check(internals.wrong_value, innermost(nested), ("<class 'int'>", "{key: x}"))


def test_the_members_of_a_union():
    messages = provoke("--size", "x", size=int | tuple[int, int])
    check(internals.union_members, messages[-2], "<class 'int'>, tuple[int, int]")


def test_a_name_that_is_no_class():
    check(internals.unknown_class, innermost(provoke("--noise", "Nope", noise=NoiseStrategy)), "Nope")


def test_an_option_that_a_class_does_not_have_and_the_path_of_the_class():
    messages = provoke("--noise", "dmaxlit.noise.UniformNoise", "--noise.levl", "1", noise=NoiseStrategy)
    check(internals.unknown_option, innermost(messages), "levl")
    paths = [path for message in messages for path in internals.class_paths(message)]
    assert paths[-1:] == ["dmaxlit.noise.UniformNoise"], f"jsonargparse_internals.class_paths: none in {messages}"


def test_a_flag_that_does_not_exist():
    check(internals.unknown_setting, innermost(provoke("--stps=3", steps=int)), "stps")


def test_a_setting_of_a_file_that_a_command_does_not_have():
    check(internals.unknown_setting, innermost(provoke(config={"subcommand": "fit", "fit": {"stps": 3}})), "stps")


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("<class 'int'>", "int"),
        ("<class 'dmaxlit.noise.base.NoiseStrategy'>", "NoiseStrategy"),
        ("dmaxlit.noise.base.NoiseStrategy", "NoiseStrategy"),
        ("Literal['sample', 'argmax']", "'sample', 'argmax'"),
        ("<class 'NoneType'>", "null"),
    ],
)
def test_types_as_people_write_them(text, readable):
    assert internals.readable(text) == readable


def test_types_come_in_the_forms_that_are_made_readable():
    messages = provoke("--noise", "x", noise=int | NoiseStrategy | None)
    check(internals.readable, internals.union_members(messages[-2]), "int, NoiseStrategy, null")


def test_the_command_before_a_setting_that_is_required():
    parser, fit = ArgumentParser(exit_on_error=False), ArgumentParser(exit_on_error=False)
    fit.add_argument("--model.backbone", type=int, required=True)
    parser.add_subcommands().add_subcommand("fit", fit)
    with pytest.raises(ArgumentError) as caught:
        parser.parse_args(["fit"])
    text = str(caught.value)
    assert "fit.model.backbone" in text, f"jsonargparse {version('jsonargparse')} says {text!r}"
    assert internals.readable(text).endswith(": model.backbone")


def test_the_position_of_an_error_in_yaml(tmp_path):
    (tmp_path / "file.yaml").write_text("steps: [")
    text = " ".join(provoke("--config", str(tmp_path / "file.yaml"), steps=int)[-1].split())
    assert 'in "<unicode string>",' in text, f"PyYAML says {text!r}"
    assert internals.readable(text).endswith("at line 2, column 1")


def test_a_registered_loader_sees_what_is_read_from_flags_and_files(tmp_path):
    internals.register_loader("test-loader", lambda value: {"a": "loaded"} if value == {"a": "text"} else value)
    parser = ArgumentParser(parser_mode="test-loader", exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--a", type=str)
    parser.add_argument("--group", type=dict)
    (tmp_path / "file.yaml").write_text("a: text\n")
    assert parser.parse_args(["--config", str(tmp_path / "file.yaml")]).a == "loaded"
    assert parser.parse_args(["--group", "{a: text}"]).group == {"a": "loaded"}


@pytest.mark.parametrize("text", ["#s3cret", "~", "Null", "&x", "!!null x", "---"])
def test_the_null_of_a_flag_is_null_alone(text):
    internals.register_loader("test-null")
    parser = ArgumentParser(parser_mode="test-null", exit_on_error=False)
    types = {"text": str, "maybe": str | None, "several": int | str | list[int] | None, "path": Path | None}
    for name, kind in {**types, "any": Any}.items():
        parser.add_argument(f"--{name}", type=kind)
        assert str(parser.parse_args([f"--{name}={text}"])[name]) == text
        if name != "text":
            assert parser.parse_args([f"--{name}=null"])[name] is None


def test_config_files_are_read_by_parse_path(tmp_path):
    """`dmaxlit.cli.training_parser.Parser` overrides it, so that an error in a file names the file."""
    paths = []

    class Parser(ArgumentParser):
        def parse_path(self, path, *args, **kwargs):
            paths.append(str(path))
            return super().parse_path(path, *args, **kwargs)

    parser = Parser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--steps", type=int)
    (tmp_path / "file.yaml").write_text("steps: 3\n")
    assert parser.parse_args(["--config", str(tmp_path / "file.yaml")]).steps == 3
    assert [path.endswith("file.yaml") for path in paths] == [True]


def test_settings_are_read_before_all_that_are_required_are_there():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--rate", type=float)
    with pytest.raises(ArgumentError):
        parser.parse_args(["--rate", "0.5"])
    settings = internals.parse_unvalidated(parser, ["--rate", "0.5"])
    assert internals.plain_settings(parser, settings, check=False) == {"steps": None, "rate": 0.5}


def test_a_single_value_in_a_file_is_a_list_of_one():
    class Several(internals.SeveralValues, ArgumentParser):
        pass

    parser = Several(exit_on_error=False)
    parser.add_argument("--text", action="append")
    parser.add_argument("--rows", nargs="+", type=int)
    assert parser.parse_object({"text": "abc", "rows": 3}).as_dict() == {"text": ["abc"], "rows": [3]}, (
        "SeveralValues overrides a method that this release does not call"
    )


def test_a_list_in_a_file_replaces_one_of_the_same_length(tmp_path):
    class Whole(internals.WholeLists, ArgumentParser):
        pass

    (tmp_path / "first.yaml").write_text("items: [{low: 3}]\n")
    (tmp_path / "second.yaml").write_text("items: [{high: 4}]\n")
    for parser, low in ((ArgumentParser(exit_on_error=False), 3), (Whole(exit_on_error=False), 1)):
        parser.add_argument("--config", action="config")
        parser.add_argument("--items", type=list[Range])
        parsed = parser.parse_args([f"--config={tmp_path / name}.yaml" for name in ("first", "second")])
        assert [(item.low, item.high) for item in parsed["items"]] == [(low, 4)]


@pytest.mark.parametrize("value", ["1", "0.5", "null"])
def test_a_whole_number_stays_one_in_whatever_order_types_are_asked_for(value):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--limit", type=float | int | None)
    parser.add_argument("--share", type=float)
    parser.add_argument("--names", type=list[str] | None)
    internals.prefer_whole_numbers(parser)
    limit = parser.parse_args([f"--limit={value}", "--share=1"]).limit
    assert repr(limit) == value.replace("null", "None"), "jsonargparse no longer tries types in the order of _typehint"
    assert repr(parser.parse_object({"limit": 1, "share": 1}).limit) == "1"


def test_the_help_of_a_type_is_made_readable_by_the_formatter():
    class Formatter(internals.ReadableTypes, DefaultHelpFormatter):
        pass

    parser = ArgumentParser(formatter_class=Formatter)
    parser.add_argument("--folder", type=Path, help="A folder.")
    parser.add_argument("--steps", type=Sequence[int], help="Some steps.")
    text = " ".join(parser.format_help().split())
    for line in ("A folder. (type: Path, default: null)", "Some steps. (type: list[int], default: null)"):
        assert line in text, "jsonargparse no longer asks _get_type_str of its formatter: see ReadableTypes"
