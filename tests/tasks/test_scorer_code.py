import ast
import inspect

import pytest

from dmaxlit import UserError
from dmaxlit.tasks import task
from dmaxlit.tasks.scorer_code import evaluators_in


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


@pytest.mark.parametrize("dataset", ["countdown", "n_queens", "simple_integration", "string_insertion"])
def test_data_sets_that_would_run_an_answer_are_refused(dataset):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(UserError, match=r"dataset: expected one whose scorer does not run answers as code, got "):
        task("reasoning_gym", dataset=dataset)


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
