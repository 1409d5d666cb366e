r"""The grading of DMax's published figures, which accepts any of several candidates; only to compare figures with them.

Its rules are facts of ``val_gsm8k.py`` and ``val_math.py`` in the authors' repository.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from dmaxlit.tasks.grading.extraction import boxes

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
#: What marks an answer in words, for numbers and for LaTeX; only for a text of :func:`shortened`, since on long runs of
#: white space these take minutes.
MARKED = (
    re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL),
    re.compile(r"Final Answer\s*[:\uff1a]\s*(.*?)(?=\n\s*\n|$)", re.IGNORECASE | re.DOTALL),
    re.compile(r"The final answer is\s*(.*?)(?:\.?\s*I hope it is correct\.?|$)", re.IGNORECASE | re.DOTALL),
    re.compile(r"^\s*Answer\s*[:\uff1a]\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE),
)
LONGEST = 20_000  # characters of a text that are looked at, the last ones
_WHITE_SPACE = re.compile(r"(\s)(\s{8,})(\s)")
_HASHES = re.compile(r"####\s*([^\n]+)")
_SPANS = (_HASHES, *MARKED)
_MARKUP = re.compile(r"\*\*|__|\\boxed\{|\\fbox\{|\\?[()\[\]](?<=\\.)|[}$,]")
_TROUBLE = re.compile(
    r"\b(?:wrong|incorrect|false|typo|glitch|stuck|loop|looping|malfunction|give up|system error|not right|confusing)\b"
)
_TROUBLED_TEXT = ("i give up", "system error", "malfunction", "i'm stuck", "glitch")
_COUNTED = ("wait", "wrong", "incorrect", "false", "glitch", "stuck", "loop", "malfunction", "system error", "give up")
_MOST_NUMBERS = 2
_MOST_CHARACTERS = 1_000  # of a number


@dataclass(frozen=True)
class LenientNumberGrader:
    """Accepts a text if either of its first two different candidates is one of the reference's numbers.

    Candidates are the last number of each of the last three marked answers (``####``, ``<answer>``, "Final Answer:",
    "The final answer is", "Answer:", in this order wherever they stand), of the last boxed one, of each of the last
    five lines, and of the last eight lines. What sounds unsure ("wrong", "glitch", "wait" twice) is left out.

    Args:
        answer: The reference, a worked response perhaps.
    """

    answer: str

    def extract(self, text: str) -> str | None:
        """Return the candidates that are compared, or None if there is none."""
        return " or ".join(map(str, self._candidates(text))) or None

    def __call__(self, text: str) -> bool:
        """Return whether a candidate is one of the reference's numbers."""
        references = _different([*_marked(self.answer)[-1:], self.answer])
        return not set(references).isdisjoint(self._candidates(text))

    def _candidates(self, text: str) -> list[Fraction]:
        text = text[-LONGEST:].strip()
        if _gives_up(text) and not _ends_well(text[-250:]):
            return []
        lines = [line for line in text.splitlines() if line.strip()]
        boxed = sorted(boxes(text), key=lambda box: box.command)[-1:]  # \\fbox after all \\boxed
        sources = [*reversed(_marked(text)[-3:]), *(box.content for box in boxed)]
        sources += [*reversed(lines[-5:]), "\n".join(lines[-8:])]
        return _different(source for source in sources if not _is_unsure(source))[:_MOST_NUMBERS]


def shortened(text: str) -> str:
    """Return a text with short runs of white space; where lines and paragraphs end stays."""
    return _WHITE_SPACE.sub(lambda run: run[1] + "\n\n"[: run[2].count("\n")] + run[3], text)


def _marked(text: str) -> list[str]:
    """Return the marked answers of a text that are not blank, marker by marker."""
    text = shortened(text)
    return [match[1] for pattern in _SPANS for match in pattern.finditer(text) if match[1].strip()]


def _different(sources: Iterable[str]) -> list[Fraction]:
    """Return the last number of each source, without repeats."""
    last = (_NUMBER.findall(_MARKUP.sub("", source))[-1:] for source in sources)
    return list(dict.fromkeys(value for found in last for text in found if (value := _value(text)) is not None))


def _value(text: str) -> Fraction | None:
    if len(text) > _MOST_CHARACTERS:  # Python refuses to write out very long numbers
        return None
    try:
        return Fraction(text.replace(",", ""))
    except (ValueError, ZeroDivisionError):  # 1.5/2, 1/0
        return None


def _is_unsure(text: str) -> bool:
    lower = text.lower()
    doubts = lower.count("?") >= 2 and any(word in lower for word in (" no", "wrong", "incorrect"))
    return bool(_TROUBLE.search(lower)) or lower.count("wait") >= 2 or doubts


def _gives_up(text: str) -> bool:
    lower = text.lower()
    wrong = sum(map(lower.count, ("wrong", "incorrect", "false")))
    return (
        any(words in lower for words in _TROUBLED_TEXT)
        or (lower.count("wait") >= 3 and wrong >= 1)
        or sum(map(lower.count, _COUNTED)) >= 8
    )


def _ends_well(tail: str) -> bool:
    return not _is_unsure(tail) and bool(_marked(tail) or boxes(tail))
