"""The figures of one cell of an evaluation, from its rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dmaxlit.evaluation.results import DecodeResult
from dmaxlit.metrics import (
    CONVENTIONS,
    answer_accuracy,
    answer_blocks,
    finished_rate,
    tokens_per_block,
    tokens_per_forward,
    tokens_per_second,
    tpf_interval,
)
from dmaxlit.viewer.notebook import table

# Names of the autoregressive baselines: the first of their forwards reads the prompt.
_COUNT_THE_PROMPT = ("autoregressive", "assisted")


@dataclass(frozen=True)
class CellResult:
    """The figures of a task answered in one way.

    Args:
        task: The task's label.
        title: The setting's title.
        line: The curve that the setting is a point of.
        threshold: Value of the option that varies along the curve, or None.
        samples: Path of the file of samples in the output folder.
        result: Accuracy, TPF, speed and rates.
        tpf: TPF by each rule of counting, by the rule's name.
        counts: The sums that the figures are made of.
        timing: What was measured: ``seconds``, ``batch_size``, ``processes`` and ``resumed``.
    """

    task: str
    title: str
    line: str
    threshold: float | None
    samples: str
    result: DecodeResult
    tpf: dict[str, float]
    counts: dict[str, int]
    timing: dict[str, Any]

    @classmethod
    def of_rows(
        cls,
        rows: Sequence[Mapping[str, Any]],
        timing: Mapping[str, Any],
        *,
        decoder: str,
        options: Mapping[str, Any],
        block_length: int,
        **names: Any,
    ) -> "CellResult":
        """Return the figures of answers.

        Args:
            rows: Rows of a file of samples, at least one.
            timing: What was measured.
            decoder: Name of the decoder.
            options: Its options.
            block_length: Tokens per block.
            **names: ``task``, ``title``, ``line``, ``threshold`` and ``samples``.
        """
        result = decode_result(rows, decoder, options, block_length, timing["seconds"])
        tpf = tpf_by_rule(rows, decoder)
        return cls(result=result, tpf=tpf, counts=count_sums(rows), timing=dict(timing), **names)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: task and setting above the figures."""
        return table([("task", self.task), ("setting", self.title)]) + self.result._repr_html_()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        figures = self.result.to_dict()
        rules = {"tpf", "tpf_published"}  # under their names below
        timed = {"tokens_per_second", "seconds"}
        return {
            "task": self.task,
            "title": self.title,
            "line": self.line,
            "threshold": self.threshold,
            "samples": self.samples,
            **{name: value for name, value in figures.items() if name not in rules | timed},
            "tpf": self.tpf,
            "counts": self.counts,
            "timing": {**self.timing, "tokens_per_second": figures["tokens_per_second"]},
        }


def decode_result(
    rows: Sequence[Mapping[str, Any]], name: str, options: Mapping[str, Any], block_length: int, seconds: float
) -> DecodeResult:
    """Compute the figures of answers.

    Args:
        rows: Rows of a file of samples, at least one.
        name: Name of the decoder.
        options: Its options.
        block_length: Tokens per block.
        seconds: Time spent decoding, summed over devices.
    """
    tokens, forwards, prompts, hits = (
        torch.tensor([row[key] for row in rows])
        for key in ("num_tokens", "num_forwards", "num_prompt_tokens", "hit_step_limit")
    )
    finished = torch.tensor([row["finished"] for row in rows])
    with_eos = ends_with_eos(rows)
    low, high = tpf_interval(tokens, forwards)
    return DecodeResult(
        decoder=name,
        options=dict(options),
        num_examples=len(rows),
        accuracy=float(answer_accuracy(torch.tensor([row["correct"] for row in rows]))),
        tpf=float(tokens_per_forward(tokens, forwards, with_eos)),
        tpf_low=low,
        tpf_high=high,
        tpf_published=tpf_by_rule(rows, name)["published"],
        tpf_ceiling=float(tokens_per_block(prompts, tokens, block_length)),
        forwards_per_answer=float(forwards.double().mean()),
        tokens_per_second=float(tokens_per_second(tokens, seconds)),
        finished=float(finished_rate(finished)),
        blocks_at_step_limit=int(hits.sum()),
        blocks=int(answer_blocks(prompts, tokens, block_length).sum()),
        seconds=seconds,
    )


def tpf_by_rule(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Return the TPF of answers by each rule of counting; see :class:`~dmaxlit.metrics.TokensPerForward`.

    Args:
        rows: Rows of a file of samples.
        name: Name of the decoder. No rule adds a forward for the prompt to those of an autoregressive baseline, which
            hold it already.
    """
    tokens, forwards = (torch.tensor([row[key] for row in rows]) for key in ("num_tokens", "num_forwards"))
    prefill = 0 if name in _COUNT_THE_PROMPT else None
    return {
        rule: float(tokens_per_forward(tokens, forwards, ends_with_eos(rows), rule, prefill)) for rule in CONVENTIONS
    }


def count_sums(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the sums over answers: right ones, tokens, EOS tokens, forwards, prompt tokens and extra blocks."""
    return {
        "prompts": len(rows),
        "correct": sum(bool(row["correct"]) for row in rows),
        "finished": sum(bool(row["finished"]) for row in rows),
        "tokens": sum(row["num_tokens"] for row in rows),
        "eos_tokens": int(ends_with_eos(rows).sum()),
        "forwards": sum(row["num_forwards"] for row in rows),
        "prompt_tokens": sum(row["num_prompt_tokens"] for row in rows),
        "extra_blocks": sum(row.get("num_extra_blocks", 0) for row in rows),
    }


def ends_with_eos(rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """Return whether the last token of each answer is EOS, ``[N]``; a stop text ends an answer without one."""
    return torch.tensor([bool(row["finished"]) and not row.get("stopped", False) for row in rows])
