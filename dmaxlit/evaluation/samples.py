"""Answers as text to look at."""

from collections.abc import Sequence
from dataclasses import dataclass

from dmaxlit.engine import Generation
from dmaxlit.tasks import Example

__all__ = ["Sample", "samples_text"]


@dataclass(frozen=True)
class Sample:
    """One judged answer.

    Args:
        example: The prompt with its checker.
        answer: What was decoded.
        right: The checker's verdict.
    """

    example: Example
    answer: Generation
    right: bool


def samples_text(samples: Sequence[Sample]) -> str:
    """Markdown of some answers: verdict, tokens and forwards, prompt and answer."""
    return "\n\n---\n\n".join(_sample_text(sample) for sample in samples)


def _sample_text(sample: Sample) -> str:
    answer, example = sample.answer, sample.example
    told = [
        "right" if sample.right else "**wrong**",
        f"{answer.num_tokens} tokens in {answer.num_forwards} forwards",
        f"TPF {answer.num_tokens / answer.num_forwards:.2f}",
    ]
    if not answer.finished:
        told.append("not finished")
    if answer.hit_step_limit:
        told.append(f"{answer.hit_step_limit} capped blocks")
    parts = [" · ".join(told), "Prompt", _verbatim(example.prompt), "Answer", _verbatim(answer.text)]
    if example.answer and not sample.right:
        parts += ["Expected", _verbatim(example.answer)]
    return "\n\n".join(parts)


def _verbatim(text: str) -> str:
    """An indented block, which Markdown leaves alone whatever stands in it."""
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])
