import random
import re

from dmaxlit.tasks.programs.plan import draw_plan
from dmaxlit.tasks.programs.wording import draw_name, request


def test_a_request_names_the_function_and_every_step_in_order():
    rng = random.Random(0)
    for _ in range(300):
        plan, name = draw_plan(rng, 2, 4), draw_name(rng)
        text = request(rng, plan, name)
        assert name in text
        places = []
        for step in (*plan.steps, plan.end):
            forms = [form.replace("{k}", str(step.k)) for form in step.operation.requests]
            found = [text.lower().find(form.lower()) for form in forms]
            assert max(found) >= 0, (step.key, text)
            places.append(max(found))
        assert "{" not in text
        assert len(re.findall(r"\s{2,}", text)) == 0


def test_a_program_is_asked_for_in_many_ways():
    rng = random.Random(1)
    plan = draw_plan(rng, 2, 2)
    assert len({request(rng, plan, "f") for _ in range(200)}) > 80
