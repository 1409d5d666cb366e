"""What is measured of one model and decoder beside a reference, and kept."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmaxlit.bench.own_time import one_thread, own_time
from dmaxlit.evaluation.evaluate import DecoderSpec, default_budget, warm_up
from dmaxlit.evaluation.limits import Limits
from dmaxlit.files import write_json
from dmaxlit.module import DMaxModule
from dmaxlit.tasks import Example

# Prompts decoded at the same time where accuracy and forwards are counted, which do not depend on it.
_BATCH_SIZE = 64
_BATCH_SIZE_OF_GPU = 256  # which a few rows do not fill
#: Batch sizes at which the speed is measured.
SPEED_BATCHES = (1, 16)


@dataclass(frozen=True)
class Contestant:
    """A model with a decoder.

    Args:
        module: The model.
        spec: The decoder.
    """

    module: DMaxModule
    spec: DecoderSpec


def kept_rows(
    path: Path,
    specs: Sequence[DecoderSpec],
    measure: Callable[[DecoderSpec], dict[str, Any]],
    advance: Callable[[int], object],
) -> dict[str, dict[str, Any]]:
    """Measure the rows of a model that are not in its file yet, and add each to it.

    Args:
        path: The file, for the rows of all tables; a row is found by what the decoder is, whatever its title.
        specs: The decoders.
        measure: Returns the figures of one.
        advance: Called with numbers of rows that are done.

    Returns:
        The figures by the title of the decoder.
    """
    rows = _read(path)
    missing = [spec for spec in specs if _key(spec) not in rows]
    advance(len(specs) - len(missing))
    for spec in missing:
        rows[_key(spec)] = measure(spec)
        write_json(path, rows)
        advance(1)
    return {spec.title: rows[_key(spec)] for spec in specs}


def stored_rows(path: Path, specs: Sequence[DecoderSpec]) -> dict[str, dict[str, Any]]:
    """Return the figures that the file of :func:`kept_rows` has of these decoders, by the title of the decoder."""
    rows = _read(path)
    return {spec.title: rows[_key(spec)] for spec in specs if _key(spec) in rows}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _key(spec: DecoderSpec) -> str:
    return json.dumps(spec.identity())


def measure_pair(
    contestant: Contestant, reference: Contestant, examples: Sequence[Example], num_timed: int, repeats: int
) -> dict[str, Any]:
    """Decode examples, and some of them in turn with a reference.

    Args:
        contestant: What is measured.
        reference: What its speed is compared with.
        examples: Prompts to decode.
        num_timed: How many of them are timed, at each of the batch sizes that so many prompts fill.
        repeats: Turns of the two.

    Returns:
        What :func:`count` returns, and ``speed``: the ratio to the reference's at each of the batch sizes.
    """
    timed = examples[:num_timed]
    batches = [batch for batch in SPEED_BATCHES if batch <= len(timed)]
    speed = {str(batch): speed_ratio(contestant, reference, timed, batch, repeats) for batch in batches}
    return {**count(contestant, examples), "speed": speed}


def count(contestant: Contestant, examples: Sequence[Example]) -> dict[str, list[Any]]:
    """Decode examples.

    Returns:
        For each prompt: whether the answer is ``correct`` and ends with EOS (``finished``), and its ``tokens``,
        ``forwards``, ``extra_blocks`` and blocks that ``hit_step_limit``.
    """
    batch_size = _BATCH_SIZE if contestant.module.device.type == "cpu" else _BATCH_SIZE_OF_GPU
    settings = contestant.spec.settings(default_budget(contestant.module), batch_size)
    answers = contestant.module.generate_batch([example.prompt for example in examples], settings)
    return {
        "correct": [example.check(answer.text) for example, answer in zip(examples, answers, strict=True)],
        "finished": [answer.ends_with_eos for answer in answers],
        "tokens": [answer.num_tokens for answer in answers],
        "forwards": [answer.num_forwards for answer in answers],
        "extra_blocks": [answer.num_extra_blocks for answer in answers],
        "hit_step_limit": [answer.hit_step_limit for answer in answers],
    }


def speed_ratio(
    contestant: Contestant, reference: Contestant, examples: Sequence[Example], batch_size: int, repeats: int
) -> float:
    """Return the tokens per second over those of the reference, by :func:`own_time` on one thread.

    The two take turns, so that the machine's other work disturbs both, and the median of the turns' ratios counts.

    Args:
        contestant: What is timed.
        reference: What it is compared with.
        examples: Prompts of both.
        batch_size: Prompts decoded together.
        repeats: Number of turns.
    """
    ratios = []
    with one_thread():
        for one in (contestant, reference):
            warm_up(one.module, examples[:batch_size], one.spec, Limits(default_budget(one.module)))
        for _ in range(repeats):
            of_reference = _tokens_per_second(reference, examples, batch_size)
            ratios.append(_tokens_per_second(contestant, examples, batch_size) / of_reference)
    return statistics.median(ratios)


def _tokens_per_second(contestant: Contestant, examples: Sequence[Example], batch_size: int) -> float:
    settings = contestant.spec.settings(default_budget(contestant.module), batch_size)
    device = contestant.module.device
    tokens, begin = 0, own_time(device)
    for first in range(0, len(examples), batch_size):
        prompts = [example.prompt for example in examples[first : first + batch_size]]
        tokens += sum(answer.num_tokens for answer in contestant.module.generate_batch(prompts, settings))
    return tokens / (own_time(device) - begin)
