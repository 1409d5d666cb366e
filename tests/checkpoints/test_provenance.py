from types import SimpleNamespace

from dmaxlit import DMaxModule
from tests.conftest import make_denoiser


def test_data_sets_of_the_hub_are_stored_without_their_configurations_and_once():
    module = DMaxModule(make_denoiser())
    corpora = ["openai/gsm8k:main", "openai/gsm8k:socratic", "rows.jsonl", "someone/corpus"]
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(corpora=corpora), world_size=1)
    module.on_fit_start()
    assert module.datasets == ["openai/gsm8k", "someone/corpus"]


def test_what_an_earlier_fit_was_judged_by_holds_no_longer_and_what_the_user_set_does():
    module = DMaxModule(make_denoiser())
    module._trainer = SimpleNamespace(datamodule=None, world_size=1)
    module.set_decoding("spd", tau_dec=0.5)
    module.judged_decoding = module.decoding  # as at the end of a fit with ComparisonReport
    module.figures = {"task": "chain", "command": "", "rows": []}
    module.on_fit_start()
    assert (module.figures, module.decoding) == (None, None)
    module.set_decoding("spd", tau_dec=0.5)
    for _ in range(2):
        module.on_fit_start()
        assert module.decoding == {"decoder": "spd", "options": {"tau_dec": 0.5}}
