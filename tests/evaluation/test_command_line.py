"""The command by which figures were made, as a model's card shows it."""

import sys

import pytest

from dmaxlit.backbone.formats.judged import is_line
from dmaxlit.evaluation.command_line import running_command


@pytest.mark.parametrize("program", ["/usr/bin/dmaxlit", "/a/dmaxlit/__main__.py"])
def test_a_command_of_dmaxlit_is_shown_in_one_line(monkeypatch, program):
    monkeypatch.setattr(sys, "argv", [program, "fit", "--config", "a b.yaml"])
    command = running_command()
    assert command == "python -m dmaxlit fit --config 'a b.yaml'"
    assert is_line(command)


@pytest.mark.parametrize("argument", ["a\nb", "a|b", "`a`", "<a>", "a\tb", "\udcff", "x" * 2000])
def test_one_that_no_card_can_hold_is_left_out(monkeypatch, argument):
    monkeypatch.setattr(sys, "argv", ["dmaxlit", "fit", argument])
    assert running_command() is None


def test_a_program_of_the_user_s_own_is_no_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "fit"])
    assert running_command() is None
