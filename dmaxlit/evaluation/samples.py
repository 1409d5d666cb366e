"""Sample answers as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from dmaxlit.engine import Generation
from dmaxlit.tasks import Example


@dataclass(frozen=True)
class Sample:
    """One answer with its verdict.

    Args:
        example: The prompt with its checker.
        answer: The decoded answer.
        right: The checker's verdict.
    """

    example: Example
    answer: Generation
    right: bool


def samples_text(samples: Sequence[Sample]) -> str:
    """Format answers as Markdown: verdict, tokens and forwards, prompt and answer."""
    return "\n\n---\n\n".join(_sample_text(sample) for sample in samples)


def _sample_text(sample: Sample) -> str:
    answer, example = sample.answer, sample.example
    summary = [
        "right" if sample.right else "**wrong**",
        f"{answer.num_tokens} tokens in {answer.num_forwards} forwards",
        f"TPF {answer.num_tokens / answer.num_forwards:.2f}",
    ]
    if not answer.finished:
        summary.append("not finished")
    if answer.hit_step_limit:
        summary.append(f"{answer.hit_step_limit} blocks hit the step limit")
    paragraphs = [" · ".join(summary), "Prompt", _verbatim(example.prompt), "Answer", _verbatim(answer.text)]
    if example.answer and not sample.right:
        paragraphs += ["Expected", _verbatim(example.answer)]
    return "\n\n".join(paragraphs)


def _verbatim(text: str) -> str:
    """Indent text, so that Markdown renders it verbatim."""
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])
