"""Self-distillation: a model writes its own training corpus."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

from dmaxlit.data.answer_server import AnswerServer
from dmaxlit.data.answerers import Answerer, ModelAnswerer, ServerAnswerer
from dmaxlit.data.distill_settings import DEFAULT_NUM_PROMPTS, NO_BUDGET, DistillSettings
from dmaxlit.data.encoding import Prompt
from dmaxlit.data.identity import answers_hash, prompts_hash, task_identity
from dmaxlit.data.json_lines import json_line, write_rows
from dmaxlit.data.manifest import Manifest
from dmaxlit.data.response_rows import Response, generate_rows, named_by_all
from dmaxlit.data.resumable_jsonl import Progress, manifest_path, refusing
from dmaxlit.data.row_filter import RowFilter
from dmaxlit.data.shared_corpus import SharedCorpus
from dmaxlit.errors import PromptError, UserError, check_not_empty
from dmaxlit.files import read_json, writable_path
from dmaxlit.randomness import stable_seed
from dmaxlit.ranks import Ranks
from dmaxlit.tasks import Example, Task
from dmaxlit.tasks.base import first_examples
from dmaxlit.tasks.sources import held_out_path

__all__ = ["DistillSettings"]

_SUFFIXES = (".jsonl", ".json", ".ndjson")  # whose rows are read as such; those of a .txt would be one text


def distill(
    model: Any,
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
    recorded after every batch, or with one that comes some seconds after the last record. Called again after an
    interruption with the same settings, by any number of processes, it resumes without losing or duplicating a row;
    once the corpus is complete, another call changes nothing. The rows depend on neither batch size, processes nor
    interruptions, unless a decoder of your own draws random numbers by itself instead of taking those of its blocks.

    Args:
        model: The model, a :class:`~dmaxlit.module.DMaxModule`, in any mode; or a server that answers, an
            :class:`~dmaxlit.data.answer_server.AnswerServer`.
        source: A task, whose training prompts are answered, or prompts: texts, or lists of chat messages.
        output: The corpus, a ``.jsonl`` file with ``prompt`` and ``response``; for a prompt that is answered as
            messages with ``messages`` that end in the response, and its ``tools``.
        settings: How to distil; default :class:`DistillSettings`.
        progress: Show a progress bar.
        overwrite: Replace a complete corpus, which stays until the new one is complete, and discard rows that were
            begun with other settings.
        argument: The user's name for ``output``, for messages.
        ranks: The processes that share the prompts, each with the model on its device. Default: this one alone.

    Returns:
        The settings and counts of the corpus.

    Raises:
        UserError: If a setting is out of range, a prompt has no form in a corpus, responses cannot be judged on this
            machine, none is kept, another file has the name of the prompts held out, the corpus was made or begun with
            other settings, cannot be written or is being written by another run, or one of the processes ends before
            the others.
    """
    ranks = ranks or Ranks()
    answerer = ServerAnswerer(model) if isinstance(model, AnswerServer) else ModelAnswerer(model)
    work, settings, output = ranks.together(
        lambda: _prepare(answerer, source, Path(output), settings or DistillSettings(), argument)
    )
    identity = ranks.from_main(lambda: _identity(answerer, source, work, settings))
    with SharedCorpus(output, identity, ranks, overwrite, argument) as file:
        if file.whole is not None:
            whole = file.whole
            return ranks.together(lambda: Manifest.read(whole, manifest_path(output)))
        ranks.from_main(lambda: _check_held_out(output, work.held_out, overwrite))
        return _write(answerer, file, work, settings, progress)


@dataclass(frozen=True)
class _Work:
    """What is to be answered.

    Args:
        prompts: The prompts, each once for each of its samples.
        rows: What the corpus has of each, without the response.
        indices: Index of each among all prompts of the source.
        examples: The examples of a task, as ``prompts``; None without one.
        num_prompts: Number of prompts, each counted once.
        digests: Hashes of the prompts, each once, and of the reference answers of a task.
        held_out: The same of the prompts that get no response.
        stop: Texts that end a response: those of the task.
        is_judged: Whether the responses are judged by the examples.
    """

    prompts: Sequence[Prompt]
    rows: Sequence[dict[str, Any]]
    indices: Sequence[int]
    examples: Sequence[Example] | None
    num_prompts: int
    digests: dict[str, str]
    held_out: Sequence[dict[str, Any]]
    stop: Sequence[str]
    is_judged: bool


def _prepare(
    answerer: Answerer, source: Task | Sequence[Prompt], output: Path, settings: DistillSettings, argument: str
) -> tuple[_Work, DistillSettings, Path]:
    """Return what is to be answered, the settings with their budget, and the path to write."""
    if settings.max_new_tokens is None:
        settings = replace(settings, max_new_tokens=_budget(source))
    settings.check()
    # Programs are run only if that decides what is kept: each takes a tenth of a second.
    is_judged = isinstance(source, Task) and (settings.keep == "correct" or not source.runs_answers)
    if isinstance(source, Task) and is_judged:
        source.record()  # refuses a machine on which responses cannot be judged
    prompts, examples = _prompts(source, settings)
    rows = [_prompt_row(answerer, index, prompt) for index, prompt in enumerate(prompts)]
    is_held_out = [_is_held_out(prompt, settings) for prompt in prompts]
    if all(is_held_out):
        raise UserError(f"held_out: expected a share that leaves a prompt, got {settings.held_out} of {len(prompts)}")
    indices = [index for index in range(len(prompts)) if not is_held_out[index] for _ in range(settings.num_samples)]
    work = _Work(
        [prompts[index] for index in indices],
        [rows[index] for index in indices],
        indices,
        None if examples is None else [examples[index] for index in indices],
        len(prompts),
        {"prompts": prompts_hash(prompts), **({} if examples is None else {"answers": answers_hash(examples)})},
        list(compress(rows, is_held_out)),
        [*source.stop] if isinstance(source, Task) else [],
        is_judged,
    )
    with refusing(output, argument):
        path = writable_path(output, argument)
    if output.suffix.lower() not in _SUFFIXES:
        raise UserError(f"{argument}: expected a .jsonl file to write, got {str(output)!r}")
    return work, settings, path


def _write(answerer: Answerer, file: SharedCorpus, work: _Work, settings: DistillSettings, progress: bool) -> Manifest:
    """Answer the prompts that the file does not hold yet, and finish it."""
    is_answered = file.ranks.from_main(lambda: any(file.parts.recorded(rank).tokens for rank in file.parts.ranks()))
    with named_by_all(work.indices):
        counts = generate_rows(
            file,
            work.prompts,
            answerer.lengths,
            answerer.generator(settings, work.stop, is_answered),
            _row_maker(answerer, work),
            settings.batch_size,
            progress,
            title="distil",
            row_filter=RowFilter(settings, is_served=isinstance(answerer, ServerAnswerer)),
        )
    return file.ranks.from_main(lambda: _finish(file, counts, work))


def _finish(file: SharedCorpus, counts: Progress, work: _Work) -> Manifest:
    """Write the prompts that were held out, give the file its name, and write its manifest."""
    if not counts.kept:
        file.discard()
        dropped = ", ".join(f"{count} {reason}" for reason, count in counts.dropped.items() if count)
        raise UserError(
            f"distill: expected an answer to keep, got {counts.finished} finished of {counts.prompts}, none kept "
            f"({dropped})"
        )
    if not work.held_out and _has_held_out(file.output):
        held_out_path(file.output).unlink(missing_ok=True)  # of the corpus that is replaced: they have rows now
    if work.held_out:
        write_rows(held_out_path(file.output), work.held_out)
    manifest = Manifest(
        settings=file.settings,
        prompts=counts.prompts,
        finished=counts.finished,
        correct=counts.correct if work.is_judged else None,
        kept=counts.kept,
        tpf=counts.tokens / counts.forwards if counts.forwards else None,
        seconds=counts.seconds,
        dropped=counts.dropped,
        held_out=len(work.held_out),
    )
    file.finish(asdict(manifest))
    return manifest


def _check_held_out(corpus: Path, rows: Sequence[dict[str, Any]], overwrite: bool) -> None:
    """Refuse a file under the name of the prompts held out, unless it has them, or those of a corpus to replace."""
    path = held_out_path(corpus)
    if not rows or not path.exists() or (overwrite and _has_held_out(corpus)):
        return
    with refusing(path, "held_out"):
        is_same = path.read_bytes() == b"".join(map(json_line, rows))
    if not is_same:
        raise UserError(f"held_out: expected no file under the name of these prompts, got other rows in {str(path)!r}")


def _has_held_out(corpus: Path) -> bool:
    """Return whether there is a corpus whose manifest says that it leaves out prompts."""
    with suppress(UserError):
        return bool(read_json(manifest_path(corpus)).get("held_out"))
    return False


def _is_held_out(prompt: Prompt, settings: DistillSettings) -> bool:
    """Return whether a prompt is among those left out, which its text alone decides."""
    return bool(settings.held_out) and stable_seed("held out", prompts_hash([prompt])) < settings.held_out * 2**63


def _prompts(
    source: Task | Sequence[Prompt], settings: DistillSettings
) -> tuple[Sequence[Prompt], list[Example] | None]:
    if isinstance(source, Task):
        if not (examples := first_examples(source, "train", settings.num_prompts, DEFAULT_NUM_PROMPTS, "num_prompts")):
            raise UserError("task: expected training prompts, found none")
        return [example.prompt for example in examples], examples
    if settings.keep == "correct":
        raise UserError("keep: expected a task for 'correct', prompts alone have no checker")
    prompts = list(source)[: settings.num_prompts]
    check_not_empty(prompts=prompts)
    return prompts, None


def _budget(source: Task | Sequence[Prompt]) -> int:
    if not isinstance(source, Task):
        raise UserError(NO_BUDGET)
    return source.max_new_tokens


def _identity(
    answerer: Answerer, source: Task | Sequence[Prompt], work: _Work, settings: DistillSettings
) -> dict[str, Any]:
    model = answerer.identity()
    recorded = settings.recorded(decoded=isinstance(answerer, ModelAnswerer))
    return {
        **model,
        **task_identity(source if isinstance(source, Task) else None),
        **recorded,
        **({"stop": work.stop} if work.stop else {}),  # absent from the manifests of corpora made before there were any
        # Absent, too, from the manifests of corpora in which the turns of a template were lost.
        **({"rows": "messages"} if any(map(_is_text_with_turns, work.prompts, work.rows)) else {}),
        "num_prompts": work.num_prompts,
        **work.digests,
    }


def _is_text_with_turns(prompt: Prompt, row: dict[str, Any]) -> bool:
    return isinstance(prompt, str) and "messages" in row


def _row_maker(answerer: Answerer, work: _Work) -> Callable[[int, Response], tuple[dict[str, Any] | None, bool]]:
    """Return a function that makes the row of a response, None if it is empty, and judges the response."""

    def make_row(index: int, response: Response) -> tuple[dict[str, Any] | None, bool]:
        examples = work.examples if work.is_judged else None
        correct = response.finished and examples is not None and examples[index].check(response.text)
        text = answerer.content(work.prompts[index], response.text)
        return _with_response(work.rows[index], text) if text.strip() else None, correct

    return make_row


def _with_response(row: dict[str, Any], response: str) -> dict[str, Any]:
    if "prompt" in row:
        return row | {"response": response}
    return row | {"messages": [*row["messages"], {"role": "assistant", "content": response}]}


def _prompt_row(answerer: Answerer, index: int, prompt: Prompt) -> dict[str, Any]:
    """Return what a corpus has of a prompt, so that the tokens that are learnt are those that were decoded."""
    try:
        asked = answerer.asked(prompt)
    except UserError as error:
        raise PromptError(index, str(error)) from error
    if isinstance(asked, str):
        return {"prompt": asked}
    tools = getattr(prompt, "tools", None)
    return {"messages": [*asked], **({"tools": tools} if tools else {})}
