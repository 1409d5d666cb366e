"""``dmaxlit check``: a line for each property, and an exit status."""

import sys

import pytest

from dmaxlit.testing import admission_properties, decoder_properties, noise_properties, task_properties
from tests.cli.conftest import start

ANY = "noise strategy, decoder, admission policy or task"
OWN = '''
import torch

from dmaxlit.decoding import CommittingDecoder, Decoder
from dmaxlit.decoding.admission import AdmissionPolicy
from dmaxlit.noise import MaskedNoise, NoiseStrategy, View
from dmaxlit.tasks import Example, Task

MY_NUMBER = 1


class Right(MaskedNoise):
    """Masks."""


class Careless(NoiseStrategy):
    """Masks prompts and pads too."""

    def views(self, clean, generator):
        masked = generator.rand(clean.ids.shape[1]) < self.level.at(clean.step).quantile(generator.rand(1))
        yield View(clean.with_masks(masked), masked, "masked", is_masked=masked)


class Crashes(NoiseStrategy):
    def views(self, clean, generator):
        yield View(clean.nothing, clean.response, "own")


class Impatient(AdmissionPolicy):
    """Opens all blocks as soon as one row has begun."""

    def admit(self, before, after):
        return torch.full_like(after.converged, bool((after.editable & ~after.masked).any()))


class Sums(Task):
    """Sums of two numbers, the same in all splits."""

    max_new_tokens = 8

    def __init__(self, most: int = 20):
        self.most = most

    def examples(self, split, n):
        sums = [(a, b) for a in range(self.most) for b in range(self.most)][:n]
        return [Example(f"{a} + {b} =", str(a + b), lambda text, c=a + b: text == str(c)) for a, b in sums]


class Picky(CommittingDecoder):
    """Commits what is likelier than a bound."""

    def __init__(self, bound: float, kinds=None, max_steps: int | None = None):
        super().__init__(max_steps)
        if bound > 1:
            raise IndexError("too\\nmuch")
        self.bound = bound

    def select(self, state, proposal, features):
        return proposal.confidence > self.bound


class Greedy(Decoder):
    """Takes the most probable tokens at once, whatever the temperature."""

    def step(self, state, logits, special):
        ids = torch.where(state.masked, logits.argmax(-1), state.ids)
        return state.advance(ids, state.masked & False, state.converged | True)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_classes.py").write_text(OWN)
    (tmp_path / "broken_file.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_classes", raising=False)


def report(name, properties):
    names = [str(check) for check in properties]
    return "\n".join(
        [name, *(f"  ok     {line}" for line in names), f"{name}: {len(names)} of {len(names)} properties hold"]
    )


def test_a_right_strategy_gets_a_line_for_each_property(dmax, own):
    ended = dmax("check own_classes.Right")
    assert ended.status == 0
    assert ended.out.strip() == report("own_classes.Right", noise_properties("masked"))
    assert ended.err == ""


def test_what_is_wrong_is_said_and_the_status_is_1(dmax, own):
    ended = dmax("check own_classes.Careless")
    assert ended.status == 1
    lines = ended.out.splitlines()
    message = "expected view 'masked' to leave prompts and pads as they are, but it changed some"
    assert f"  wrong  prompts and pads stay as they are: {message}" in lines
    assert "  ok     view names differ" in lines
    held = sum(line.startswith("  ok ") for line in lines)
    assert lines[-1] == f"own_classes.Careless: {held} of {len(lines) - 2} properties hold"
    assert held < len(lines) - 2


def test_an_exception_is_one_line_once_and_names_the_line_of_the_file(dmax, own):
    ended = dmax("check own_classes.Crashes")
    assert ended.status == 1
    line = next(number for number, text in enumerate(OWN.splitlines(), 1) if "clean.nothing" in text)
    message = f"it raised AttributeError: 'CleanBatch' object has no attribute 'nothing' (own_classes.py, line {line})"
    assert ended.out.count(message) == 1
    assert "  wrong  view names differ: as in 'views have the right types and shapes'" in ended.out
    assert "Traceback" not in ended.out + ended.err


def test_a_decoder_with_options(dmax, own):
    ended = dmax("check own_classes.Picky --bound 0.5 --max_steps=9")
    assert ended.status == 0
    assert ended.out.strip() == report("own_classes.Picky", decoder_properties("threshold"))
    ended = dmax("check own_classes.Greedy")
    assert ended.status == 1
    (wrong,) = [line for line in ended.out.splitlines() if line.startswith("  wrong")]
    assert wrong.startswith("  wrong  tokens are drawn at a temperature: expected tokens drawn at temperature 4")


def test_policies_and_tasks_are_tested_too(dmax, own):
    ended = dmax("check own_classes.Impatient")
    assert ended.status == 1
    wrong = [line.partition(":")[0] for line in ended.out.splitlines() if line.startswith("  wrong")]
    assert wrong == ["  wrong  rows do not depend on other rows", "  wrong  a policy does not wait for the device"]
    ended = dmax("check own_classes.Sums --most 9")
    assert ended.status == 1
    (wrong,) = [line for line in ended.out.splitlines() if line.startswith("  wrong")]
    assert wrong.startswith(
        "  wrong  splits share no prompt: expected train and val to share no prompt, but they share 10"
    )
    ended = dmax("check restarting --theta 0.5")
    assert ended.status == 0
    assert ended.out.strip() == report("restarting", admission_properties("restarting"))
    ended = dmax("check chain --difficulty easy")
    assert ended.status == 0
    assert ended.out.strip() == report("chain", task_properties("chain"))


def test_registered_names_several_names_and_class_names(dmax):
    ended = dmax("check spd OnPolicyNoise dmaxlit.decoding.ThresholdDecoder")
    assert ended.status == 0
    assert [line for line in ended.out.splitlines() if not line.startswith(" ")][::2] == [
        "spd",
        "OnPolicyNoise",
        "dmaxlit.decoding.ThresholdDecoder",
    ]


def test_one_of_several_that_is_wrong_gives_status_1(dmax, own):
    ended = dmax("check own_classes.Greedy own_classes.Right")
    assert ended.status == 1
    assert "own_classes.Right: 28 of 28 properties hold" in ended.out


def test_options_may_be_classes_and_ranges(dmax):
    flags = "--schedule CosineSchedule --level UniformLevel --level.low 0.25 --per block"
    assert dmax(f"check masked {flags}").status == 0
    assert dmax(["check", "masked", "on_policy", "--level", "[0.2, 0.9]"]).status == 0
    refusal = dmax("check masked --level UniformLevel --level.low 3").refusal
    assert refusal.startswith("masked: expected float, tuple[float, float] or LevelDistribution, got")


@pytest.mark.parametrize("line", ["uniform --kind decoder", "--kind=decoder uniform", "--kind decoder uniform"])
def test_a_name_that_both_have_needs_its_kind(dmax, line):
    assert dmax("check uniform").refusal == (
        "uniform: expected --kind noise or --kind decoder with it, since each has that name"
    )
    ended = dmax(f"check {line}")
    assert ended.status == 0
    assert ended.out.strip() == report("uniform", decoder_properties("uniform"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--kind noise", f"names: expected the name or import path of a {ANY} first, got none"),
        (
            "spdd",
            f"spdd: expected the name or import path of a {ANY}, got none (did you mean spd?)",
        ),
        ("spd --kind noise", "spd: expected the name or import path of a noise strategy, got none"),
        ("masked --kind", "kind: expected one of noise, decoder, admission, task, got nothing"),
        ("masked --kind tasks", "kind: expected 'noise', 'decoder', 'admission' or 'task', got 'tasks'"),
        ("masked --kind task", "masked: expected the name or import path of a task, got none"),
        (
            "own_classes.MY_NUMBER",
            f"own_classes.MY_NUMBER: expected the name or import path of a {ANY}, got none",
        ),
        ("own_classes.Nope", "own_classes.Nope: cannot be imported (AttributeError: module 'own_classes' has no"),
        ("no_file.Nope", "no_file.Nope: cannot be imported (ModuleNotFoundError: No module named 'no_file')"),
        (
            "broken_file.Nope",
            "broken_file.Nope: cannot be imported (SyntaxError: invalid syntax (broken_file.py, ",
        ),
        ("own_classes.Picky", "own_classes.Picky: the following arguments are required: bound"),
        ("own_classes.Picky --bound high", "own_classes.Picky: bound: expected float, got 'high'"),
        (
            "own_classes.Picky --bound 2",
            "own_classes.Picky: cannot be made (IndexError: too much (own_classes.py,",
        ),
        (
            "own_classes.Picky --boun 0.5",
            "own_classes.Picky: unknown option 'boun' (did you mean bound?); known: bound",
        ),
        ("spd masked --tau_dec 0.5", "masked: unknown option 'tau_dec'; known: level, "),
        ("spd --tau_dec 3", "tau_dec: expected a number in [0, 1], got 3"),
        ("masked --level 3", "level: expected a number in [0, 1], got 3"),
        ("dmaxlit.noise.NoiseStrategy", "noise: expected a class that implements views, got NoiseStrategy"),
        ("dmaxlit.decoding.Decoder", "decoder: expected a class that implements step, got Decoder"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_tested(dmax, own, line, expected):
    ended = dmax(f"check {line}")
    assert ended.refusal.startswith(expected)
    assert ended.out == ""


def test_help_explains_the_options_of_a_class(dmax, own):
    assert "--option OPTION" in dmax("check").out
    text = dmax("check spd --help").out
    assert "usage: dmaxlit check spd" in text
    assert "--tau_dec" in text


@pytest.mark.slow
def test_a_class_in_the_current_folder_is_found_and_nothing_is_on_stderr(tmp_path):
    (tmp_path / "own_classes.py").write_text(OWN)
    ended = start(
        [sys.executable, "-P", "-c", "from dmaxlit.cli import main; main()", "check", "own_classes.Right"], tmp_path
    )
    assert (ended.returncode, ended.stderr) == (0, "")
