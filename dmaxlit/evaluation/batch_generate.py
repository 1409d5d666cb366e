"""Generate responses into a JSONL file, resumable after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmaxlit.data.encoding import Prompt
from dmaxlit.data.identity import answers_hash, model_identity, prompts_hash, task_identity
from dmaxlit.data.prompt_shares import prompt_lengths
from dmaxlit.data.response_rows import generate_rows
from dmaxlit.data.resumable_jsonl import Progress, manifest_path, refusing
from dmaxlit.data.shared_corpus import SharedCorpus
from dmaxlit.engine import DecodeSettings, Generation
from dmaxlit.errors import PromptError, UserError, check_not_empty
from dmaxlit.evaluation.answer_rows import answer_row, kept_columns
from dmaxlit.files import writable_path
from dmaxlit.ranks import Ranks
from dmaxlit.tasks import Example, Task
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
    ranks: Ranks | None = None,
    task: Task | None = None,
) -> Progress:
    """Decode prompts into a file of one JSON object a line, in their order.

    A row holds ``index``, ``prompt``, ``response``, ``token_ids``, ``num_tokens``, ``num_forwards``, ``finished``,
    ``hit_step_limit``, ``stopped`` where a stop text ended it and, for examples of a task, ``correct``; and the columns
    that came with the prompt, such as an id. A column that has the name of one of ours is kept as ``prompt_<name>``.

    The file appears under its name once it is complete; until then finished answers are recorded after every batch.
    Next to it, ``<output>.manifest.json`` holds the settings and the counts. Called again with the same model, prompts
    and settings, by any number of processes, it resumes after an interruption, and changes nothing once the file is
    complete.

    Args:
        module: The model.
        prompts: Texts, lists of chat messages, or a task's examples.
        output: File to write.
        settings: How to decode; the decoder must be given by name.
        progress: Show a progress bar.
        overwrite: Replace a complete file, which stays until the new one is complete, and discard rows that were begun
            with other settings.
        extras: The columns that came with each prompt; examples have theirs.
        ranks: The processes that share the prompts, each with the model on its device. Default: this one alone.
        task: The task whose examples they are; a file of another one, or of other options, is not continued.

    Returns:
        Counts over the whole file.

    Raises:
        UserError: If the file cannot be written, exists and was not made by the same call, was begun with other
            prompts, reference answers, columns, settings or weights, or is being written by another run.
    """
    ranks = ranks or Ranks()
    examples = [prompt if isinstance(prompt, Example) else None for prompt in prompts]
    texts = [prompt.prompt if isinstance(prompt, Example) else prompt for prompt in prompts]

    def prepare() -> tuple[list[dict[str, Any]], Path]:
        check_not_empty(prompts=prompts)
        settings.make_engine(module.backbone)  # refuses bad settings before anything is written
        with refusing(Path(output), "output"):
            path = writable_path(Path(output))
        return _columns(prompts, extras), path

    columns, path = ranks.together(prepare)
    judged = [example for example in examples if example is not None]
    identity = ranks.from_main(lambda: _identity(module, settings, texts, columns) | _of_verdicts(task, judged))

    def generate(
        rest: Sequence[Prompt],
        indices: Sequence[int],
        take: Callable[[int, Generation], object],
        tick: Callable[[int], object],
    ) -> object:
        return module.generate_batch(rest, settings, indices, progress=tick, on_response=take)

    def make_row(index: int, generation: Generation) -> tuple[dict[str, Any], bool]:
        example = examples[index]
        correct = example is not None and bool(example.check(generation.text))
        verdict = {} if example is None else {"correct": correct}
        return answer_row(index, columns[index], generation, token_ids=generation.token_ids, **verdict), correct

    with SharedCorpus(path, identity, ranks, overwrite) as file:
        if file.whole is not None:
            whole = file.whole
            return ranks.together(lambda: Progress.read(whole.get("counts"), manifest_path(path)))
        lengths = partial(prompt_lengths, module.tokenizer, module.backbone.max_length)
        counts = generate_rows(file, texts, lengths, generate, make_row, settings.batch_size, progress)
        manifest = {"settings": identity, "counts": asdict(counts), "version": __version__}
        ranks.from_main(lambda: file.finish(manifest))
    return counts


def _identity(
    module: DMaxModule, settings: DecodeSettings, texts: Sequence[Prompt], columns: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what the answers depend on."""
    identity = settings.identity() | model_identity(module) | {"prompts": prompts_hash(texts)}
    return identity | {"columns": prompts_hash(columns)} if any(columns) else identity


def _of_verdicts(task: Task | None, examples: Sequence[Example]) -> dict[str, Any]:
    """Return what the verdicts on the answers depend on."""
    return task_identity(task) | {"answers": answers_hash(examples) if examples else None}


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
