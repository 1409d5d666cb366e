"""The grading of DMax's published figures of MATH, which accepts any of up to ten candidates; see :mod:`.lenient`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dmaxlit.tasks.grading.extraction import boxed_contents
from dmaxlit.tasks.grading.lenient import LONGEST, MARKED
from dmaxlit.tasks.grading.math import without_delimiters
from dmaxlit.tasks.grading.math_equivalence import equivalent

_MARKED = (*MARKED, re.compile(r"^\s*####\s*(.+?)\s*$", re.MULTILINE))
_FORMULAS = (
    re.compile(r"\$\$(.*?)\$\$", re.DOTALL),
    re.compile(r"\\\[(.*?)\\\]", re.DOTALL),
    re.compile(r"\\\((.*?)\\\)", re.DOTALL),
    re.compile(r"(?<!\$)\$(?!\$)(.+?)(?<!\$)\$(?!\$)", re.DOTALL),
)
_PREFIX = re.compile(r"^(?:####|<answer>|(?:final )?answer\s*[:\uff1a]|the final answer is)\s*", re.IGNORECASE)
_SUFFIX = re.compile(r"(?:\s*I hope it is correct\.?|</answer>)$", re.IGNORECASE)
_TAIL, _WHOLE, _MOST, _REST = 800, 200, 10, 20


@dataclass(frozen=True)
class LenientMathGrader:
    """Accepts a text if any of up to ten candidates is the reference, or equivalent to it.

    Candidates are the last marked answer ("Final Answer:", "Answer:", "The final answer is", ``####``, ``<answer>``)
    and the last boxed one if less than 20 letters and digits follow them, the last formula of the last 800 characters,
    each of the last three lines and what follows its last equals sign, and a text of up to 200 characters as a whole.

    Args:
        answer: The reference in LaTeX.
    """

    answer: str

    def extract(self, text: str) -> str | None:
        """Return the candidates that are compared, or None if there is none."""
        return " or ".join(candidates(text)) or None

    def __call__(self, text: str) -> bool:
        """Return whether a candidate is the reference."""
        found = candidates(text)
        reference = _normal(self.answer)
        return any(_normal(candidate) == reference for candidate in found) or any(
            equivalent(self.answer, candidate) for candidate in found
        )


def candidates(text: str) -> list[str]:
    """Return up to ten different candidates, in the order in which the published grading takes them."""
    text = text[-LONGEST:].strip()
    cleaned = (without_delimiters(_unmarked(candidate)) for candidate in _candidates(text))
    kept = [candidate for candidate in cleaned if candidate and candidate.lower() not in ("answer", "final answer")]
    return list(dict.fromkeys(kept))[:_MOST]


def _candidates(text: str) -> Iterator[str]:
    marked = [match for pattern in _MARKED for match in pattern.finditer(text) if match[1].strip()]
    last = max(marked, key=lambda match: match.end(), default=None)
    if last is not None and not _goes_on(text[last.end() :]):
        yield last[1]
    for answer in boxed_contents(text)[-1:]:
        if not _goes_on(text[text.rindex(answer) + len(answer) :]):
            yield answer
    formulas = [match[1] for pattern in _FORMULAS for match in pattern.finditer(text[-_TAIL:])]
    yield from formulas[-1:]
    lines = [line for line in text[-_TAIL:].splitlines() if line.strip()]
    for line in reversed(lines[-3:]):
        yield line
        if "=" in line:
            yield line.rpartition("=")[2]
    if len(text) <= _WHOLE:
        yield text


def _goes_on(rest: str) -> bool:
    return len(re.findall(r"[A-Za-z0-9\u4e00-\u9fff\\]", rest)) >= _REST


def _unmarked(candidate: str) -> str:
    text = _PREFIX.sub("", re.sub(r"\*\*|__|`", "", candidate).strip())
    return _SUFFIX.sub("", text).strip(" \n\t,.;:!")


def _normal(answer: str) -> str:
    """Return LaTeX without what does not change its meaning."""
    text = re.sub(r"\\(?:left|right|!|,|;|\$)|\s|\$", "", answer.replace("dfrac", "frac").replace("tfrac", "frac"))
    return re.sub(r"\\(?:text|mathrm|textbf|boxed)\{([^{}]*)\}", r"\1", text)
