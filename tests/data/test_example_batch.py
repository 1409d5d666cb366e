import lightning as L
import pytest
import torch

from dmaxlit import DMaxModule
from dmaxlit.callbacks import DecoderSpec, SPDValidation
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.data.example_batch import ExampleBatch
from dmaxlit.tasks import task
from tests.callbacks.fakes import LIGHTNING_WARNINGS
from tests.conftest import make_denoiser
from tests.test_module import QUIET

pytestmark = LIGHTNING_WARNINGS


def test_it_holds_its_examples_in_order():
    examples = task("chain").examples("val", 3)
    batch = ExampleBatch(examples)
    assert list(batch) == examples
    assert len(batch) == 3
    assert batch[1] == examples[1]


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_prompts_are_decoded_at_every_precision(precision):
    module = DMaxModule(make_denoiser(), "masked", optimizer=lambda p: torch.optim.SGD([q for _, q in p], lr=1e-3))
    data = SelfDistilledDataModule(task="chain", num_train=4, num_val=3, batch_size=4, eval_batch_size=2)
    callback = SPDValidation([DecoderSpec("spd", {})], max_new_tokens=8, curve=None)
    trainer = L.Trainer(**QUIET, max_epochs=1, precision=precision, callbacks=[callback])
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 1
    assert callback.results["spd"].num_examples == 3
    callback.results.clear()
    trainer.validate(module, datamodule=data, verbose=False)
    assert callback.results["spd"].num_examples == 3
