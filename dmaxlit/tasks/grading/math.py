r"""Answers in LaTeX, as in MATH."""

import re
from dataclasses import dataclass

from dmaxlit.tasks.grading.extraction import extract_answer
from dmaxlit.tasks.grading.math_equivalence import LONGEST, equivalent

_MATH = re.compile(r"^(?:\$\$?|\\\(|\\\[)(.*?)(?:\$\$?|\\\)|\\\])[.,]?$", re.DOTALL)
# math-verify leaves the base of 52_8 and the power of cm^2 out.
_BASE = re.compile(r"\d_\{?(\d+)\}?$")
_POWER_OF_UNIT = re.compile(r"(?:\\(?:text|mbox|mathrm)\{[^{}]*\}|(?<![A-Za-z\\])[A-Za-z]{2,})\s*\^\{?(\d+)\}?$")


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
        """Return the answer by the rule of :func:`~dmaxlit.tasks.grading.extraction.extract_answer`."""
        answer = extract_answer(text)
        return None if answer is None else without_delimiters(answer)

    def __call__(self, text: str) -> bool:
        """Return whether the text's answer is the reference."""
        answer = self.extract(text)
        return answer is not None and len(answer) <= LONGEST and is_same(self.answer, answer)


def without_delimiters(answer: str) -> str:
    r"""Return an answer without the ``$...$`` or ``\(...\)`` around the whole of it."""
    match = _MATH.match(answer.strip())
    return match[1].strip() if match and "$" not in match[1] else answer.strip()


def is_same(reference: str, answer: str) -> bool:
    """Return whether two LaTeX answers are the same, or equivalent."""
    if answer.split() == reference.split():
        return True
    for stated in (_BASE, _POWER_OF_UNIT):
        left, right = stated.search(reference), stated.search(answer)
        if left and right and left[1] != right[1]:
            return False
    return equivalent(reference, answer)
