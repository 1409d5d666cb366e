"""Predictions of a denoiser whose logits are computed when needed, a chunk of positions at a time."""

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from dmaxlit.backbone.auxiliary import AuxiliaryModel
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.backbone.eval_mode import evaluating
from dmaxlit.noise.base import Prediction
from dmaxlit.training.chunked_logits import Head, Score, chunked_sum, chunks, head_cast_once


class OutputHead:
    """The output layer of a denoiser or its auxiliary model, as a :class:`~dmaxlit.training.chunked_logits.Head`.

    Args:
        owner: The denoiser or the auxiliary model.
        has_dropout: Whether an output layer that is training with dropout, as adapters may, computes with it.
    """

    def __init__(self, owner: Denoiser | AuxiliaryModel, has_dropout: bool = True) -> None:
        self._owner = owner
        self._evaluated = [] if has_dropout else list(self._modules())
        self.vocab_size = owner.vocab_size

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return logits ``[..., vocab_size]`` of hidden states ``[..., width]``."""
        with evaluating(self._evaluated):
            return self._owner.logits(hidden)

    def parameters(self) -> Iterator[Tensor]:
        """Return the parameters of the output layer, and those that a subclass with its own ``logits`` adds."""
        yield from self._layer.parameters()
        if self._is_overridden:
            of_model = set(self._owner.model.parameters())
            yield from (parameter for parameter in self._owner.parameters() if parameter not in of_model)

    def _modules(self) -> Iterator[nn.Module]:
        """Return the modules of the same."""
        yield from self._layer.modules()
        if self._is_overridden:
            of_model = set(self._owner.model.modules())
            yield from (module for module in self._owner.modules() if module not in of_model)

    @property
    def _layer(self) -> nn.Module:
        return self._owner.model.get_output_embeddings()  # type: ignore[no-any-return]

    @property
    def _is_overridden(self) -> bool:
        return type(self._owner).logits not in (Denoiser.logits, AuxiliaryModel.logits)


class ChunkedPrediction(Prediction):
    """A prediction that holds hidden states and computes logits in chunks.

    Args:
        hidden: ``[n, width]`` hidden states.
        positions: ``[batch, length]`` bool with ``n`` True values.
        head: Turns hidden states into logits.
    """

    def __init__(self, hidden: Tensor, positions: Tensor, head: Head) -> None:
        super().__init__(positions)
        self._hidden = hidden
        self._head = head
        # A view that is predicted without gradients has none later either.
        self._requires_grad = torch.is_grad_enabled()

    @cached_property
    def logits(self) -> Tensor:
        """``[n, vocab]``, with gradients if the view requires them."""
        with torch.set_grad_enabled(self._requires_grad):
            return self._head(self._hidden)

    @property
    def states(self) -> Tensor:
        """``[n, width]`` hidden states, without gradients."""
        return self._hidden.detach()

    @property
    def head(self) -> Head:
        """The output layer."""
        return self._head

    def map(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """Return ``function(logits, *values)``, computed chunk by chunk without gradients, of float32 logits."""
        with torch.no_grad():
            slices = self._chunks()
            if len(slices) == 1:
                return function(self.logits.detach().float(), *values)
            with head_cast_once(self._hidden.device):
                results = [
                    function(self._head(self._hidden[chunk]).float(), *(value[chunk] for value in values))
                    for chunk in slices
                ]
            return torch.cat(results)

    def sum(self, score: Score) -> Tensor:
        """Return the sum of a score over all positions, chunk by chunk if their logits are many."""
        with torch.set_grad_enabled(self._requires_grad and torch.is_grad_enabled()):
            if len(self._chunks()) == 1:
                return score(self.logits, slice(0, self._hidden.shape[0]))
            return chunked_sum(score, self._hidden, self._head)

    def _chunks(self) -> list[slice]:
        return chunks(self._hidden, self._head.vocab_size)
