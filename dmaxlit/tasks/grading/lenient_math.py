"""The grading of DMax's published figures of MATH, which accepts any of up to ten candidates; see :mod:`.lenient`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dmaxlit.tasks.grading.extraction import boxes
from dmaxlit.tasks.grading.lenient import LONGEST, MARKED, shortened
from dmaxlit.tasks.grading.math_equivalence import equivalent
from dmaxlit.tasks.grading.minerva import minerva_form

_MARKED = (*MARKED, re.compile(r"^\s*####\s*(.+?)\s*$", re.MULTILINE))
_FORMULAS = (
    re.compile(r"\$\$(.*?)\$\$", re.DOTALL),
    re.compile(r"\\\[(.*?)\\\]", re.DOTALL),
    re.compile(r"\\\((.*?)\\\)", re.DOTALL),
    re.compile(r"(?<!\$)\$(?!\$)(.+?)(?<!\$)\$(?!\$)", re.DOTALL),
)
# Taken off one after the other.
_AROUND = (
    re.compile(r"^\s*####\s*"),
    re.compile(r"^\s*<answer>\s*", re.IGNORECASE),
    re.compile(r"</answer>\s*$", re.IGNORECASE),
    re.compile(r"^\s*(?:final answer|answer)\s*[:\uff1a]\s*", re.IGNORECASE),
    re.compile(r"^\s*the final answer is\s*", re.IGNORECASE),
    re.compile(r"I hope it is correct\.?\s*$", re.IGNORECASE),
)
_PLAIN = {
    "\u2212": "-",
    "\u00d7": "*",
    "\u00f7": "/",
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\left": "",
    r"\right": "",
    r"\!": "",
    r"\,": "",
    r"\;": "",
    r"\%": "%",
}
_DELIMITERS = (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"), ("$", "$"))
_WRAPPERS = (r"\boxed", r"\fbox", r"\text{", r"\mathrm{", r"\textbf{")
_PUNCTUATION = " \n\t\r,.;:!\u3002\uff1b\uff0c"
_TAIL, _WHOLE, _MOST, _REST = 800, 200, 10, 20


@dataclass(frozen=True)
class LenientMathGrader:
    """Accepts a text if any of up to ten candidates is the reference, or equivalent to it.

    Candidates are the last marked answer ("Final Answer:", "Answer:", "The final answer is", ``####``, ``<answer>``)
    and the last boxed one if less than 20 letters and digits follow them, the last formula of the last 800 characters,
    each of the last three lines and what follows its last equals sign, and a text of up to 200 characters as a whole.
    Both sides are brought to the form of Minerva, or compared by math-verify. The published code also lets sympy
    evaluate candidates as code; this does not.

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
        reference = _cleaned(self.answer)
        form = minerva_form(reference)
        return (bool(form) and any(minerva_form(candidate) == form for candidate in found)) or any(
            equivalent(reference, candidate) for candidate in found
        )


def candidates(text: str) -> list[str]:
    """Return up to ten different candidates, in the order in which the published grading takes them."""
    cleaned = map(_cleaned, _candidates(text[-LONGEST:]))
    kept = [candidate for candidate in cleaned if candidate and candidate.lower() not in ("answer", "final answer")]
    return list(dict.fromkeys(kept))[:_MOST]


def _candidates(text: str) -> Iterator[str]:
    short = shortened(text)
    marked = [match for pattern in _MARKED for match in pattern.finditer(short) if match[1].strip()]
    last = max(marked, key=lambda match: match.end(), default=None)
    if last is not None and not _goes_on(short[last.end() :]):
        yield last[1]
    for box in boxes(text)[-1:]:
        if not _goes_on(text[box.end :]):
            yield box.content
    text = text.strip()
    tail = text[-_TAIL:]
    formulas = [match[1] for pattern in _FORMULAS for match in pattern.finditer(tail) if match[1].strip()]
    yield from formulas[-1:]
    lines = [line for line in tail.splitlines() if line.strip()]
    for line in reversed(lines[-3:]):
        stripped = _without_emphasis(line).lstrip("-*").strip()  # of lists, and the sign of a number too
        yield stripped
        yield stripped.rpartition("=")[2] if "=" in stripped else ""
    if len(text) <= _WHOLE:
        yield text


def _goes_on(rest: str) -> bool:
    return len(re.findall(r"[A-Za-z0-9\u4e00-\u9fff\\]", rest)) >= _REST


def _cleaned(candidate: str) -> str:
    """Return a candidate without markers, emphasis, delimiters and what does not change how it reads."""
    text = _without_emphasis(candidate)
    for pattern in _AROUND:
        text = pattern.sub("", text)
    for written, plain in _PLAIN.items():
        text = text.replace(written, plain)
    text = text.strip()
    while (inner := _inner(text).strip(_PUNCTUATION)) != text:
        text = inner
    return " ".join(text.split())


def _without_emphasis(text: str) -> str:
    return text.strip().replace("**", "").replace("__", "").strip("`")


def _inner(text: str) -> str:
    """Return what delimiters of a formula, a box or a change of font hold, if they are around the whole text."""
    for begin, end in _DELIMITERS:
        if text.startswith(begin) and text.endswith(end) and len(text) >= len(begin) + len(end):
            return text[len(begin) : -len(end)].strip()
    if text.startswith(_WRAPPERS) and "{" in text:
        first, depth = text.index("{"), 0
        for position in range(first, len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[first + 1 : -1].strip() if position == len(text) - 1 else text
    return text
