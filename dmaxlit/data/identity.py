"""What responses depend on, as values that are compared when a file is resumed."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from dmaxlit.data.control_tokens import template_text
from dmaxlit.tasks import TASKS, Example, Task
from dmaxlit.tasks.prompts import conversation_of, is_plain
from dmaxlit.weights_hash import weights_hash

# Earlier versions did not record these: files of theirs without them can be used.
_RECORDED_LATER = ("answers", "task", "task_options")


def model_identity(module: Any) -> dict[str, Any]:
    """Return what responses depend on besides settings and prompts: weights, block length, chat template.

    Args:
        module: A :class:`~dmaxlit.module.DMaxModule`.
    """
    return {
        "model": weights_hash(module),
        "block_length": module.backbone.block_length,
        "chat_template": template_hash(module.tokenizer),
    }


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the SHA-256 of a tokenizer's chat template, or of all of several; None without one."""
    template = template_text(tokenizer)
    return prompts_hash([template]) if template else None


def prompts_hash(prompts: Sequence[Any]) -> str:
    """Return the SHA-256 of prompts, with the tools of conversations, or of other JSON values."""
    return hashlib.sha256(json.dumps([_hashed(prompt) for prompt in prompts]).encode()).hexdigest()


def _hashed(prompt: Any) -> Any:
    if is_plain(prompt):
        return {"continued": prompt}  # not the same to a model as a text that is a user's turn
    content, tools = conversation_of(prompt), getattr(prompt, "tools", None)
    return [content, tools] if tools else content


def task_identity(task: Task | None) -> dict[str, Any]:
    """Return what the verdicts on responses depend on besides the examples: the task and its options."""
    return {
        "task": None if task is None else TASKS.name_of(type(task)) or type(task).__qualname__,
        "task_options": None if task is None else task.options(),
    }


def answers_hash(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of the reference answers of examples."""
    return prompts_hash([example.answer for example in examples])


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Return the first setting in which two runs differ, as ``name was old, now new``, or None.

    Nested settings are named with dots.
    """
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in old and name in _RECORDED_LATER:
            continue
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            if (inner := difference(before, now)) is not None:
                return f"{name}.{inner}"
        elif before != now:
            return f"{name} was {before!r}, now {now!r}"
    return None


def plain_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they are after they were stored as JSON, to be compared with stored ones.

    A tuple is a list, and what JSON does not know is its text, without addresses.
    """
    return dict(json.loads(json.dumps(settings, default=_text)))


def _text(value: object) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))
