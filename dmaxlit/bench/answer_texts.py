"""Texts by which graders are tested: reference answers as models write them, and the same with one error."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dmaxlit.tasks import Example

_FORMS = {
    "boxed": "So it is $\\boxed{{{}}}$.",
    "####": "That is all.\n#### {}",
    "answer is": "The answer is {}.",
}
_OPTION = re.compile(r"(?<=\()[A-Z](?=\))")


@dataclass(frozen=True)
class AnswerText:
    """A text and the verdict that it has to get.

    Args:
        check: What kind of text it is.
        text: The text.
        right: The verdict.
    """

    check: str
    text: str
    right: bool


def answer_texts(examples: Sequence[Example], index: int) -> Iterator[AnswerText]:
    """Yield texts with the reference of one example, and texts with one error.

    Args:
        examples: All examples of a data set.
        index: The example. The answer to another question is that of the next example with another answer.
    """
    example = examples[index]
    if example.response is not None:
        yield AnswerText("worked response", example.response, True)
    for form, template in _FORMS.items():
        yield AnswerText(f"reference, {form}", template.format(example.answer), True)
    if (written := rewritten(example.answer)) != example.answer:
        yield AnswerText("reference, rewritten", _FORMS["boxed"].format(written), True)
    if "####" not in example.answer and "\\" not in example.answer:
        yield AnswerText("reference, unmarked", f"It must be {example.answer}.", False)
    for name, change in ERRORS.items():
        if (changed := change(example.answer)) is not None:
            yield from (AnswerText(name, template.format(changed), False) for template in _FORMS.values())
    if (other := other_answer(examples, index)) is not None:
        yield from (AnswerText("another's answer", template.format(other), False) for template in _FORMS.values())
        yield AnswerText("then another's", f"#### {example.answer}\nNo, the answer is {other}.", False)


def rewritten(answer: str) -> str:
    r"""Return LaTeX of the same meaning in another notation: ``\displaystyle``, ``\dfrac``, no ``\left``, spaces."""
    if "\\" in answer:
        answer = "\\displaystyle " + answer
    return re.sub(r"([+=])", r" \1 ", answer.replace(r"\frac", r"\dfrac").replace(r"\left", "").replace(r"\right", ""))


def with_other_sign(answer: str) -> str | None:
    """Return an answer with a minus sign before it, or without the one it has; None without a digit other than 0."""
    if not re.search(r"[1-9]", answer):
        return None
    return answer[1:] if answer.startswith("-") else f"-{answer}"


def with_other_last_digit(answer: str) -> str | None:
    """Return an answer with its last digit changed; None if it has none."""
    digits = list(re.finditer(r"\d", answer))
    if not digits:
        return None
    last = digits[-1]
    return f"{answer[: last.start()]}{(int(last[0]) + 1) % 10}{answer[last.end() :]}"


def with_other_option(answer: str) -> str | None:
    """Return an answer with the next letter of a choice such as ``(B)``; None if it is none."""
    changed = _OPTION.sub(lambda match: "A" if match[0] == "Z" else chr(ord(match[0]) + 1), answer)
    return None if changed == answer else changed


def other_answer(examples: Sequence[Example], index: int) -> str | None:
    """Return the answer of the next example whose answer has other digits or other words; None if there is none."""
    parts = _parts(examples[index].answer)
    for example in (*examples[index + 1 :], *examples[:index]):
        if _parts(example.answer) != parts:
            return example.answer
    return None


def _parts(answer: str) -> list[str]:
    """Return the numbers of an answer with their signs, or its words if it has none."""
    return re.findall(r"-?\d[\d.]*", answer.replace(",", "")) or answer.lower().split()


#: What may be wrong with an answer.
ERRORS: dict[str, Callable[[str], str | None]] = {
    "sign": with_other_sign,
    "last digit": with_other_last_digit,
    "option": with_other_option,
}
