"""The one answer that a worked text gives."""

import re
from typing import NamedTuple

_MARKER = re.compile(r"\\boxed\b\s*|\\fbox\b\s*|####|\banswer\s+is\b\s*:?", re.IGNORECASE)
# A sentence ends where another begins; the full stop of a title ends none.
_SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)[.!?]\**\s+(?=[A-Z\\])")
_DISPLAY = re.compile(r"^[\s*:]*(?:\\\[|\$\$)?\s*")  # emphasis, and the beginning of a displayed formula
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BRACES = re.compile(r"(?:\\boxed\s*|\\fbox\s*)?\{|\}")
_LONGEST = 4_000  # characters of an answer that are looked at


def extract_answer(text: str) -> str | None:
    r"""Return the answer that the last marker of a text introduces, or None if there is no marker or no answer.

    Markers are ``\boxed{...}`` (and ``\fbox``), ``####`` and the words "answer is", in any case. The answer is the
    content of the braces, which may be nested; after the other two it is the rest of the line, after "answer is" that
    of the sentence. Only the last marker counts: if nothing follows it, or its braces do not close, there is no answer,
    and nothing else of the text is searched.

    Args:
        text: A generated text. An answer longer than 4,000 characters is none.
    """
    markers = list(_MARKER.finditer(text))
    if not markers:
        return None
    marker = markers[-1]
    rest = text[marker.end() : marker.end() + _LONGEST + 2]
    if marker[0].startswith("\\"):
        answer = _braced(rest)
    else:
        answer = rest.partition("\n")[0] if marker[0] == "####" else _sentence(rest)
    if answer is None or len(answer) > _LONGEST:
        return None
    return answer.strip() or None


class Box(NamedTuple):
    r"""What a ``\boxed{...}`` or ``\fbox{...}`` holds.

    Args:
        command: ``boxed`` or ``fbox``.
        content: The text in the braces.
        end: Index of the character after them.
    """

    command: str
    content: str
    end: int


def boxes(text: str) -> list[Box]:
    """Return each box of a text whose braces close, in the order in which they close."""
    closed, open_braces = [], []
    for brace in _BRACES.finditer(text):
        if brace[0] != "}":
            open_braces.append(brace)
        elif open_braces and (begin := open_braces.pop())[0] != "{":
            command = begin[0].strip("\\{ \t\n")
            closed.append(Box(command, text[begin.end() : brace.start()].strip(), brace.end()))
    return closed


def boxed_contents(text: str) -> list[str]:
    """Return the content of each box of a text whose braces close, in the order in which they close."""
    return [box.content for box in boxes(text)]


def _sentence(rest: str) -> str:
    line = _DISPLAY.sub("", rest, count=1).partition("\n")[0].strip()
    return _SENTENCE_END.split(line, maxsplit=1)[0].removesuffix(".")


def _braced(rest: str) -> str | None:
    """Return what the braces at the beginning enclose; None if there are none, or they do not close."""
    depth = 0
    for match in _BRACE.finditer(rest if rest.startswith("{") else ""):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return rest[1 : match.start()]
    return None
