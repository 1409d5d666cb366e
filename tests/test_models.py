"""The models that are shipped with the package."""

import pytest
import torch

import dmaxlit
from dmaxlit.backbone.formats.hub import BUILTIN_MODELS
from dmaxlit.tasks import task
from tests.sandbox.requirement import needs_sandbox

TASKS = {
    "chain-base": task("chain"),
    "programs-base": task("programs", difficulty="easy", style="plain"),
    "stories-base": task("stories", difficulty="easy", question="either"),
}


def test_they_are_small():
    sizes = {path.name: sum(file.stat().st_size for file in path.iterdir()) for path in BUILTIN_MODELS.iterdir()}
    assert set(sizes) == set(TASKS)
    assert sum(sizes.values()) < 12e6


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_sandbox if TASKS[name].runs_answers else ()) for name in sorted(TASKS)]
)
def test_a_base_answers_when_it_takes_its_time_and_breaks_when_it_hurries(name):
    model, examples = dmaxlit.load(f"builtin:{name}"), TASKS[name].examples("test", 16)
    assert {parameter.dtype for parameter in model.backbone.parameters()} == {torch.float32}
    prompts = [example.prompt for example in examples]

    def right(threshold):
        options = {"threshold": threshold, "max_new_tokens": TASKS[name].max_new_tokens}
        answers = model.generate(prompts, decoder="threshold", **options)
        return sum(example.check(answer.text) for example, answer in zip(examples, answers, strict=True))

    slowly = right(0.95)
    assert slowly >= 13
    assert right(0.0) <= slowly - 6
