"""Chat templates: conversations to token ids, and the choice of a template and its arguments."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from dmaxlit.data.control_tokens import ControlTokens, template_text
from dmaxlit.data.spellings import Spellings
from dmaxlit.data.template_content import readable_turn
from dmaxlit.errors import UserError, reason_of
from dmaxlit.files import expanded

T = TypeVar("T")

_RESERVED = {"messages", "tools", "documents", "add_generation_prompt"}


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | Sequence[Mapping[str, Any]]]
) -> list[list[int]]:
    """Return the token ids of conversations, through the chat template, up to the beginning of the assistant's turn.

    Special tokens that the template writes are tokens; those that a message, a tool or its call spells out are text.

    Args:
        tokenizer: A tokenizer with a chat template.
        prompts: Texts, each of which is a user's turn, or chat messages, perhaps a
            :class:`~dmaxlit.data.messages.Conversation` with tools.

    Raises:
        UserError: If the template cannot be chosen or refuses a conversation.
    """
    control, spellings = ControlTokens.of(tokenizer), Spellings(tokenizer)
    return [_encode_chat(tokenizer, prompt, control, spellings) for prompt in prompts]


def _encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Mapping[str, Any]],
    control: ControlTokens,
    spellings: Spellings,
) -> list[int]:
    tools = guarded(lambda: spellings.unified(getattr(prompt, "tools", None)))
    spoken = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    turns = guarded(lambda: [readable_turn(tokenizer, spellings.unified(dict(turn))) for turn in spoken])
    arguments: dict[str, Any] = {"tools": tools, "add_generation_prompt": True}
    rendered = render(tokenizer, turns, **arguments)
    if not guarded(lambda: control.are_in(turns, tools)):
        ids: list[int] = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return ids
    sanitised: Any = guarded(
        lambda: tokenizer.apply_chat_template(turns, sanitize_control_tokens=True, return_dict=False, **arguments)
    )
    return list(sanitised)


def render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]], **arguments: Any) -> str:
    """Return the text that the chat template writes.

    Args:
        tokenizer: A tokenizer with a chat template.
        turns: Messages; see :func:`~dmaxlit.data.template_content.readable_turn`.
        arguments: ``tools`` and ``add_generation_prompt``.

    Raises:
        UserError: If the template cannot be chosen or refuses the conversation.
    """
    _require_default(tokenizer, arguments.get("tools"))
    return guarded(lambda: str(tokenizer.apply_chat_template(turns, tokenize=False, **arguments)))


def guarded(apply: Callable[[], T]) -> T:
    """Return what a function of the chat template returns; a template is a program, and may raise anything."""
    try:
        return apply()
    except UserError:
        raise
    except Exception as error:
        reason = reason_of(error, with_type=True)
        raise UserError(f"chat template: cannot be applied to the conversation ({reason})") from error


def _require_default(tokenizer: PreTrainedTokenizerBase, tools: Any) -> None:
    templates = tokenizer.chat_template
    if isinstance(templates, dict) and "default" not in templates and not (tools and "tool_use" in templates):
        raise UserError(f"chat_template: expected {_names(templates)}, since the tokenizer has no default, got none")


def choose_template(
    tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None, options: Mapping[str, Any] | None = None
) -> None:
    """Give a tokenizer one chat template, with values for its variables.

    The choice is written into the template itself, so checkpoints and exports have it, here and in other libraries.

    Args:
        tokenizer: The tokenizer; changed in place.
        chat_template: One of the tokenizer's templates by name, which becomes the default, or a ``.jinja`` file.
            Default: as it is.
        options: Values of variables that the template reads, for instance ``enable_thinking``: what JSON can express.

    Raises:
        UserError: If there is no such template or variable, or a value cannot be written in a template.
    """
    if chat_template is not None:
        tokenizer.chat_template = _chosen(tokenizer.chat_template, chat_template)
    if not options:
        return
    templates = tokenizer.chat_template
    if templates is None:
        raise UserError("template_options: expected a tokenizer with a chat template, got one without")
    text = template_text(tokenizer)
    for name in options:
        if name in _RESERVED or not name.isidentifier() or not re.search(rf"\b{name}\b", text):
            raise UserError(f"template_options: expected variables that the chat template reads, got {name!r}")
    values = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {_literal(name, value)} %}}{{% endif %}}\n"
        for name, value in options.items()
    )
    if isinstance(templates, dict):
        tokenizer.chat_template = {name: _with_values(values, template) for name, template in templates.items()}
    else:
        tokenizer.chat_template = _with_values(values, templates)


def _with_values(values: str, template: str) -> str:
    return template if template.startswith(values) else values + template  # the same choice twice is one


def _chosen(templates: Any, choice: str) -> str | dict[str, str]:
    if isinstance(templates, dict) and choice in templates:
        # For conversations with tools the library prefers a template of this name to the default.
        kept = {name: template for name, template in templates.items() if name != "tool_use" or choice == "tool_use"}
        return {**kept, "default": templates[choice]}
    if not choice.endswith(".jinja"):
        known = _names(templates) + " or a .jinja file" if isinstance(templates, dict) else "a .jinja file"
        raise UserError(f"chat_template: expected {known}, got {choice!r}")
    try:
        return Path(expanded(choice)).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"chat_template: cannot read {choice!r} ({reason_of(error)})") from error


def _names(templates: Mapping[str, str]) -> str:
    return " or ".join(repr(name) for name in sorted(templates))


def _literal(name: str, value: Any) -> str:
    """Return a value as Jinja writes it: as JSON, but for null."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(f"{json.dumps(str(k), ensure_ascii=False)}: {_literal(name, v)}" for k, v in value.items())
            + "}"
        )
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_literal(name, item) for item in value) + "]"
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"template_options: expected values that JSON can express, got {name} {value!r}") from error
