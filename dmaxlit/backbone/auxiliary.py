"""The auxiliary autoregressive model of a denoiser, which says what tokens go together (CoDiLA, arXiv 2603.20216).

It reads ``[<think>, e_1 ... e_B, </think>, b_1 ... b_B]`` and nothing else: ``e_j = sum over v of p_j(v) E(v)`` is the
denoiser's marginal of position j as a mixture of all of the auxiliary model's own embeddings, or the embedding of a
token that is known; b are the tokens of the span. It costs 2 B + 1 positions, however long the text is.

Shapes: n spans of B tokens, V ids of the denoiser, h width of the auxiliary model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from dmaxlit.backbone.compatibility import logit_transform
from dmaxlit.backbone.formats.model_folder import empty_model_of
from dmaxlit.backbone.lora import MASK_DELTA, LoraSettings, add_adapters, check_embedding, merged_model
from dmaxlit.backbone.mask_embedding import embedding_table
from dmaxlit.backbone.transformers_internals import cache_argument, embedding_scale
from dmaxlit.decoding.joint import Choice, Spans, check_span_length
from dmaxlit.errors import UserError
from dmaxlit.tokens import SpecialTokens

__all__ = ["AuxiliaryModel", "AuxiliarySettings"]

_THINK = ("<think>", "</think>")


@dataclass
class AuxiliarySettings:
    """An autoregressive model that is trained on the marginals of a frozen denoiser (CoDiLA, arXiv 2603.20216).

    Args:
        pretrained: Folder or hub id of a causal language model of transformers with the denoiser's tokenizer. Give this
            or ``config``, or neither to go on with the one that the denoiser was exported with.
        config: Settings of a fresh model: ``model_type`` and further fields of its transformers config.
        span_length: Tokens that it decides together, 2 to 8; a divisor of the block length.
        lora: Train low-rank adapters and the think tokens instead of all weights.
    """

    pretrained: str | None = None
    config: dict[str, Any] | None = None
    span_length: int = 4
    lora: LoraSettings | None = None

    @property
    def is_new(self) -> bool:
        """Whether they name a model to begin with."""
        return self.pretrained is not None or self.config is not None

    def check(self, block_length: int) -> None:
        """Refuse settings out of range for blocks of so many tokens.

        Raises:
            UserError: If one is.
        """
        if self.pretrained is not None and self.config is not None:
            raise UserError("auxiliary: expected either pretrained or config, got both")
        check_spans(self.span_length, "auxiliary.span_length")
        check_span_length(self.span_length, block_length)


def check_spans(span_length: object, name: str) -> None:
    """Refuse a span length out of range.

    Raises:
        UserError: If so.
    """
    if type(span_length) is not int or not 2 <= span_length <= 8:
        raise UserError(f"{name}: expected 2 to 8 tokens, got {span_length!r}")


class AuxiliaryModel(nn.Module):
    """A causal language model conditioned on the marginals of a span.

    Args:
        model: The causal language model. Its ids are the denoiser's; rows that either has beyond are not used.
        tokenizer: The denoiser's tokenizer. Its ``<think>`` and ``</think>``, if it has them, are where the model's own
            two think tokens start, else random rows like those of the model's table.
        vocab_size: Ids of the denoiser, V.
        span_length: Tokens of a span, B.

    Raises:
        UserError: If the model lacks ids of the tokenizer, has too few positions, or embeds ids otherwise than by
            scaled rows of a table.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocab_size: int, span_length: int
    ) -> None:
        super().__init__()
        self.model, self.vocab_size, self.span_length = model, vocab_size, span_length
        self.lora: LoraSettings | None = None
        self._special = SpecialTokens.of(tokenizer)
        table = embedding_table(model)
        ids = set(tokenizer.get_vocab().values()) - {self._special.mask_id}
        if max(ids) >= len(table):
            raise UserError(
                f"auxiliary: expected a model with a row for each of the tokenizer's {max(ids) + 1} ids, "
                f"got {len(table)} rows"
            )
        positions = int(getattr(model.config, "max_position_embeddings", None) or 2 * span_length + 2)
        if positions < 2 * span_length + 2:
            raise UserError(
                f"auxiliary: expected at least {2 * span_length + 2} positions for spans of {span_length}, "
                f"got {positions}"
            )
        check_embedding(model.get_input_embeddings(), table)
        self._scale = embedding_scale(model.get_input_embeddings())
        self._num_ids = min(len(table), vocab_size)
        self._logit_transform = logit_transform(model.config)
        self._cache_argument = cache_argument(model.base_model)
        self.think = nn.Parameter(_think_rows(table, tokenizer))

    def add_lora(self, settings: LoraSettings) -> None:
        """Train low-rank adapters and the think tokens instead of all weights."""
        add_adapters(self.model, settings)
        self.lora = settings

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids ``[...]``, ``[..., h]``; the mask token, which the model may lack, as another one."""
        embedded: Tensor = self.model.get_input_embeddings()(torch.where(ids < self._num_ids, ids, 0))
        return embedded

    def mix(self, marginals: Tensor) -> Tensor:
        """Return the expected embedding ``[..., h]`` under distributions ``[..., V]`` of the denoiser."""
        table = embedding_table(self.model)[: self._num_ids]
        weights = marginals[..., : self._num_ids]
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        return self._scale * (weights.to(table.dtype) @ table)

    def hidden(self, conditions: Tensor, tokens: Tensor) -> Tensor:
        """Compute the hidden states that predict each token of spans, ``[n, B, h]``, given those before it.

        Args:
            conditions: ``[n, B, h]`` mixtures, or embeddings of tokens that are known.
            tokens: ``[n, B]`` ids; the last one is not read.
        """
        inputs = torch.cat([self._prompt(conditions), self.embed(tokens[:, :-1])], 1)
        return self._run(inputs, 0, None)[:, -tokens.shape[1] :]

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits ``[..., V]`` from states ``[..., h]``; ``-inf`` for the mask token and ids that nobody has."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)[..., : self._num_ids]
        if self._logit_transform is not None:
            logits = self._logit_transform(logits)
        logits = F.pad(logits, (0, self.vocab_size - logits.shape[-1]), value=-torch.inf)
        self._special.exclude(logits)
        return logits

    def decode(self, spans: Spans, choose: Choice) -> Tensor:
        """Return the tokens that are chosen from left to right; see :class:`~dmaxlit.decoding.JointModel`."""
        cache = DynamicCache()
        inputs, start = self._prompt(self._conditions(spans)), 0
        tokens: list[Tensor] = []
        for position in range(self.span_length):
            hidden = self._run(inputs, start, cache)
            tokens.append(choose(position, self.logits(hidden[:, -1])))
            start += inputs.shape[1]
            inputs = self.embed(tokens[-1]).unsqueeze(1)
        return torch.stack(tokens, 1)

    def score(self, spans: Spans, tokens: Tensor) -> Tensor:
        """Return the logits of each position's token; see :class:`~dmaxlit.decoding.JointModel`."""
        return self.logits(self.hidden(self._conditions(spans), tokens))

    def merged(self) -> PreTrainedModel:
        """Return the model without adapters; the model itself if it has none."""
        return self.model if self.lora is None else merged_auxiliary(self.model.config, self.state_dict(), self.lora)

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint stores beside the weights; JSON types."""
        return {
            "config": self.model.config.to_dict(),
            "span_length": self.span_length,
            "lora": None if self.lora is None else asdict(self.lora),
        }

    def _conditions(self, spans: Spans) -> Tensor:
        return torch.where(spans.masked.unsqueeze(-1), self.mix(spans.marginals), self.embed(spans.ids))

    def _prompt(self, conditions: Tensor) -> Tensor:
        begin, end = (self._scale * self.think).to(conditions.dtype).unsqueeze(1).expand(-1, len(conditions), -1)
        return torch.cat([begin.unsqueeze(1), conditions, end.unsqueeze(1)], 1)

    def _run(self, inputs: Tensor, start: int, cache: DynamicCache | None) -> Tensor:
        positions = torch.arange(start, start + inputs.shape[1], device=inputs.device).expand(len(inputs), -1)
        output = self.model.base_model(
            inputs_embeds=inputs,
            position_ids=positions,
            use_cache=cache is not None,
            **{self._cache_argument: cache},
        )
        hidden: Tensor = output.last_hidden_state
        return hidden


def merged_auxiliary(config: Any, weights: Mapping[str, Tensor], lora: LoraSettings) -> PreTrainedModel:
    """Return the causal language model of an auxiliary model with adapters, these merged.

    Args:
        config: Configuration of the language model.
        weights: Weights of the auxiliary model.
        lora: Settings of the adapters.
    """
    inner = {name.removeprefix("model."): weight for name, weight in weights.items() if name.startswith("model.")}
    empty = empty_model_of(config)
    table = embedding_table(empty)
    name = next(name for name, weight in empty.named_parameters() if weight is table)
    inner[MASK_DELTA] = torch.zeros_like(inner[name][0])  # no row of an auxiliary model is offset
    return merged_model(config, inner, lora, name, 0)


def _think_rows(table: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    ids = [vocabulary.get(text) for text in _THINK]
    if all(index is not None and index < len(table) for index in ids):
        return table.detach()[torch.tensor(ids)].clone()
    random = torch.randn(len(_THINK), table.shape[1], generator=torch.Generator().manual_seed(0))
    rows = table.detach().float().cpu()
    return (rows.mean(0) + rows.std() * random).to(table)
