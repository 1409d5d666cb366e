"""What the tests of the comparison report share: decoders, and a model that answers otherwise once it is trained."""

from dataclasses import replace

import pytest

from dmaxlit.callbacks import DecoderSpec
from tests.callbacks.fakes import LIGHTNING_WARNINGS, FakeModule

MARKS = [
    LIGHTNING_WARNINGS,
    pytest.mark.filterwarnings(
        "ignore:Checkpoint directory", "ignore:You defined a `validation_step`", "ignore:The dirpath has changed"
    ),
]

SPECS = [DecoderSpec("spd", {"tau_dec": 0.0}, "spd 0"), DecoderSpec("threshold", {"threshold": 1.0})]


class Learner(FakeModule):
    """Answers with threshold 1 once it has been trained: so that base and trained differ."""

    def generate_batch(self, prompts, settings, **others):
        if self.trainer.global_step > 0:
            trained = {"tau_dec": 1.0} if settings.decoder == "spd" else {"threshold": 1.0}
            settings = replace(settings, decoder_options=settings.decoder_options | trained)
        return super().generate_batch(prompts, settings, **others)
