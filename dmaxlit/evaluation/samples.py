"""Sample answers as Markdown and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dmaxlit.engine import Generation
from dmaxlit.tasks import Example

_LEGEND = (
    "right/wrong: the task's verdict · tokens: up to and including EOS · forwards: of the model, for this answer · "
    "TPF: tokens per forward"
)


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


def samples_text(samples: Sequence[Sample], title: str) -> str:
    """Format answers as Markdown: the decoder, what the figures mean, and each answer under its verdict and prompt.

    Args:
        samples: The answers.
        title: The decoder with its options.
    """
    right = sum(sample.right for sample in samples)
    head = f"**{title}** · {right} of these {len(samples)} are right\n\n{_LEGEND}"
    return "\n\n---\n\n".join([head, *map(_sample_text, samples)])


def sample_rows(samples: Sequence[Sample], title: str) -> list[dict[str, Any]]:
    """Return answers as rows of a table.

    Args:
        samples: The answers.
        title: The decoder with its options.
    """
    return [
        {
            "decoder": title,
            "verdict": "right" if sample.right else "wrong",
            "prompt": sample.example.prompt,
            "answer": sample.answer.text,
            "expected": sample.example.answer or "",
            "tokens": sample.answer.num_tokens,
            "forwards": sample.answer.num_forwards,
            "tpf": sample.answer.num_tokens / sample.answer.num_forwards,
            "finished": sample.answer.finished,
            "blocks_at_step_limit": sample.answer.hit_step_limit,
        }
        for sample in samples
    ]


def _sample_text(sample: Sample) -> str:
    answer, example = sample.answer, sample.example
    summary = [
        "✔ right" if sample.right else "✘ **wrong**",
        f"{answer.num_tokens} tokens in {answer.num_forwards} forwards",
        f"TPF {answer.num_tokens / answer.num_forwards:.2f}",
    ]
    if not answer.finished:
        summary.append("not finished")
    if answer.hit_step_limit:
        summary.append(f"{answer.hit_step_limit} blocks hit the step limit")
    paragraphs = [" · ".join(summary), "Prompt", _wrapped(example.prompt), "Answer", _wrapped(answer.text)]
    if example.answer and not sample.right:
        paragraphs += ["Expected", _wrapped(example.answer)]
    return "\n\n".join(paragraphs)


def _wrapped(text: str) -> str:
    """Indent text, so that Markdown renders it verbatim, with lines that fit TensorBoard's card."""
    return "\n".join(f"    {piece}" for line in text.splitlines() or [""] for piece in _pieces(line))


def _pieces(line: str, width: int = 100) -> list[str]:
    """Return a line in pieces of at most ``width`` characters, cut after spaces where there are any."""
    pieces = []
    while len(line) > width:
        cut = line.rfind(" ", 1, width + 1) + 1 or width
        pieces.append(line[:cut].rstrip(" "))
        line = line[cut:]
    return [*pieces, line]
