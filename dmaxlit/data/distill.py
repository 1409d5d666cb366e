"""Self-distillation: the corpus a model writes for itself."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from tqdm.auto import tqdm

from dmaxlit.data.resumable_jsonl import PartialCorpus, difference
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.files import read_json, weights_hash, writable_path, write_json
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks import TASKS, Example, Task
from dmaxlit.version import __version__

__all__ = ["DistillSettings", "Keep", "Manifest", "distill", "distill_for_training", "manifest_path"]

Keep = Literal["finished", "correct", "all"]

_CHUNK = 4  # batches between two records of progress; within a chunk finished rows make room for new ones


@dataclass
class DistillSettings:
    """How a corpus is distilled.

    Args:
        num_prompts: Training prompts to answer.
        decoder: Registered name of the decoder.
        decoder_options: Its options; DMax distils with threshold 0.95.
        max_new_tokens: Budget of tokens for an answer, EOS included; None for the task's own.
        batch_size: Prompts decoded together. It changes the speed only, so a run may go on with another.
        keep: ``finished``: every answer that ended in EOS, right or wrong, as DMax does. ``correct``: of these, the
            ones the task's checker accepts. ``all``: also answers cut off by the budget.
        seed: Seed of a decoder that draws random numbers.
    """

    num_prompts: int = 2048
    decoder: str = "threshold"
    decoder_options: dict[str, Any] = field(default_factory=lambda: {"threshold": 0.95})
    max_new_tokens: int | None = None
    batch_size: int = 64
    keep: Keep = "finished"
    seed: int = 0

    def check(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: If so.
        """
        for name in ("num_prompts", "batch_size", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}: expected at least 1, got {value}")
        if self.keep not in ("finished", "correct", "all"):
            raise UserError(f"keep: expected 'finished', 'correct' or 'all', got {self.keep!r}")


@dataclass(frozen=True)
class Manifest:
    """Where a corpus comes from; stands beside it as ``<corpus>.manifest.json``.

    Args:
        settings: Everything the corpus depends on: hash of the model's weights, block length, decoder and options,
            task and options or hash of the prompts, number of prompts, budget, filter, seed.
        prompts: Prompts answered.
        finished: Answers that ended in EOS.
        correct: Finished answers that the checker accepts; None without a checker.
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
    """Let a model answer prompts and keep its answers as a corpus (self-distillation, DMax section 3.1).

    The corpus is written chunk by chunk and appears under its name once it is whole. Interrupted and called again with
    the same settings, it goes on without losing or doubling a row; once it is whole, a further call changes nothing.

    Args:
        module: The model, a :class:`~dmaxlit.module.DMaxModule`; decoded in eval mode, which is restored afterwards.
        source: A task, whose training prompts are answered, or prompts.
        output: The corpus, a ``.jsonl`` file with ``prompt`` and ``response``.
        settings: How; default :class:`DistillSettings`.
        progress: Show a progress bar.
        overwrite: Replace a corpus, whole or begun, made with other settings.

    Returns:
        What the corpus was made with and what came of it.

    Raises:
        UserError: If a setting is out of range, no answer is kept, or the corpus was made or begun with other settings.
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
    partial = PartialCorpus(output, identity, overwrite=overwrite)
    with _evaluating(module), tqdm(total=len(prompts), desc="distil", unit="prompt", disable=not progress) as bar:
        bar.update(partial.progress.prompts)
        while (begin := partial.progress.prompts) < len(prompts):
            end = min(begin + _CHUNK * settings.batch_size, len(prompts))
            _answer(module, prompts[begin:end], examples and examples[begin:end], partial, settings)
            bar.update(end - begin)
    done = partial.progress
    if not done.kept:
        partial.discard()
        raise UserError(
            f"distill: expected an answer to keep, got {done.finished} finished of {done.prompts}, none kept"
        )
    correct = None if examples is None else done.correct
    tpf = done.tokens / max(done.forwards, 1)
    manifest = Manifest(identity, done.prompts, done.finished, correct, done.kept, tpf, done.seconds)
    write_json(manifest_path(output), asdict(manifest))
    partial.finish()
    return manifest


def manifest_path(corpus: Path) -> Path:
    """Where the manifest of a corpus stands."""
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
    identity = {key: value for key, value in asdict(settings).items() if key != "batch_size"}
    return {
        "model": weights_hash(module),
        "block_length": module.backbone.block_length,
        "task": TASKS.name_of(type(source)) or type(source).__qualname__ if is_task else None,
        "task_options": source.options() if isinstance(source, Task) else None,
        **identity,
        "num_prompts": len(prompts),
        "prompts": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest(),
    }


def _existing(output: Path, identity: dict[str, Any]) -> Manifest:
    if not manifest_path(output).exists():
        raise UserError(f"{output}: exists and has no manifest; choose another name, or overwrite (--overwrite true)")
    manifest = read_json(manifest_path(output))
    if (other := difference(manifest.get("settings", {}), json.loads(json.dumps(identity)))) is not None:
        raise UserError(
            f"{output}: was made with other settings: {other}; choose another name, or overwrite (--overwrite true)"
        )
    PartialCorpus.record_path(output).unlink(missing_ok=True)
    return Manifest(**manifest)


def _answer(
    module: Any,
    prompts: list[str],
    examples: list[Example] | None,
    partial: PartialCorpus,
    settings: DistillSettings,
) -> None:
    done = replace(partial.progress)
    started = time.perf_counter()
    device = next(module.backbone.model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(stable_seed("distill", settings.seed, done.prompts))
        answers = module.generate(
            prompts,
            decoder=settings.decoder,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            **settings.decoder_options,
        )
    done.seconds += time.perf_counter() - started
    rows = []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        correct = answer.finished and examples is not None and examples[number].check(answer.text)
        wanted = {"finished": answer.finished, "correct": correct, "all": True}[settings.keep]
        if wanted and answer.text.strip():
            rows.append({"prompt": prompt, "response": answer.text})
        done.finished += answer.finished
        done.correct += correct
        done.tokens += answer.num_tokens
        done.forwards += answer.num_forwards
    done.prompts += len(prompts)
    done.kept += len(rows)
    partial.append(rows, done)


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def distill_for_training(trainer: Any, task: Task, corpus: Path, settings: DistillSettings) -> None:
    """Distil a corpus from the module a trainer is about to train, unless the corpus is there already.

    A corpus that is there is used as it is; if its manifest tells of other settings, a warning names the first.

    Args:
        trainer: The Lightning trainer; the model is decoded on its device.
        task: Whose training prompts are answered.
        corpus: Where the corpus stands or will stand.
        settings: How to distil it.
    """
    if corpus.exists():
        if manifest_path(corpus).exists():
            made_with = read_json(manifest_path(corpus)).get("settings", {})
            asked = {key: value for key, value in asdict(settings).items() if key in made_with}
            asked["max_new_tokens"] = settings.max_new_tokens or task.max_new_tokens
            asked |= {"task": TASKS.name_of(type(task)), "task_options": task.options()}
            used = {key: made_with.get(key) for key in asked}
            if (other := difference(used, json.loads(json.dumps(asked)))) is not None:
                rank_zero_warn(
                    f"{corpus}: used as it is, though made with other settings: {other}", category=DMaxWarning
                )
        return
    module = trainer.lightning_module
    home = module.device
    module.to(trainer.strategy.root_device)
    try:
        distill(module, task, corpus, settings)
    finally:
        module.to(home)
