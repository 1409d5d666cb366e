import ast
import inspect
import math

import pytest

from dmaxlit import UserError
from dmaxlit.tasks import task
from dmaxlit.tasks.reasoning_gym import _EVALUATE_ANSWERS
from dmaxlit.tasks.scorer_code import evaluators_in, without_evaluation


def helper(text):
    return eval(text)


def recursive(text):
    return recursive(text[1:]) if text else ""


class Scorers:
    def direct(self, answer):
        return eval(answer)

    def nested(self, answer):
        return [(lambda text: exec(text))(part) for part in answer]

    def by_attribute(self, answer, sympy):
        return sympy.parse_expr(answer)

    def by_function(self, answer):
        return helper(answer)

    def by_method(self, answer):
        return self.static(answer)

    @staticmethod
    def static(answer):
        return compile(answer, "", "eval")

    def harmless(self, answer):
        return recursive(answer) == str(ast.literal_eval(answer)) and int(answer) > 0


@pytest.mark.parametrize(
    ("method", "found"),
    [
        ("direct", {"eval"}),
        ("nested", {"exec"}),
        ("by_attribute", {"parse_expr"}),
        ("by_function", {"eval"}),
        ("by_method", {"compile"}),
        ("harmless", set()),
    ],
)
def test_what_evaluates_text_is_found_through_functions_and_methods(method, found):
    assert evaluators_in(inspect.getattr_static(Scorers, method), Scorers) == found


@pytest.mark.parametrize("dataset", ["intermediate_integration", "simple_integration"])
def test_data_sets_that_would_run_an_answer_are_refused(dataset):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(UserError, match=r"dataset: expected one whose scorer does not run answers as code, got "):
        task("reasoning_gym", dataset=dataset)


class Readers:
    def by_eval(self, answer, scale=2):
        return scale * eval(answer) + self.helper(1)

    def by_parse_expr(self, answer):
        return float(math.fabs(parse_expr(answer)))  # noqa: F821 (replaced)

    def helper(self, number):
        return number


def test_a_copy_of_a_method_reads_what_the_method_evaluates():
    by_eval = without_evaluation(Readers.by_eval)
    assert by_eval(Readers(), "3") == 7
    assert by_eval(Readers(), "3", scale=1) == 4
    with pytest.raises(ValueError, match="expected a literal"):
        by_eval(Readers(), "len('abc')")
    assert Readers().by_eval("len('abc')") == 7  # the method itself stays as it is
    assert without_evaluation(Readers.by_parse_expr)(Readers(), "1 - 2**3") == 7.0


@pytest.mark.parametrize("dataset", list(_EVALUATE_ANSWERS))
def test_answers_that_the_library_evaluates_are_read(dataset, tmp_path):
    pytest.importorskip("reasoning_gym")
    example = task("reasoning_gym", dataset=dataset, size=5000).examples("train", 1)[0]
    assert example.check(example.answer)
    assert not example.check("7")
    trace = tmp_path / "it_ran"
    attack = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    for answer in (attack, f"[{attack}]", f"1 + {attack}", "9**9**9**9", "(" * 5_000):
        assert not example.check(answer)
    assert not trace.exists()


def test_forms_that_the_library_accepts_in_part_keep_their_score():
    pytest.importorskip("reasoning_gym")
    example = task("reasoning_gym", dataset="spiral_matrix", min_score=0.1, size=5000).examples("train", 1)[0]
    assert example.check(f"[{', '.join(example.answer.split())}]")
    assert not example.check(f"list(map(int, {example.answer.split()}))")


@pytest.mark.slow  # some data sets draw their first item for seconds
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_no_admitted_data_set_runs_an_answer(tmp_path):
    """Answers that leave a trace when run; fails if a scorer of a later release runs them."""
    library = pytest.importorskip("reasoning_gym")
    trace = tmp_path / "it_ran"
    attack = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    admitted = 0
    for name in sorted(library.factory.DATASETS):
        try:
            (example,) = task("reasoning_gym", dataset=name, size=50).examples("train", 1)
        except UserError:
            continue
        for answer in (attack, f"[{attack}]", f"<answer>{attack}</answer>"):
            example.check(answer)
        admitted += 1
        assert not trace.exists(), name
    assert admitted > 60
