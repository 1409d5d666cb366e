"""Generate responses into a JSONL file, resumable after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmaxlit.data.encoding import Prompt
from dmaxlit.data.response_rows import generate_rows
from dmaxlit.data.resumable_jsonl import (
    PartialCorpus,
    Progress,
    manifest_path,
    model_identity,
    prompts_hash,
    refusing,
    whole_manifest,
)
from dmaxlit.engine import DecodeSettings, Generation
from dmaxlit.errors import PromptError, UserError
from dmaxlit.evaluation.answer_rows import answer_row, kept_columns
from dmaxlit.files import writable_path
from dmaxlit.locks import exclusive
from dmaxlit.tasks import Example
from dmaxlit.version import __version__

if TYPE_CHECKING:
    from dmaxlit.module import DMaxModule


def generate_to_file(
    module: DMaxModule,
    prompts: Sequence[Prompt] | Sequence[Example],
    output: str | Path,
    settings: DecodeSettings,
    progress: bool = True,
    overwrite: bool = False,
    extras: Sequence[Mapping[str, Any]] = (),
) -> Progress:
    """Decode prompts into a file of one JSON object a line, in their order.

    A row holds ``index``, ``prompt``, ``response``, ``token_ids``, ``num_tokens``, ``num_forwards``, ``finished``,
    ``hit_step_limit``, ``stopped`` where a stop text ended it and, for examples of a task, ``correct``; and the columns
    that came with the prompt, such as an id. A column that has the name of one of ours is kept as ``prompt_<name>``.

    The file appears under its name once it is complete; until then its rows are recorded every few seconds. Next to it,
    ``<output>.manifest.json`` holds the settings and the counts. Called again with the same model, prompts and
    settings, it resumes after an interruption, and changes nothing once the file is complete.

    Args:
        module: The model.
        prompts: Texts, lists of chat messages, or a task's examples.
        output: File to write.
        settings: How to decode; the decoder must be given by name.
        progress: Show a progress bar.
        overwrite: Replace a complete file, which stays until the new one is complete, and discard rows that were begun
            with other settings.
        extras: The columns that came with each prompt; examples have theirs.

    Returns:
        Counts over the whole file.

    Raises:
        UserError: If the file cannot be written, exists and was not made by the same call, was begun with other
            prompts, columns, settings or weights, or is being written by another process.
    """
    if not prompts:
        raise UserError("prompts: expected at least one, got none")
    examples = [prompt if isinstance(prompt, Example) else None for prompt in prompts]
    texts = [prompt.prompt if isinstance(prompt, Example) else prompt for prompt in prompts]
    settings.make_engine(module.backbone)  # refuses bad settings before anything is written
    with refusing(Path(output), "output"):
        path = writable_path(Path(output))
    identity = settings.identity() | model_identity(module) | {"prompts": prompts_hash(texts)}
    columns = _columns(prompts, extras)
    if any(columns):
        identity["columns"] = prompts_hash(columns)
    if not overwrite and (whole := whole_manifest(path, identity)) is not None:
        return Progress.read(whole.get("counts"), manifest_path(path))

    def generate(rest: Sequence[Prompt], begin: int, take: Callable[[int, Generation], object]) -> object:
        return module.generate_batch(rest, settings, begin, on_response=take)

    def make_row(index: int, generation: Generation) -> tuple[dict[str, Any], bool]:
        example = examples[index]
        correct = example is not None and bool(example.check(generation.text))
        judged = {} if example is None else {"correct": correct}
        return answer_row(index, columns[index], generation, token_ids=generation.token_ids, **judged), correct

    with exclusive(path, "output"):
        if not overwrite and (whole := whole_manifest(path, identity)) is not None:  # by another process, meanwhile
            return Progress.read(whole.get("counts"), manifest_path(path))
        file = PartialCorpus(path, identity, overwrite)
        counts = generate_rows(file, texts, generate, make_row, progress)
        file.finish({"settings": identity, "counts": asdict(counts), "version": __version__})
    return counts


def _columns(
    prompts: Sequence[Prompt] | Sequence[Example], extras: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the columns to keep in each row."""
    columns = []
    for index, prompt in enumerate(prompts):
        extra = prompt.extra if isinstance(prompt, Example) else extras[index] if extras else {}
        try:
            columns.append(kept_columns(extra))
        except UserError as error:
            raise PromptError(index, str(error)) from error
    return columns
