"""Matching a generated text against the reference answer."""

import re
from decimal import Decimal
from typing import Literal

from dmaxlit.errors import UserError

Match = Literal["exact", "numeric"]

# A sign counts unless it joins two terms, as in 3-5; commas count where they group thousands.
_NUMBER = re.compile(
    r"(?<![\w.)\]])[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3}(?!\w))?"
    r"|[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3}(?!\w))?"
    r"|(?<![\w.)\]])[-+]?\.[0-9]+"
)

_COMPOUND = re.compile(r"[0-9}]\s*[/:^]\s*\{?[-+]?[0-9]")
_COMPOUND_END = re.compile(_COMPOUND.pattern + r"[0-9.,]*+\W*$")


def answer_part(text: str) -> str:
    """Return the text after the last ``####``, or the whole text if there is none."""
    return text.rpartition("####")[2]


def numbers_in(text: str) -> list[Decimal]:
    """Return all numbers of a text in order; see :func:`last_number` for what a number is."""
    return [Decimal(number.replace(",", "")) for number in _NUMBER.findall(text.replace("\N{MINUS SIGN}", "-"))]


def last_number(text: str) -> Decimal | None:
    """Return the number a text ends with, or None.

    After ``####`` the first number counts, otherwise the last one of the text. ``1,234.50``, ``-3``, ``$7``, ``.5`` and
    ``2e3`` are understood; in ``3-5`` the last number is 5.
    """
    marked = "####" in text
    numbers = numbers_in(answer_part(text))
    return numbers[0 if marked else -1] if numbers else None


def is_compound(text: str) -> bool:
    """Return whether the number that :func:`last_number` finds is a part of a fraction, a ratio, a power or a time."""
    return bool((_COMPOUND if "####" in text else _COMPOUND_END).search(answer_part(text)))


def extracted(match: Match, text: str) -> str | None:
    """Return what :func:`matches` compares of a text: all its words, or the number it ends with; None if it has none.

    Args:
        match: ``exact`` or ``numeric``.
        text: The generated text.
    """
    if match == "exact":
        return " ".join(text.split()) or None
    number = last_number(text)
    return None if number is None else str(number)


def matches(match: Match, answer: str, text: str) -> bool:
    """Return whether ``text`` gives ``answer``.

    Args:
        match: ``exact``: the same words, whatever the white space. ``numeric``: both end with the same number.
        answer: The reference.
        text: The generated text.

    Raises:
        UserError: If ``match`` is neither.
    """
    if match == "exact":
        return text.split() == answer.split()
    if match == "numeric":
        number = last_number(answer)
        return number is not None and last_number(text) == number
    raise UserError(f"match: expected 'exact' or 'numeric', got {match!r}")
