"""Generate responses into a JSONL file, resumable after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmaxlit.data.control_tokens import template_text
from dmaxlit.data.resumable_jsonl import PartialCorpus, Progress, generate_rows, model_identity, prompts_hash
from dmaxlit.engine import DecodeSettings, Generation
from dmaxlit.errors import UserError
from dmaxlit.files import writable_path
from dmaxlit.tasks import Example

if TYPE_CHECKING:
    from dmaxlit.module import DMaxModule


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
    ``hit_step_limit``, ``stopped`` where a stop text ended it and, for examples of a task, ``correct``.

    The file appears under its name once it is complete.
    Called again after an interruption with the same model, prompts and settings, it resumes after the last complete
    group of four batches.

    Args:
        module: The model.
        prompts: Texts, or a task's examples.
        output: File to write.
        settings: How to decode; the decoder must be given by name.
        progress: Show a progress bar.
        overwrite: Start over instead of resuming, and replace an existing file.

    Returns:
        Counts over the whole file.

    Raises:
        UserError: If the file cannot be written, exists, or was begun with other prompts, settings or weights.
    """
    if not prompts:
        raise UserError("prompts: expected at least one, got none")
    examples = [prompt if isinstance(prompt, Example) else None for prompt in prompts]
    texts = [prompt.prompt if isinstance(prompt, Example) else prompt for prompt in prompts]
    settings.make_engine(module.backbone)  # refuses bad settings before anything is written
    identity = settings.identity() | model_identity(module) | {"prompts": prompts_hash(texts)}
    if template := template_text(module.tokenizer):
        identity["chat_template"] = prompts_hash([template])
    path = writable_path(Path(output))
    if path.exists() and not overwrite and not PartialCorpus.record_path(path).exists():
        raise UserError(f"output: {str(output)!r} exists; give another name, or overwrite (--overwrite true)")

    def generate(chunk: Sequence[str], begin: int, advance: Callable[[int], object]) -> list[Generation]:
        return module.generate_batch(chunk, settings, begin, advance)

    def make_row(index: int, generation: Generation) -> tuple[dict[str, Any], bool]:
        row = {"index": index, **generation.to_dict(), "token_ids": generation.token_ids}
        example = examples[index]
        if example is None:
            return row, False
        correct = bool(example.check(generation.text))
        return row | {"correct": correct}, correct

    try:
        file = PartialCorpus(path, identity, overwrite=overwrite)
        counts = generate_rows(file, texts, settings.batch_size, generate, make_row, progress)
        file.finish()
    except OSError as error:
        raise UserError(f"output: cannot write {str(output)!r} ({error.strerror or error})") from error
    return counts
