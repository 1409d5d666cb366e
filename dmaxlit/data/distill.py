"""Self-distillation: a model writes its own training corpus."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.data.resumable_jsonl import (
    PartialCorpus,
    Response,
    difference,
    generate_rows,
    model_identity,
    prompts_hash,
)
from dmaxlit.errors import DMaxWarning, UserError, check_at_least, check_choice
from dmaxlit.files import read_json, writable_path, write_json
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks import TASKS, Example, Task
from dmaxlit.version import __version__

__all__ = ["DistillSettings"]

_FREE_SETTINGS = ("batch_size", "check_decoder")  # which a resumed run may change

Keep = Literal["finished", "correct", "all"]


@dataclass
class DistillSettings:
    """How a corpus is distilled.

    Args:
        num_prompts: Training prompts to answer.
        decoder: Registered name of the decoder.
        decoder_options: Its options; DMax distils with threshold 0.95.
        max_new_tokens: Most tokens of a response, EOS included; None for the task's own.
        batch_size: Prompts decoded together. It changes the speed only, so a run may be resumed with another.
        keep: ``finished``: every response that ended in EOS, right or wrong, as DMax does. ``correct``: of these, the
            ones the task's checker accepts. ``all``: also responses cut off by the budget.
        seed: Seed of a decoder that draws random numbers.
        check_decoder: Check what a decoder of your own returns in the first forwards.
    """

    num_prompts: int = 2048
    decoder: str = "threshold"
    decoder_options: dict[str, Any] = field(default_factory=lambda: {"threshold": 0.95})
    max_new_tokens: int | None = None
    batch_size: int = 64
    keep: Keep = "finished"
    seed: int = 0
    check_decoder: bool = True

    def check(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: If a setting is out of range.
        """
        check_at_least(1, num_prompts=self.num_prompts, batch_size=self.batch_size, max_new_tokens=self.max_new_tokens)
        check_choice("keep", self.keep, ("finished", "correct", "all"))


@dataclass(frozen=True)
class Manifest:
    """The origin of a corpus; written next to it as ``<corpus>.manifest.json``.

    Args:
        settings: Everything the corpus depends on: hash of the model's weights, block length, decoder and options,
            task and options or hash of the prompts, number of prompts, budget, filter, seed.
        prompts: Prompts answered.
        finished: Responses that ended in EOS.
        correct: Finished responses that the checker accepts; None without a checker.
        kept: Rows of the corpus.
        tpf: Tokens per forward: tokens generated, EOS included, over the forwards they took part in.
        seconds: Time spent generating.
        version: Version of dmaxlit.
    """

    settings: dict[str, Any]
    prompts: int
    finished: int
    correct: int | None
    kept: int
    tpf: float
    seconds: float
    version: str = __version__


def distill(
    module: Any,
    source: Task | Sequence[str],
    output: Path | str,
    settings: DistillSettings | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Manifest:
    """Let a model answer prompts and keep its responses as a corpus (self-distillation, DMax section 3.1).

    The corpus is written chunk by chunk and appears under its name once it is complete. Called again after an
    interruption with the same settings, it resumes without losing or duplicating a row; once the corpus is complete,
    another call changes nothing.

    Args:
        module: The model, a :class:`~dmaxlit.module.DMaxModule`, in any mode.
        source: A task, whose training prompts are answered, or prompts.
        output: The corpus, a ``.jsonl`` file with ``prompt`` and ``response``.
        settings: How to distil; default :class:`DistillSettings`.
        progress: Show a progress bar.
        overwrite: Replace a corpus, complete or not, that was made with other settings.

    Returns:
        The settings and counts of the corpus.

    Raises:
        UserError: If a setting is out of range, no response is kept, or the corpus was made or begun with other
            settings.
    """
    settings, output = settings or DistillSettings(), Path(output)
    settings.check()
    prompts, examples = _prompts(source, settings)
    settings = replace(settings, max_new_tokens=settings.max_new_tokens or _budget(source))
    identity = _identity(module, source, prompts, settings)
    output = writable_path(output)
    if overwrite:
        output.unlink(missing_ok=True)
    if output.exists():
        return _existing(output, identity)
    file = PartialCorpus(output, identity, overwrite=overwrite)
    counts = generate_rows(
        file,
        prompts,
        settings.batch_size,
        _generator(module, settings),
        _row_filter(prompts, examples, settings.keep),
        progress,
        title="distil",
    )
    if not counts.kept:
        file.discard()
        raise UserError(
            f"distill: expected an answer to keep, got {counts.finished} finished of {counts.prompts}, none kept"
        )
    manifest = Manifest(
        settings=identity,
        prompts=counts.prompts,
        finished=counts.finished,
        correct=None if examples is None else counts.correct,
        kept=counts.kept,
        tpf=counts.tokens / max(counts.forwards, 1),
        seconds=counts.seconds,
    )
    write_json(manifest_path(output), asdict(manifest))
    file.finish()
    return manifest


def manifest_path(corpus: Path) -> Path:
    """Return the path of a corpus's manifest."""
    return corpus.with_name(corpus.name + ".manifest.json")


def _prompts(source: Task | Sequence[str], settings: DistillSettings) -> tuple[list[str], list[Example] | None]:
    if isinstance(source, Task):
        examples = source.examples("train", settings.num_prompts)
        return [example.prompt for example in examples], examples
    if settings.keep == "correct":
        raise UserError("keep: expected a task for 'correct', prompts alone have no checker")
    prompts = list(source)[: settings.num_prompts]
    if not prompts:
        raise UserError("prompts: expected at least one, got none")
    return prompts, None


def _budget(source: Task | Sequence[str]) -> int:
    if not isinstance(source, Task):
        raise UserError("max_new_tokens: expected a number, since prompts alone have no budget of their own")
    return source.max_new_tokens


def _identity(
    module: Any, source: Task | Sequence[str], prompts: Sequence[str], settings: DistillSettings
) -> dict[str, Any]:
    is_task = isinstance(source, Task)
    options = {key: value for key, value in asdict(settings).items() if key not in _FREE_SETTINGS}
    return {
        **model_identity(module),
        "task": TASKS.name_of(type(source)) or type(source).__qualname__ if is_task else None,
        "task_options": source.options() if isinstance(source, Task) else None,
        **options,
        "num_prompts": len(prompts),
        "prompts": prompts_hash(prompts),
    }


def _existing(output: Path, identity: dict[str, Any]) -> Manifest:
    """Return the manifest of a complete corpus, or refuse a corpus that was made with other settings."""
    if not manifest_path(output).exists():
        raise UserError(f"{output}: exists and has no manifest; choose another name, or overwrite (--overwrite true)")
    manifest = read_json(manifest_path(output))
    if (change := difference(manifest.get("settings", {}), json.loads(json.dumps(identity)))) is not None:
        raise UserError(
            f"{output}: was made with other settings: {change}; choose another name, or overwrite (--overwrite true)"
        )
    PartialCorpus.record_path(output).unlink(missing_ok=True)
    return Manifest(**manifest)


def _generator(
    module: Any, settings: DistillSettings
) -> Callable[[Sequence[str], int, Callable[[int], object]], Sequence[Response]]:
    """Return a function that decodes a chunk of prompts, with the random numbers that belong to the chunk."""
    device = next(module.backbone.model.parameters()).device

    def generate(chunk: Sequence[str], begin: int, advance: Callable[[int], object]) -> Sequence[Response]:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(stable_seed("distill", settings.seed, begin))
            responses: Sequence[Response] = module.generate(
                chunk,
                decoder=settings.decoder,
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.batch_size,
                check_decoder=settings.check_decoder,
                progress=advance,
                **settings.decoder_options,
            )
        return responses

    return generate


def _row_filter(
    prompts: Sequence[str], examples: Sequence[Example] | None, keep: Keep
) -> Callable[[int, Response], tuple[dict[str, Any] | None, bool]]:
    """Return a function that makes the row of a response, None if it is not kept, and judges the response."""

    def make_row(index: int, response: Response) -> tuple[dict[str, Any] | None, bool]:
        correct = response.finished and examples is not None and examples[index].check(response.text)
        is_kept = {"finished": response.finished, "correct": correct, "all": True}[keep]
        if not is_kept or not response.text.strip():
            return None, correct
        return {"prompt": prompts[index], "response": response.text}, correct

    return make_row


def distill_for_training(trainer: Any, task: Task, corpus: Path, settings: DistillSettings) -> None:
    """Distil a corpus from the module a trainer is about to train, unless the corpus exists.

    An existing corpus is used unchanged; if its manifest records other settings, a warning names the first.

    Args:
        trainer: The Lightning trainer; the model is decoded on its device.
        task: The task whose training prompts are answered.
        corpus: Path of the corpus.
        settings: How to distil it.
    """
    if corpus.exists():
        _warn_of_other_settings(task, corpus, settings)
        return
    module = trainer.lightning_module
    original_device = module.device
    module.to(trainer.strategy.root_device)
    try:
        distill(module, task, corpus, settings)
    finally:
        module.to(original_device)


def _warn_of_other_settings(task: Task, corpus: Path, settings: DistillSettings) -> None:
    if not manifest_path(corpus).exists():
        return
    recorded = read_json(manifest_path(corpus)).get("settings", {})
    expected = {key: value for key, value in asdict(settings).items() if key in recorded}
    expected["max_new_tokens"] = settings.max_new_tokens or task.max_new_tokens
    expected |= {"task": TASKS.name_of(type(task)), "task_options": task.options()}
    used = {key: recorded.get(key) for key in expected}
    if (change := difference(used, json.loads(json.dumps(expected)))) is not None:
        rank_zero_warn(f"{corpus}: used as it is, though made with other settings: {change}", category=DMaxWarning)
