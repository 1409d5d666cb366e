r"""Answers in LaTeX, as in MATH."""

import re
from dataclasses import dataclass

from dmaxlit.tasks.grading.extraction import extract_answer
from dmaxlit.tasks.grading.math_equivalence import LONGEST, equivalent

_MATH = re.compile(r"^(?:\$\$?|\\\(|\\\[)(.*?)(?:\$\$?|\\\)|\\\])[.,]?$", re.DOTALL)
# math-verify leaves the base of 52_8 and the power of cm^2 out.
_BASE = re.compile(r"\d_\{?(\d+)\}?$")
_POWER_OF_UNIT = re.compile(r"(?:\\(?:text|mbox|mathrm)\{[^{}]*\}|(?<![A-Za-z\\])[A-Za-z]{2,})\s*\^\{?(\d+)\}?$")
# math-verify compares one quantity, whatever the words that follow it.
_MAGNITUDE = re.compile(
    r"(?<![A-Za-z\\])(?:hundred|thousand|million|billion|trillion|dozen)s?(?![A-Za-z])"
    r"|(?-i:\d\s*\\(?:text|mbox|mathrm)\{\s*(?:[kKMB]|bn)\s*\})",
    re.IGNORECASE,
)
_RELATION = re.compile(r"^\s*(?:[<>≤≥]|\\(?:[lg]eq?|[lg]t|[lg]eqslant)(?![A-Za-z]))")
_SECOND_QUANTITY = re.compile(r"\d[^\\^]*\\(?:text|mbox|mathrm)\{[^{}]*[A-Za-z][^{}]*\}\s*\d")
_EMPHASIS = re.compile(r"^(?:\*{1,3}|`+|__?)(?=\S)|(?<=[^\s^])(?:\*{1,3}|`+)$|(?<=\S)__?$")
# The end of a formula that began before the answer.
_CLOSING = re.compile(r"^((?:(?!\\\[|\$\$).)*?)\s*(?:\\\]|\$\$)$", re.DOTALL)
_DIGITS = re.compile(r"\d+")
_NEGATION = re.compile(r"\\(?:neq?|not)(?![A-Za-z])|≠|\bnot\b")  # at the beginning, math-verify leaves it out


@dataclass(frozen=True)
class MathGrader:
    """Accepts a text whose extracted answer is mathematically the reference.

    Units, currency and a base that the question names may be left out; stated, a base or the power of a unit has to be
    the reference's.

    Args:
        answer: The reference in LaTeX.
    """

    answer: str

    def extract(self, text: str) -> str | None:
        """Return what :func:`~dmaxlit.tasks.grading.extraction.extract_answer` finds, without markup around it."""
        answer = extract_answer(text)
        return None if answer is None else without_markup(answer) or None

    def __call__(self, text: str) -> bool:
        """Return whether the text's answer is the reference."""
        answer = self.extract(text)
        return answer is not None and len(answer) <= LONGEST and is_same(self.answer, answer)


def without_delimiters(answer: str) -> str:
    r"""Return an answer without the ``$...$`` or ``\(...\)`` around the whole of it."""
    match = _MATH.match(answer.strip())
    return match[1].strip() if match and "$" not in match[1] else answer.strip()


def without_markup(answer: str) -> str:
    r"""Return an answer without what a text puts around it: emphasis, delimiters, and the stop of the sentence."""
    before = None
    while answer != before:
        before = answer
        answer = without_delimiters(_EMPHASIS.sub("", answer.strip()))
        answer = _CLOSING.sub(r"\1", answer)
        answer = re.sub(r"(?<![.,])[.,]$", "", answer)  # but not the dots of 0.333...
    return answer


def is_same(reference: str, answer: str) -> bool:
    """Return whether two LaTeX answers are the same, or equivalent."""
    answer = answer.replace("°", r"^\circ")
    if answer.split() == reference.split():
        return True
    if bool(_NEGATION.search(reference)) != bool(_NEGATION.search(answer)):
        return False
    if any(bool(of.search(reference)) != bool(of.search(answer)) for of in (_MAGNITUDE, _RELATION)):
        return False
    if _SECOND_QUANTITY.search(answer) and len(_DIGITS.findall(reference)) < 2:
        return False
    for stated in (_BASE, _POWER_OF_UNIT):
        left, right = stated.search(reference), stated.search(answer)
        if left and right and left[1] != right[1]:
            return False
    return equivalent(reference, answer)
