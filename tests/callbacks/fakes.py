"""A real tiny model with fake answers, so that every figure is known in advance."""

import lightning as L
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dmaxlit import DMaxModule
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.decoding import make_decoder
from dmaxlit.engine import Generation
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks import task
from tests.conftest import make_denoiser

# Lightning's warnings in every run.
LIGHTNING_WARNINGS = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*in eval mode at the start of training"
)
OPTIONS = {"operations": 3}
NUM_VAL, NUM_TEST = 11, 13


def record(prompt, decoder, options):
    """Return (tokens, forwards, finished, hit_step_limit, right) of a fake answer."""
    threshold = options.get("tau_dec", options.get("threshold", 0.5))
    draw = stable_seed(prompt, decoder)
    tokens = 20 + draw % 7
    forwards = 3 + int(10 * threshold) + draw % 3
    return tokens, forwards, draw % 5 != 0, draw % 2, (draw // 7) % 100 < 40 + 60 * threshold


def generation(prompt, decoder, options, response):
    tokens, forwards, finished, hit_step_limit, right = record(prompt, decoder, options)
    return Generation([0] * tokens, forwards, finished, hit_step_limit, prompt, response if right else "####")


class FakeModule(DMaxModule):
    """Answers as ``record`` determines; records every call of ``generate_batch``, but for a warm-up; and stop texts."""

    def __init__(self, **options):
        super().__init__(make_denoiser(max_position_embeddings=64), **options)
        chain = task("chain", **OPTIONS)
        self.responses = {e.prompt: e.response for split in ("val", "test") for e in chain.examples(split, 40)}
        self.calls, self.stops = [], set()

    def generate_batch(self, prompts, settings, first_index=0, progress=False, trace=None):
        decoder, options = settings.decoder, settings.decoder_options
        make_decoder(decoder, **options)
        self.stops.add(tuple(settings.stop))
        if settings.max_forwards is None:
            self.calls.append((list(prompts), decoder, options, settings.max_new_tokens, settings.batch_size))
            if callable(progress):
                progress(len(prompts))
        return [generation(prompt, decoder, options, self.responses[prompt]) for prompt in prompts]


def make_data(**options):
    defaults = {"num_train": 16, "num_val": NUM_VAL, "num_test": NUM_TEST, "batch_size": 8, "eval_batch_size": 4}
    return SelfDistilledDataModule(task="chain", task_options=OPTIONS, **{**defaults, **options})


def make_trainer(folder, callbacks, **options):
    defaults = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "log_every_n_steps": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(default_root_dir=folder, callbacks=callbacks, **{**defaults, **options})


def examples(split):
    return task("chain", **OPTIONS).examples(split, NUM_VAL if split == "val" else NUM_TEST)


def prompt_length(module, prompt):
    return len(module.encode_prompt(prompt))


def expected(module, split, decoder, options):
    """Compute the values to be logged, by plain sums over the records."""
    right = tokens = forwards = finished = hit_step_limit = blocks = count = 0
    for example in examples(split):
        figures = record(example.prompt, decoder, options)
        start = prompt_length(module, example.prompt)
        count += 1
        tokens += figures[0]
        forwards += figures[1]
        finished += figures[2]
        hit_step_limit += figures[3]
        right += figures[4]
        blocks += len({position // 8 for position in range(start, start + figures[0])})
    return {
        "accuracy": right / count,
        "tpf": tokens / forwards,
        "finished": finished / count,
        "hit_step_limit": hit_step_limit / blocks,
        "ceiling": tokens / blocks,
        "forwards": forwards / count,
    }


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def text_of(accumulator, tag):
    """Return the texts logged under a tag, by step."""
    return {
        event.step: event.tensor_proto.string_val[0].decode() for event in accumulator.Tensors(f"{tag}/text_summary")
    }
