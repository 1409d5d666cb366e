import pytest
from jsonargparse import ArgumentError, ArgumentParser

from dmaxlit.cli.messages import closest, one_line
from dmaxlit.errors import UserError
from dmaxlit.noise import NoiseStrategy


def refusal(args, known=(), **arguments):
    parser = ArgumentParser(exit_on_error=False)
    for name, type_ in arguments.items():
        parser.add_argument(f"--{name}", type=type_)
    with pytest.raises(ArgumentError) as caught:
        parser.parse_args(args)
    return one_line(caught.value, known)


def test_a_wrong_type_names_setting_expectation_and_value():
    assert refusal(["--steps", "x"], steps=int) == "steps: expected int, got 'x'"


def test_a_wrong_type_of_a_union_names_all_its_members():
    assert refusal(["--size", "x"], size=int | tuple[int, int]) == "size: expected int or tuple[int, int], got 'x'"


def test_a_wrong_value_inside_a_class_names_the_whole_path():
    args = ["--noise", "dmaxlit.noise.OnPolicyNoise", "--noise.rollout", "x"]
    assert refusal(args, noise=NoiseStrategy | str) == "noise.rollout: expected 'sample' or 'argmax', got 'x'"


def test_an_unknown_option_of_a_class_is_answered_with_the_closest_and_all_known():
    args = ["--noise", "dmaxlit.noise.UniformNoise", "--noise.levl", "1"]
    assert refusal(args, noise=NoiseStrategy) == (
        "noise: unknown option 'levl' of UniformNoise (did you mean level?); known: level, per, stratified, schedule"
    )


def test_known_options_include_those_passed_on_to_the_base_class():
    args = ["--noise", "dmaxlit.noise.ConfidenceNoise", "--noise.stratify", "true"]
    assert refusal(args, noise=NoiseStrategy) == (
        "noise: unknown option 'stratify' of ConfidenceNoise (did you mean stratified?); "
        "known: level, entropy_weight, per, stratified, schedule"
    )


def test_an_unknown_class_is_called_that():
    assert refusal(["--noise", "Nope"], noise=NoiseStrategy) == (
        "noise: expected the name or import path of a class, got 'Nope'"
    )


def test_an_unknown_flag_is_answered_with_the_closest_known_setting():
    assert refusal(["--stps=3"], ["steps"], steps=int) == "unknown setting 'stps' (did you mean steps?)"


def test_a_user_error_among_the_causes_is_the_message():
    error = ValueError("a\nlong\nstory")
    error.__cause__ = UserError("level: expected a number,\n  got 2")
    assert one_line(error) == "level: expected a number, got 2"


def test_a_user_error_that_merely_came_before_is_not():
    error = KeyError("second")
    error.__context__ = UserError("first")
    assert one_line(error) == "'second'"


def test_nothing_is_suggested_for_a_name_like_no_other():
    assert closest("xyzzy", ["fit", "test"]) == ""
