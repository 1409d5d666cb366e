"""Whether a generated text gives the reference answer."""

import re
from decimal import Decimal
from typing import Literal

from dmaxlit.errors import UserError

__all__ = ["Match", "answer_part", "last_number", "matches"]

Match = Literal["exact", "numeric"]

# A sign counts unless it joins two things, as in 3-5; commas count where they group thousands.
_NUMBER = re.compile(
    r"(?<![\w.)\]])[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3}(?!\w))?"
    r"|[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3}(?!\w))?"
    r"|(?<![\w.)\]])[-+]?\.[0-9]+"
)


def answer_part(text: str) -> str:
    """What follows the last ``####``, or the whole text if there is none."""
    return text.rpartition("####")[2]


def last_number(text: str) -> Decimal | None:
    """The number a text ends on, or None.

    After ``####`` the first number counts, otherwise the last of the text. ``1,234.50``, ``-3``, ``$7``, ``.5`` and
    ``2e3`` are understood; in ``3-5`` the last number is 5.
    """
    marked = "####" in text
    found = _NUMBER.findall(answer_part(text).replace("\N{MINUS SIGN}", "-"))
    return Decimal(found[0 if marked else -1].replace(",", "")) if found else None


def matches(match: Match, answer: str, text: str) -> bool:
    """Whether ``text`` gives ``answer``.

    Args:
        match: ``exact``: the same words, wherever the white space is. ``numeric``: the numbers they end on are equal.
        answer: The reference.
        text: What was generated.

    Raises:
        UserError: If ``match`` is neither.
    """
    if match == "exact":
        return text.split() == answer.split()
    if match == "numeric":
        wanted = last_number(answer)
        return wanted is not None and last_number(text) == wanted
    raise UserError(f"match: expected 'exact' or 'numeric', got {match!r}")
