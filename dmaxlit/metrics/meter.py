"""All metrics of one decoder on one set of prompts, updated together."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from dmaxlit.metrics.accuracy import AnswerAccuracy
from dmaxlit.metrics.ceiling import TokensPerBlock, answer_blocks
from dmaxlit.metrics.rate import FinishedRate, StepLimitRate
from dmaxlit.metrics.tpf import TokensPerForward
from dmaxlit.metrics.tpf_interval import TokensPerForwardInterval
from dmaxlit.metrics.tps import TokensPerSecond

__all__ = ["Answer", "DecodeMeter"]


class Answer(Protocol):
    """The fields of a decoded answer that are counted; see :class:`dmaxlit.engine.Generation`."""

    @property
    def num_tokens(self) -> int:
        """Tokens up to and including EOS."""

    @property
    def num_forwards(self) -> int:
        """Forwards the answer took part in."""

    @property
    def finished(self) -> bool:
        """Whether it ends with EOS or a stop text."""

    @property
    def ends_with_eos(self) -> bool:
        """Whether its last token is EOS."""

    @property
    def hit_step_limit(self) -> int:
        """Blocks that reached the step limit before they had converged."""


class DecodeMeter(nn.Module):
    """Accuracy, TPF with its interval and upper bound, TPS and rates of one decoder.

    Args:
        block_length: Tokens per block of the model's grid.

    Raises:
        UserError: For a block length below 1.
    """

    def __init__(self, block_length: int) -> None:
        super().__init__()
        self.accuracy = AnswerAccuracy()
        self.tpf = TokensPerForward()
        self.tpf_interval = TokensPerForwardInterval()
        self.published = TokensPerForward("published")
        self.ceiling = TokensPerBlock(block_length)
        self.tps = TokensPerSecond()
        self.finished = FinishedRate()
        self.hit_step_limit = StepLimitRate()
        self.block_length = block_length

    def update(
        self, answers: Sequence[Answer], right: Sequence[bool], prompt_lengths: Sequence[int], seconds: float
    ) -> None:
        """Count answers that were decoded in one timed call.

        Args:
            answers: The answers.
            right: The checker's verdict on each.
            prompt_lengths: Tokens of each prompt.
            seconds: Duration of the call.

        Raises:
            ValueError: For sequences of different length.
        """
        tokens = _vector([answer.num_tokens for answer in answers])
        forwards = _vector([answer.num_forwards for answer in answers])
        finished = _vector([answer.finished for answer in answers]).bool()
        with_eos = _vector([answer.ends_with_eos for answer in answers]).bool()
        prompts = _vector(prompt_lengths)
        if len(right) != len(answers):
            raise ValueError(f"right: expected {len(answers)} verdicts, got {len(right)}")
        self.accuracy.update(_vector(right))
        self.tpf.update(tokens, forwards, with_eos)
        self.tpf_interval.update(tokens, forwards)
        self.published.update(tokens, forwards, with_eos)
        self.ceiling.update(prompts, tokens)
        self.tps.update(tokens, seconds)
        self.finished.update(finished)
        hit_step_limit = _vector([answer.hit_step_limit for answer in answers])
        self.hit_step_limit.update(hit_step_limit, answer_blocks(prompts, tokens, self.block_length))


def _vector(values: Sequence[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.long)
