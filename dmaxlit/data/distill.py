"""Self-distillation: a model writes its own training corpus."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from dmaxlit.data.assistant_turn import response_content
from dmaxlit.data.distill_settings import DistillSettings, Keep
from dmaxlit.data.encoding import Prompt
from dmaxlit.data.identity import model_identity, prompts_hash
from dmaxlit.data.prompt_shares import prompt_lengths
from dmaxlit.data.response_rows import Generate, Response, generate_rows
from dmaxlit.data.resumable_jsonl import Progress, manifest_path, refusing
from dmaxlit.data.shared_corpus import SharedCorpus
from dmaxlit.errors import UserError
from dmaxlit.files import writable_path
from dmaxlit.randomness import stable_seed
from dmaxlit.ranks import Ranks
from dmaxlit.tasks import TASKS, Example, Task
from dmaxlit.version import __version__

__all__ = ["DistillSettings"]


@dataclass(frozen=True)
class Manifest:
    """The origin of a corpus; written next to it as ``<corpus>.manifest.json``.

    Args:
        settings: Everything the corpus depends on: hashes of the model's weights and chat template, block length,
            decoder and options, task and options or hash of the prompts, number of prompts, budget, filter, seed.
        prompts: Prompts answered.
        finished: Responses that ended in EOS.
        correct: Finished responses that the checker accepts; None without a checker.
        kept: Rows of the corpus.
        tpf: Tokens per forward: tokens generated, EOS included, over the forwards they took part in.
        seconds: Time spent generating, summed over processes.
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

    @classmethod
    def read(cls, content: Mapping[str, Any], path: Path) -> "Manifest":
        """Return the manifest in a file.

        Raises:
            UserError: If the file holds something else.
        """
        try:
            return cls(**content)
        except TypeError as error:
            raise UserError(f"{path}: expected the manifest of a corpus, got something else ({error})") from error


def distill(
    module: Any,
    source: Task | Sequence[Prompt],
    output: Path | str,
    settings: DistillSettings | None = None,
    progress: bool = True,
    overwrite: bool = False,
    argument: str = "output",
    ranks: Ranks | None = None,
) -> Manifest:
    """Let a model answer prompts and keep its responses as a corpus (self-distillation, DMax section 3.1).

    The corpus appears under its name, in the order of the prompts, once it is complete; until then finished answers are
    recorded after every batch, at the latest after some seconds. Called again after an interruption with the same
    settings, by any number of processes, it resumes without losing or duplicating a row; once the corpus is complete,
    another call changes nothing. The rows depend on neither batch size, processes nor interruptions, unless a decoder
    of your own draws random numbers by itself instead of taking those of its blocks.

    Args:
        module: The model, a :class:`~dmaxlit.module.DMaxModule`, in any mode.
        source: A task, whose training prompts are answered, or prompts: texts, or lists of chat messages.
        output: The corpus, a ``.jsonl`` file with ``prompt`` and ``response``; for a prompt of messages with
            ``messages`` that end in the response, and its ``tools``.
        settings: How to distil; default :class:`DistillSettings`.
        progress: Show a progress bar.
        overwrite: Replace a complete corpus, which stays until the new one is complete, and discard rows that were
            begun with other settings.
        argument: The user's name for ``output``, for messages.
        ranks: The processes that share the prompts, each with the model on its device. Default: this one alone.

    Returns:
        The settings and counts of the corpus.

    Raises:
        UserError: If a setting is out of range, no response is kept, the corpus was made or begun with other settings,
            cannot be written or is being written by another run, or one of the processes ends before the others.
    """
    ranks = ranks or Ranks()
    prompts, examples, settings, output = ranks.together(
        lambda: _prepare(source, Path(output), settings or DistillSettings(), argument)
    )
    identity = ranks.from_main(lambda: _identity(module, source, prompts, settings))
    with SharedCorpus(output, identity, ranks, overwrite, argument) as file:
        if file.whole is not None:
            whole = file.whole
            return ranks.together(lambda: Manifest.read(whole, manifest_path(output)))
        return _write(module, file, prompts, examples, settings, progress)


def _prepare(
    source: Task | Sequence[Prompt], output: Path, settings: DistillSettings, argument: str
) -> tuple[Sequence[Prompt], list[Example] | None, DistillSettings, Path]:
    """Return the prompts, the examples of a task, the settings with their budget, and the path to write."""
    settings.check()
    prompts, examples = _prompts(source, settings)
    if settings.max_new_tokens is None:
        settings = replace(settings, max_new_tokens=_budget(source))
    with refusing(output, argument):
        return prompts, examples, settings, writable_path(output, argument)


def _write(
    module: Any,
    file: SharedCorpus,
    prompts: Sequence[Prompt],
    examples: list[Example] | None,
    settings: DistillSettings,
    progress: bool,
) -> Manifest:
    """Answer the prompts that the file does not hold yet, and finish it."""
    counts = generate_rows(
        file,
        prompts,
        partial(prompt_lengths, module.tokenizer, module.backbone.max_length),
        _generator(module, settings),
        _row_filter(module.tokenizer, prompts, examples, settings.keep),
        settings.batch_size,
        progress,
        title="distil",
    )
    return file.ranks.from_main(lambda: _finish(file, counts, is_judged=examples is not None))


def _finish(file: SharedCorpus, counts: Progress, is_judged: bool) -> Manifest:
    """Give the file its name, and write its manifest."""
    if not counts.kept:
        file.discard()
        raise UserError(
            f"distill: expected an answer to keep, got {counts.finished} finished of {counts.prompts}, none kept"
        )
    manifest = Manifest(
        settings=file.settings,
        prompts=counts.prompts,
        finished=counts.finished,
        correct=counts.correct if is_judged else None,
        kept=counts.kept,
        tpf=counts.tokens / max(counts.forwards, 1),
        seconds=counts.seconds,
    )
    file.finish(asdict(manifest))
    return manifest


def _prompts(
    source: Task | Sequence[Prompt], settings: DistillSettings
) -> tuple[Sequence[Prompt], list[Example] | None]:
    if isinstance(source, Task):
        examples = source.examples("train", settings.num_prompts)
        return [example.prompt for example in examples], examples
    if settings.keep == "correct":
        raise UserError("keep: expected a task for 'correct', prompts alone have no checker")
    prompts = list(source)[: settings.num_prompts]
    if not prompts:
        raise UserError("prompts: expected at least one, got none")
    return prompts, None


def _budget(source: Task | Sequence[Prompt]) -> int:
    if not isinstance(source, Task):
        raise UserError("max_new_tokens: expected a number, since prompts alone have no budget of their own")
    return source.max_new_tokens


def _identity(
    module: Any, source: Task | Sequence[Prompt], prompts: Sequence[Prompt], settings: DistillSettings
) -> dict[str, Any]:
    is_task = isinstance(source, Task)
    return {
        **model_identity(module),
        "task": TASKS.name_of(type(source)) or type(source).__qualname__ if is_task else None,
        "task_options": source.options() if isinstance(source, Task) else None,
        **settings.recorded(),
        "num_prompts": len(prompts),
        "prompts": prompts_hash(prompts),
    }


def _generator(module: Any, settings: DistillSettings) -> Generate:
    """Return a function that decodes prompts, and passes on each response as it is finished."""
    device = next(module.backbone.model.parameters()).device
    decoding = {name: value for name, value in asdict(settings).items() if name not in ("num_prompts", "keep")}

    def generate(
        prompts: Sequence[Prompt],
        indices: Sequence[int],
        take: Callable[[int, Response], object],
        tick: Callable[[int], object],
    ) -> object:
        # For decoders of one's own that use the global generator; the samples of ours do not.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(stable_seed("distill", settings.seed, indices[0]))
            return module.generate_batch(prompts, decoding, indices, progress=tick, on_response=take)

    return generate


def _row_filter(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], examples: Sequence[Example] | None, keep: Keep
) -> Callable[[int, Response], tuple[dict[str, Any] | None, bool]]:
    """Return a function that makes the row of a response, None if it is not kept, and judges the response."""

    def make_row(index: int, response: Response) -> tuple[dict[str, Any] | None, bool]:
        correct = response.finished and examples is not None and examples[index].check(response.text)
        is_kept = {"finished": response.finished, "correct": correct, "all": True}[keep]
        text = response_content(tokenizer, prompts[index], response.text) if is_kept else ""
        return _corpus_row(prompts[index], text) if text.strip() else None, correct

    return make_row


def _corpus_row(prompt: Prompt, response: str) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"prompt": prompt, "response": response}
    tools = getattr(prompt, "tools", None)
    messages = [*prompt, {"role": "assistant", "content": response}]
    return {"messages": messages, **({"tools": tools} if tools else {})}
