"""Chat templates that write today's date: all rows of a run are encoded with the date of its first start."""

import json
import re
from copy import copy
from datetime import datetime
from typing import Any

import lightning as L
from transformers import PreTrainedTokenizerBase

from dmaxlit.data.control_tokens import template_text
from dmaxlit.errors import UserError, describe_value

_FUNCTION = "strftime_now"  # what transformers offers to templates
_DIRECTIVES = "aAbBcdDefFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ"  # of strftime
_PERCENT = "\ue000"  # of the private use area, for %% while others are replaced


class TemplateDate:
    """The moment that the chat template takes for now: that of the run's first start, also when it is resumed.

    Otherwise the rows of a run resumed on another day would be others.
    """

    def __init__(self) -> None:
        self.moment: datetime | None = None

    def apply(self, tokenizer: PreTrainedTokenizerBase, trainer: L.Trainer | None) -> PreTrainedTokenizerBase:
        """Return the tokenizer to encode rows with; the first call decides on the moment.

        Args:
            tokenizer: The model's tokenizer. It is returned if its template writes no date, and is not changed.
            trainer: The trainer, whose ranks take the moment of rank zero.
        """
        if _FUNCTION not in str(tokenizer.chat_template):
            return tokenizer
        if self.moment is None:
            now = datetime.now()
            self.moment = now if trainer is None else trainer.strategy.broadcast(now)
        dated: Any = copy(tokenizer)
        macro = _macro(self.moment, _directives(template_text(tokenizer)))
        dated.chat_template = _dated(tokenizer.chat_template, macro)
        return dated  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, str]:
        """Return the moment, for checkpoints; nothing if no template asked for it."""
        return {} if self.moment is None else {"moment": self.moment.isoformat()}

    def restore(self, state: dict[str, Any]) -> bool:
        """Take the moment of a checkpoint, and return whether rows must be encoded again.

        Raises:
            UserError: If the state holds something else.
        """
        if self.moment is None or "moment" not in state:
            return False
        try:
            moment = datetime.fromisoformat(state["moment"])
        except (TypeError, ValueError) as error:
            value = describe_value(state["moment"])
            raise UserError(f"checkpoint: moment: expected a date and time, got {value}") from error
        self.moment, before = moment, self.moment
        return moment != before


def written_day(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return today's date (ISO 8601) if the chat template writes a date or a time, or None."""
    return datetime.now().date().isoformat() if _FUNCTION in str(tokenizer.chat_template) else None


def _dated(template: Any, macro: str) -> Any:
    """Return a template, or templates by name, that begin with a macro."""
    if isinstance(template, dict):
        return {name: _dated(text, macro) for name, text in template.items()}
    return f"{macro}\n{template}"  # Jinja drops this line's end, and treats what follows as the start of a line


def _directives(template: str) -> str:
    """Return the directives that a template may use: those of its formats, or all if a format is not written out.

    A template that writes the day is then the same all day, and so are the rows that it makes.
    """
    formats = re.findall(rf"""{_FUNCTION}\(\s*(?:format\s*=\s*)?("[^"\\]*"|'[^'\\]*')\s*\)""", template)
    asked = re.findall(rf"{_FUNCTION} +is +(?:not +)?defined", template)
    if len(formats) + len(asked) < template.count(_FUNCTION):
        return _DIRECTIVES
    used = re.findall("%-?(.)", "".join(formats).replace("%%", ""))
    return "".join(directive for directive in _DIRECTIVES if directive in used)


def _macro(moment: datetime, directives: str) -> str:
    """Return a Jinja macro that hides the function: a template's variables may be plain values only."""
    texts = {"%%": _PERCENT}
    for directive in directives:
        for flag in ("", "-"):  # %-d: without the leading zero
            texts[f"%{flag}{directive}"] = moment.strftime(f"%{flag}{directive}")
    texts[_PERCENT] = "%"
    replacements = "".join(f".replace({json.dumps(code)}, {json.dumps(text)})" for code, text in texts.items())
    return f"{{% macro {_FUNCTION}(format) %}}{{{{ format{replacements} }}}}{{% endmacro %}}"
