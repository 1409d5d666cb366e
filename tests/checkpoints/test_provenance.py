from types import SimpleNamespace

from dmaxlit import DMaxModule
from tests.conftest import make_denoiser


def test_data_sets_of_the_hub_are_stored_without_their_configurations_and_once():
    module = DMaxModule(make_denoiser())
    corpora = ["openai/gsm8k:main", "openai/gsm8k:socratic", "rows.jsonl", "someone/corpus"]
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(corpora=corpora))
    module.on_fit_start()
    assert module.datasets == ["openai/gsm8k", "someone/corpus"]
