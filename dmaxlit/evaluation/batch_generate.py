"""A file of answers: written as they come, and gone on with after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from dmaxlit.data.resumable_jsonl import PartialCorpus, Progress
from dmaxlit.decoding import make_decoder
from dmaxlit.engine import BlockDecoder, Generation, Sampler, Trace
from dmaxlit.errors import UserError
from dmaxlit.files import weights_hash, writable_path
from dmaxlit.tasks import Example

if TYPE_CHECKING:
    from dmaxlit.module import DMaxModule

__all__ = ["DecodeSettings", "answer", "generate_to_file"]

_CHUNK = 4  # batches between two records of progress


@dataclass
class DecodeSettings:
    """How prompts are decoded; see :meth:`dmaxlit.DMaxModule.generate`.

    Args:
        decoder: Registered name of the decoder.
        decoder_options: Its options.
        max_new_tokens: Budget of tokens for an answer, EOS included.
        batch_size: Prompts decoded together. It changes the speed only, so a run may go on with another.
        temperature: At least 0.
        top_p: In (0, 1].
        seed: Seed of the draws.
        stop: Texts that end an answer.
        compile: Compile the forwards. Like the batch size it changes the speed only.
    """

    decoder: str = "spd"
    decoder_options: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 256
    batch_size: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: list[str] = field(default_factory=list)
    compile: bool = False


def answer(
    module: DMaxModule,
    prompts: Sequence[str],
    settings: DecodeSettings,
    first: int = 0,
    bar: tqdm[Any] | None = None,
    trace: Trace | None = None,
) -> list[Generation]:
    """Decode prompts that are part of a longer list.

    Args:
        module: The model.
        prompts: The part.
        settings: How.
        first: Number of its first prompt in the list; samples depend on it.
        bar: Progress bar to advance.
        trace: Takes a record of every forward.
    """
    engine = _engine(module, settings, first)
    ids = [module.encode_prompt(prompt) for prompt in prompts]
    rows = engine.generate(ids, settings.max_new_tokens, bar.update if bar is not None else False, trace)
    return [
        Generation.from_row(row, prompt, module.tokenizer, engine.stop)
        for row, prompt in zip(rows, prompts, strict=True)
    ]


def _engine(module: DMaxModule, settings: DecodeSettings, first: int) -> BlockDecoder:
    decoder = make_decoder(settings.decoder, **settings.decoder_options)
    sampler = Sampler(settings.temperature, settings.top_p, settings.seed, first)
    return BlockDecoder(
        module.backbone,
        decoder,
        settings.batch_size,
        sampler=sampler,
        stop=settings.stop,
        compile=settings.compile,
    )


def generate_to_file(
    module: DMaxModule,
    prompts: Sequence[str] | Sequence[Example],
    output: str | Path,
    settings: DecodeSettings,
    progress: bool = True,
    overwrite: bool = False,
) -> Progress:
    """Decode prompts into a file of one JSON object a line, in their order.

    A row holds ``index``, ``prompt``, ``response``, ``token_ids``, ``num_tokens``, ``num_forwards``, ``finished``,
    ``hit_step_limit`` and, for examples of a task, ``correct``. The file appears under its name once it is whole.
    Interrupted and called again with the same model, prompts and settings, it goes on after the last group of four
    batches that was done.

    Args:
        module: The model.
        prompts: Texts, or a task's examples.
        output: File to write.
        settings: How to decode.
        progress: Show a progress bar.
        overwrite: Start over instead of going on, and replace a file that is there.

    Returns:
        What the file holds.

    Raises:
        UserError: If it cannot be written, is there already, or was begun with other prompts, settings or weights.
    """
    if not prompts:
        raise UserError("prompts: expected at least one, got none")
    examples = [prompt if isinstance(prompt, Example) else None for prompt in prompts]
    texts = [prompt.prompt if isinstance(prompt, Example) else prompt for prompt in prompts]
    identity = {key: value for key, value in asdict(settings).items() if key not in ("batch_size", "compile")}
    identity |= {
        "model": weights_hash(module),
        "block_length": module.backbone.block_length,
        "prompts": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
    }
    _engine(module, settings, 0)  # refuses bad settings before anything is written
    place = writable_path(Path(output))
    if place.exists() and not overwrite and not PartialCorpus.record_path(place).exists():
        raise UserError(f"output: {str(output)!r} exists; give another name, or overwrite (--overwrite true)")
    try:
        partial = PartialCorpus(place, identity, overwrite=overwrite)
        with tqdm(total=len(texts), unit="prompt", disable=not progress, initial=partial.progress.prompts) as bar:
            while (begin := partial.progress.prompts) < len(texts):
                end = min(begin + _CHUNK * settings.batch_size, len(texts))
                answers = answer(module, texts[begin:end], settings, begin, bar)
                _append(partial, answers, examples[begin:end], begin)
        done = partial.progress
        partial.finish()
    except OSError as error:
        raise UserError(f"output: cannot write {str(output)!r} ({error.strerror or error})") from error
    return done


def _append(
    partial: PartialCorpus, answers: Sequence[Generation], examples: Sequence[Example | None], first: int
) -> None:
    rows, done = [], Progress(**asdict(partial.progress))
    for number, (answer_, example) in enumerate(zip(answers, examples, strict=True), start=first):
        row = {"index": number, **answer_.to_dict(), "token_ids": answer_.token_ids}
        if example is not None:
            row["correct"] = bool(example.check(answer_.text))
            done.correct += row["correct"]
        rows.append(row)
        done.finished += answer_.finished
        done.tokens += answer_.num_tokens
        done.forwards += answer_.num_forwards
    done.prompts += len(rows)
    done.kept += len(rows)
    partial.append(rows, done)
