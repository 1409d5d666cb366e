"""Distillation by the fake model, for the tests of what it writes, samples and resumes."""

import json

from dmaxlit.data.distill import distill
from dmaxlit.data.distill_settings import DistillSettings
from dmaxlit.tasks import ChainTask

SETTINGS = DistillSettings(num_prompts=40, batch_size=2)
TASK = ChainTask("easy")
PROMPTS = [example.prompt for example in TASK.examples("train", 40)]


def run(module, output, settings=SETTINGS, source=TASK, **options):
    return distill(module, source, output, settings, progress=False, **options)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def kind(prompt):
    return sum(map(ord, prompt)) % 5
