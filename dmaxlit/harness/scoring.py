"""The part of the model that lm-evaluation-harness asks for likelihoods."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from dmaxlit.bars import make_bar
from dmaxlit.data.encoding import encode_responses
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.evaluation.likelihood import Continuation, Likelihood
from dmaxlit.harness.contexts import Chat, Contexts

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from dmaxlit.module import DMaxModule


class ScoringLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """Scores continuations and whole texts by :class:`~dmaxlit.evaluation.likelihood.Likelihood`.

    :class:`~dmaxlit.harness.adapter.DMaxLM` sets the attributes.
    """

    _module: DMaxModule
    _contexts: Contexts
    _mc_samples: int
    _seed: int | None
    max_length: int
    batch_size: int

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the bound on the log-likelihood of each text, in lm-eval's windows if it is longer than the context.

        Each window has as much context as fits, and the first one the prefix token; each token is scored once.

        Args:
            requests: Each with its text.
            disable_tqdm: Show no progress bar.
        """
        continuations, owners = list[Continuation](), list[int]()
        for index, request in enumerate(requests):
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,  # lm-eval does not count the last token, which no input holds
                context_len=1,
            )
            for context, tokens in map(make_disjoint_window, windows):
                continuations.append(Continuation(context, tokens))
                owners.append(index)
        sums = [0.0] * len(requests)
        scores = self._score(continuations, "loglikelihood_rolling", disable_tqdm)
        for owner, (bound, _) in zip(owners, scores, strict=True):
            sums[owner] += bound
        for request, bound in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, bound)
        return sums

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if isinstance(context, Chat):  # whose text alone would not give its tokens
            return self._contexts.encode(context), encode_responses(self.tokenizer, [continuation])[0]
        pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
        return pair

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **options: Any
    ) -> list[tuple[float, bool]]:
        continuations = [self._fitted(context, tokens) for _, context, tokens in requests]
        cut = sum(len(one.context) < len(context) for one, (_, context, _) in zip(continuations, requests, strict=True))
        if cut:
            warnings.warn(
                f"contexts: {cut} of {len(requests)} are too long for the {self.max_length} tokens of the context with "
                "what follows them; their beginnings are cut off",
                DMaxWarning,
                stacklevel=2,
            )
        scores = self._score(continuations, "loglikelihood", disable_tqdm)
        for (texts, _, _), score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, score)
        return scores

    def _fitted(self, context: list[int], tokens: list[int]) -> Continuation:
        room = self.max_length - len(tokens)
        if room < 0:
            raise UserError(f"continuation: expected at most {self.max_length} tokens, got {len(tokens)}")
        return Continuation(context[max(0, len(context) - room) :], tokens)

    def _score(self, continuations: Sequence[Continuation], name: str, disable_tqdm: bool) -> list[tuple[float, bool]]:
        """Return bound and greediness of each continuation; one without tokens is certain."""
        scored = [index for index, continuation in enumerate(continuations) if continuation.tokens]
        likelihood = Likelihood(self._module.backbone, self._mc_samples, self._seed_of_run(), self.batch_size)
        scores = [(0.0, True)] * len(continuations)
        with make_bar(total=len(scored), desc=name, unit="continuation", disable=disable_tqdm) as bar:
            for index, bound, is_greedy in likelihood([continuations[index] for index in scored]):
                scores[scored[index]] = bound, is_greedy
                bar.update()
        return scores

    def _seed_of_run(self) -> int:
        return torch.initial_seed() if self._seed is None else self._seed
