import ast
import random

import pytest

from dmaxlit.tasks.programs.code import write
from dmaxlit.tasks.programs.inputs import INPUTS
from dmaxlit.tasks.programs.operation import Step
from dmaxlit.tasks.programs.operations import ENDS, OPERATIONS
from dmaxlit.tasks.programs.plan import Plan, draw_plan


def result_of(code, name, argument):
    """Run code that this project wrote itself."""
    names = {}
    exec(compile(code, "program", "exec"), names)
    return names[name](argument)


@pytest.mark.parametrize("steps", [(1, 2), (2, 3), (4, 5)])
def test_every_form_of_code_does_what_the_plan_means(steps):
    rng = random.Random(0)
    for number in range(150):
        plan = draw_plan(rng, *steps)
        code = write(rng, plan, "f", ("free", "plain")[number % 2])
        for argument in plan.arguments():
            assert result_of(code, "f", argument) == plan.run(argument), code


@pytest.mark.parametrize("item", ["number", "word"])
def test_every_expression_of_an_operation_means_the_same(item):
    source = {"number": INPUTS[0], "word": INPUTS[4]}[item]
    rng = random.Random(1)
    for operation in (*OPERATIONS[item], *ENDS[item]):
        for k in operation.parameters:
            step = Step(operation, k)
            end = step if operation.kind == "end" else Step(next(e for e in ENDS[item] if e.name == "list"), None)
            plan = Plan(source, () if operation.kind == "end" else (step,), end)
            codes = {write(rng, plan, "f") for _ in range(12)}
            for argument in plan.arguments()[:3]:
                assert {repr(result_of(code, "f", argument)) for code in codes} == {repr(plan.run(argument))}


def test_there_are_many_forms_of_one_program():
    rng = random.Random(2)
    plan = draw_plan(rng, 2, 2)
    codes = [write(rng, plan, "f") for _ in range(200)]
    assert len(set(codes)) > 100
    shapes = {ast.dump(ast.parse(code)).count("For(") > 0 for code in codes}
    assert shapes == {True, False}


def test_plain_style_draws_loops_or_comprehensions_and_nothing_else():
    rng = random.Random(0)
    forms = [len({write(rng, draw_plan(random.Random(n), 2, 2), "f", "plain") for _ in range(30)}) for n in range(50)]
    assert max(forms) == 3  # a loop, a comprehension, or one within the last expression
    assert 1.5 < sum(forms) / 50 < 3


def test_no_name_is_given_to_two_lists():
    rng = random.Random(4)
    for _ in range(200):
        code = write(rng, draw_plan(rng, 4, 5), "f")
        function = ast.parse(code).body[0]
        names = [line.targets[0].id for line in function.body if isinstance(line, ast.Assign)]
        assert len(names) == len(set(names)), code


def test_arguments_are_those_of_the_program_alone():
    rng = random.Random(3)
    plan = draw_plan(rng, 2, 3)
    assert plan.arguments() == Plan(plan.input, plan.steps, plan.end).arguments()


def test_a_step_that_changes_nothing_is_not_drawn():
    numbers = INPUTS[0]
    steps = {step.name: step for step in OPERATIONS["number"]}
    end = Step(next(e for e in ENDS["number"] if e.name == "sum"), None)
    assert Plan(numbers, (Step(steps["even"], None),), end).is_sound()
    assert not Plan(numbers, (Step(steps["even"], None), Step(steps["sorted"], None)), end).is_sound()
    assert not Plan(numbers, (Step(steps["above"], 15), Step(steps["below"], 3)), end).is_sound()
