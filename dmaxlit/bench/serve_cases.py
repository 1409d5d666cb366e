"""Requests whose responses are known, and bodies that are no requests."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dmaxlit.engine import DecodeSettings, Generation
from dmaxlit.module import DMaxModule
from dmaxlit.tasks.prompts import TemplatedPrompt

_DECODERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("spd", {}),
    ("spd", {"tau_dec": 0.0}),
    ("threshold", {"threshold": 0.95}),
    ("threshold", {"threshold": 0.5}),
    ("edit", {}),
    ("wino", {}),
)
_STOPS = ((), (), ("####",), ("take", "so 7"))
#: Bodies that the server has to refuse with a status from 400 to 499.
MALFORMED = (
    b"",
    b"{",
    b"[1, 2]",
    b'{"prompt": 5}',
    b'{"prompt": []}',
    b'{"prompt": "7 ?", "max_tokens": -1}',
    b'{"prompt": "7 ?", "temperature": "hot"}',
    b'{"prompt": "7 ?", "decoder": "os.system"}',
    b'{"prompt": "7 ?", "decoder_options": {"tau_dec": 7}}',
    b'{"prompt": [123456789]}',
    b'{"prompt": "7 ?", "model": "another"}',
    b'{"prompt": "' + b"7 " * 50000 + b'"}',
)


@dataclass(frozen=True)
class Case:
    """A request and its response.

    Args:
        body: The body of the request.
        expected: What ``generate`` gives alone.
    """

    body: dict[str, Any]
    expected: Generation


def make_cases(module: DMaxModule, prompts: Sequence[str], seed: int) -> list[Case]:
    """Decode each prompt alone, with decoder, budget, temperature, seed and stop texts of its own.

    Args:
        module: The model.
        prompts: The prompts.
        seed: Seed of the settings.
    """
    rng = random.Random(seed)
    cases = []
    for prompt in prompts:
        decoder, options = rng.choice(_DECODERS)
        body: dict[str, Any] = {
            "prompt": prompt,
            "max_tokens": rng.choice((4, 16, 40, 96)),
            "decoder": decoder,
            "decoder_options": options,
            "stop": list(rng.choice(_STOPS)),
            "temperature": rng.choice((0.0, 0.0, 0.7, 1.3)),
            "seed": rng.randrange(1000),
        }
        settings = DecodeSettings(
            decoder,
            options,
            max_new_tokens=body["max_tokens"],
            batch_size=1,
            temperature=body["temperature"],
            seed=body["seed"],
            stop=body["stop"],
        )
        cases.append(Case(body, module.generate_batch([TemplatedPrompt(prompt)], settings)[0]))
    return cases
