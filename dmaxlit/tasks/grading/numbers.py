"""Answers that are numbers or words, compared exactly."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from dmaxlit.tasks.grading.extraction import extract_answer
from dmaxlit.tasks.matching import numbers_in

_LONGEST = 200  # characters
_UNIT = re.compile(r"\s\([^()\d]*\)")  # (apples)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{([-+]?\d+)\}\{(\d+)\}")
_SEPARATOR = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!|,\\!)(?=\d{3})")
_DISPLAY = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|left|right|quad|[\[\]();, ])|[{}()$*]|\\?[$%]|[€£°]|\^\{?\\circ\b"
)
_LOOSE_SIGN = re.compile(r"(?<![\w.)\]])([-+])\s+(?=\.?\d)")
_EXPONENT_OF_UNIT = re.compile(r"(?:(?<=[A-Za-z]{2})|(?<=\bm))(?:\}?\s*\^\{?[23]\}?|[23²³])(?!\d)")  # cm^2, m2
_FRACTION = re.compile(r"(?<![\d.,/:])([-+]?\d+)\s*/\s*(\d+)(?![\d.,]*\d|/)")
# What separates several numbers; a comma that is not between thousands.
_BETWEEN = re.compile(r"\s*(?:;|,\s|,(?=[-+]?(?:\\?\$)?\d)(?!\d{3}(?!\d))|\band\b)+\s*")
# What makes another value of the number beside it, or none. A slash before a word belongs to a unit: 18/hour.
_OTHERWISE = re.compile(
    r"\\[A-Za-z]|(?<![\d.])[A-Za-z]\d|[\^√π±≈≠<>≤≥]|\d\s*(?::|/(?!\s*[A-Za-z]{2}))|[:/]\s*\d"
    r"|\b(?:not|half|pi|(?:hundred|thousand|million|billion|trillion|dozen)s?)\b"
    r"|(?-i:\d(?:[kKMB]|\s*bn)(?![A-Za-z]))",
    re.IGNORECASE,
)


def number_of(answer: str) -> Fraction | None:
    r"""Return the one number that an answer holds, or None if it holds none, or several.

    Units, currency, a percent sign and words beside it are left out: ``$18``, ``18 dollars``, ``$18/hour``,
    ``9 (apples)``, ``1,234.50``, ``1{,}000``, ``-3``, ``5/2``, ``\frac{5}{2}``, ``x = 5`` and ``60%`` (60) are
    understood. ``2 or 3``, ``2^3``, ``5\pi``, ``5/x``, ``5 million`` and ``not 5`` hold no number in this sense.

    Args:
        answer: An extracted answer. One longer than 200 characters holds none.
    """
    if len(answer) > _LONGEST:
        return None
    text = _LATEX_FRACTION.sub(
        r"\1/\2", _EXPONENT_OF_UNIT.sub("", _UNIT.sub(" ", answer)).replace("\N{MINUS SIGN}", "-")
    )
    text = _DISPLAY.sub(" ", _SEPARATOR.sub(",", text).replace("-$", "$-").replace(r"-\$", r"\$-"))
    text = _LOOSE_SIGN.sub(r"\1", text)
    fractions = _FRACTION.findall(text)
    text = _FRACTION.sub(" ", text)
    if _OTHERWISE.search(text) or any(char.isnumeric() and not char.isascii() for char in text):
        return None
    values = [Fraction(int(top), int(bottom)) for top, bottom in fractions if int(bottom)]
    values += [Fraction(number) for number in numbers_in(text)]
    return values[0] if len(values) == 1 else None


@dataclass(frozen=True)
class NumberGrader:
    """Accepts a text whose extracted answer is the same numbers in the same order.

    Args:
        numbers: The reference: one number or several, which an answer separates by ``;``, ``,`` or "and".
    """

    numbers: Sequence[Fraction]

    def extract(self, text: str) -> str | None:
        """Return the answer by the rule of :func:`~dmaxlit.tasks.grading.extraction.extract_answer`."""
        return extract_answer(text)

    def __call__(self, text: str) -> bool:
        """Return whether the text's answer is the reference."""
        answer = self.extract(text)
        if answer is None or len(answer) > _LONGEST:
            return False
        parts = [answer] if len(self.numbers) == 1 else _BETWEEN.split(answer)
        return [number_of(part) for part in parts if part] == list(self.numbers)


@dataclass(frozen=True)
class WordsGrader:
    """Accepts a text whose extracted answer is the same words, such as a name, a time or a ratio.

    Case, white space, units in brackets, a leading "the" and punctuation do not matter.

    Args:
        answer: The reference.
    """

    answer: str

    def extract(self, text: str) -> str | None:
        """Return the answer by the rule of :func:`~dmaxlit.tasks.grading.extraction.extract_answer`."""
        return extract_answer(text)

    def __call__(self, text: str) -> bool:
        """Return whether the text's answer is the reference."""
        answer = self.extract(text)
        return answer is not None and len(answer) <= _LONGEST and _words(answer) == _words(self.answer)


def _words(text: str) -> list[str]:
    plain = _DISPLAY.sub(" ", _UNIT.sub(" ", text))
    words = re.sub(r"[.,;!](?!\d)", "", re.sub(r"\s*:\s*", ":", plain)).casefold().split()
    return words[1:] if words[:1] == ["the"] else words
