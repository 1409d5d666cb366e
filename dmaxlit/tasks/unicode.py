"""Texts that no UTF-8 file and no tokenizer can hold: those with half of a character."""

import re
from typing import Any

from dmaxlit.errors import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")


def lone_surrogate(value: Any) -> str | None:
    r"""Return the escape (``\ud83d``) of a lone surrogate in a text, or in the texts of a JSON value; None for none.

    JSON can spell one out, as does a text that was cut in the middle of an emoji. Bytes of the command line that are
    not UTF-8 become lone surrogates too.

    Args:
        value: A text, or mappings and lists of texts at any depth.
    """
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if not item.isascii() and (found := _SURROGATE.search(item)) is not None:
                return found.group().encode("unicode_escape").decode()
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple)):
            waiting += item
    return None


def check_text(name: str, value: Any) -> None:
    """Refuse a text, or a JSON value with a text, that has a lone surrogate.

    Args:
        name: Name of the argument.
        value: A text, or mappings and lists of texts at any depth.

    Raises:
        UserError: If it has one.
    """
    if (surrogate := lone_surrogate(value)) is not None:
        raise UserError(f"{name}: expected text that UTF-8 can encode, got a lone surrogate ({surrogate})")
