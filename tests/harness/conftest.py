"""A tiny random model, stored, and a task of lm-eval that needs no network."""

import json

import pytest

from dmaxlit import DMaxModule
from tests.conftest import make_denoiser

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def store(folder, chat_template=None, **config):
    """Write a tiny model whose responses differ from prompt to prompt; return its folder."""
    denoiser = make_denoiser(tie_word_embeddings=False, initializer_range=1.0, **config)
    denoiser.tokenizer.chat_template = chat_template
    denoiser.save(folder, DMaxModule(denoiser).metadata())
    return str(folder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return store(tmp_path_factory.mktemp("harness") / "model")


@pytest.fixture(scope="session")
def chat_model_folder(tmp_path_factory):
    return store(tmp_path_factory.mktemp("harness") / "chat", TEMPLATE, max_position_embeddings=512)


@pytest.fixture
def write_task(tmp_path):
    """Return a function that writes a task and returns what ``simple_evaluate`` takes to run it."""

    def write(rows, **settings):
        from lm_eval.tasks import TaskManager

        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = {
            "task": "local",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "cache")},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            **settings,
        }
        (tmp_path / "local.yaml").write_text(json.dumps(task))
        return {
            "tasks": ["local"],
            "task_manager": TaskManager(include_path=str(tmp_path), include_defaults=False),
            "bootstrap_iters": 0,
        }

    return write
