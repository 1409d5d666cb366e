"""The autoregressive baseline: a model of transformers with greedy decoding, plain or assisted by a smaller model.

Both write the same tokens. Plain decoding takes one forward for each; assisted decoding (speculation) checks several
tokens that the assistant proposes in one forward of the model, and keeps those that the model would have written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from dmaxlit.backbone.formats.config_checks import require_language_model
from dmaxlit.backbone.formats.hub import fetch, hub_commit
from dmaxlit.backbone.formats.metadata import METADATA_FILE, is_autoregressive, read_metadata
from dmaxlit.backbone.formats.model_folder import model_from_folder, was_trained_with_masks, with_its_attention
from dmaxlit.backbone.formats.weight_files import read_config
from dmaxlit.backbone.tokenizer import stored_tokenizer
from dmaxlit.data.encoding import Prompt, encode_prompt
from dmaxlit.data.identity import template_hash
from dmaxlit.engine import Generation
from dmaxlit.engine.end_of_response import eos_ids
from dmaxlit.engine.request import DecodedSequence
from dmaxlit.engine.stop_strings import StopSearch, StopStrings
from dmaxlit.errors import UserError
from dmaxlit.evaluation.answerers import Answerer, Take
from dmaxlit.evaluation.evaluate import WARM_UP_FORWARDS
from dmaxlit.evaluation.limits import Limits
from dmaxlit.weights_hash import model_hash

# Settings of an assistant on which the number of forwards depends, with the defaults of transformers.
_SPECULATION = {
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
}


@dataclass(frozen=True)
class AutoregressiveModel:
    """An autoregressive model with its tokenizer.

    Args:
        source: What the user named: folder or hub id.
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        weights: Hash of its weights.
        eos_ids: The tokens that end an answer, by the rule of our own engine.
    """

    source: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: str
    eos_ids: frozenset[int]

    @classmethod
    def load(cls, source: str, argument: str, device: torch.device, dtype: str) -> AutoregressiveModel:
        """Load a model; no code of the checkpoint is run.

        Args:
            source: Folder or hub id.
            argument: The user's name for it, for messages.
            device: Device of the model.
            dtype: Type of the weights.

        Raises:
            UserError: If there is no such model, it is a diffusion model, or its config does not say how long a
                sequence may be.
        """
        try:
            folder = fetch(source, weights=False)
            stored = read_config(folder)
            require_language_model(stored, source)
            is_ours = (folder / METADATA_FILE).is_file()
            if was_trained_with_masks(stored) or (is_ours and not is_autoregressive(read_metadata(folder))):
                raise UserError(f"expected an autoregressive model, got {source!r}, a diffusion model")
            tokenizer = stored_tokenizer(folder)
            folder, weights = fetch(source), getattr(torch, dtype)
            model = with_its_attention(lambda attention: model_from_folder(folder, attention, weights))
            if not getattr(model.config, "max_position_embeddings", None):
                raise UserError(f"expected a model with max_position_embeddings in its config, got {source!r}")
        except UserError as error:
            raise UserError(f"{argument}: {str(error).removeprefix('pretrained: ')}") from error
        ends = eos_ids(model, tokenizer)
        model.generation_config = _plain(model.generation_config)
        return cls(source, model.eval().to(device), tokenizer, model_hash(model), ends)

    @property
    def context_length(self) -> int:
        """Longest sequence in tokens."""
        return int(self.model.config.max_position_embeddings)

    def describe(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {
            "source": self.source,
            "revision": hub_commit(self.source),
            "weights_sha256": self.weights,
            "num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "context_length": self.context_length,
        }


class AutoregressiveAnswerer(Answerer):
    """Greedy decoding of one prompt at a time, as transformers does it; a forward is one of the main model.

    Args:
        main: The model.
        assistant: A smaller model that proposes tokens; None for plain decoding.

    Raises:
        UserError: If the assistant has another vocabulary.
    """

    batch_size = 1

    def __init__(self, main: AutoregressiveModel, assistant: AutoregressiveModel | None = None) -> None:
        if assistant is not None and assistant.tokenizer.get_vocab() != main.tokenizer.get_vocab():
            raise UserError(
                f"assistant: expected a model with the vocabulary of {main.source!r}, got {assistant.source!r}"
            )
        self.title = self.line = self.name = "autoregressive" if assistant is None else "assisted"
        self.threshold = None
        self.options = {} if assistant is None else _set_speculation(assistant.model)
        self._main, self._assistant = main, assistant

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self._main.model.device

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self._main.tokenizer

    @property
    def context_length(self) -> int:
        """Longest sequence in tokens."""
        both = (self._main, self._assistant)
        return min(model.context_length for model in both if model is not None)

    def identity(self) -> dict[str, Any]:
        """Return the weights of model and assistant, and what else makes prompts and ends answers."""
        main, assistant = self._main, None if self._assistant is None else self._assistant.weights
        return {
            "decoder": self.name,
            "options": self.options,
            "main": main.weights,
            "assistant": assistant,
            "chat_template": template_hash(main.tokenizer),
            "eos_ids": sorted(main.eos_ids),
        }

    def describe(self) -> dict[str, Any]:
        """Return what a record says of model and assistant."""
        assistant = None if self._assistant is None else self._assistant.describe()
        return {"title": self.title, "model": self._main.describe(), "assistant": assistant}

    def warm_up(self, prompts: Sequence[Prompt], limits: Limits) -> None:
        """Write the first few tokens of the first answer."""
        short = replace(limits, max_new_tokens=min(limits.max_new_tokens, WARM_UP_FORWARDS))
        self._generate(prompts[0], short)

    def answer(self, prompts: Sequence[Prompt], indices: Sequence[int], limits: Limits, take: Take) -> None:
        """Answer prompts one by one; see :meth:`Answerer.answer`."""
        stop = StopStrings(self.tokenizer, limits.stop) if limits.stop else None
        for index, prompt in enumerate(prompts):
            sequence = self._generate(prompt, limits, stop)
            take(index, Generation.from_sequence(sequence, prompt, self.tokenizer, stop), None)

    def _generate(self, prompt: Prompt, limits: Limits, stop: StopStrings | None = None) -> DecodedSequence:
        prompt_ids = encode_prompt(self.tokenizer, prompt)
        ends = sorted(self._main.eos_ids)
        budget = min(limits.max_new_tokens, self.context_length - len(prompt_ids))
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=budget,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else None,
        )
        ids = torch.tensor([prompt_ids], device=self.device)
        search = None if stop is None else stop.begin()
        more: dict[str, Any] = {} if self._assistant is None else {"assistant_model": self._assistant.model}
        if search is not None:
            more["stopping_criteria"] = StoppingCriteriaList([_Stop(search, len(prompt_ids))])
        main: Any = self._main.model
        with torch.no_grad(), _counting_forwards(main) as forwards:
            output = main.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, **more)
        written = output[0, len(prompt_ids) :].tolist()
        # The last forward of plain decoding may be one whose token transformers drops, as on MPS.
        num_forwards = len(written) if self._assistant is None else forwards[0]
        tokens = written[:budget]
        first_eos = next((index for index, token in enumerate(tokens) if token in ends), None)
        finished = first_eos is not None
        end = len(tokens) if first_eos is None else first_eos + 1
        num_until_stop = None if search is None else search(tokens[:end])
        if num_until_stop is None or (finished and num_until_stop == end):
            return DecodedSequence(tokens[:end], num_forwards, finished, 0)
        return DecodedSequence(tokens[:num_until_stop], num_forwards, True, 0, stopped=True)


def _plain(config: Any) -> GenerationConfig:
    """Return a model's generation settings without those that change which tokens are written, and where they end.

    Otherwise ``generate`` would take a penalty of repetitions, for instance, from the model's folder.
    """
    names = ("bos_token_id", "pad_token_id", *_SPECULATION)
    kept = {name: getattr(config, name, None) for name in names}
    return GenerationConfig(**{name: value for name, value in kept.items() if value is not None})


def _set_speculation(assistant: PreTrainedModel) -> dict[str, Any]:
    """Make the settings of an assistant explicit, and the same for each prompt; return them.

    The schedule ``heuristic`` carries a number from prompt to prompt, so that forwards would depend on their order.
    """
    config: Any = assistant.generation_config
    for name, default in _SPECULATION.items():
        if getattr(config, name, None) is None:
            setattr(config, name, default)
    if config.num_assistant_tokens_schedule == "heuristic":
        config.num_assistant_tokens_schedule = "heuristic_transient"
    options = {name: getattr(config, name) for name in _SPECULATION}
    # transformers adapts it to the answer, if it finds that library.
    return {**options, "adapts_confidence_threshold": find_spec("sklearn") is not None}


class _Stop(StoppingCriteria):
    """Ends generation at a stop text, by the rule of our own engine, and like it looks at new tokens only.

    The time that this takes is part of what is measured, so it must not grow with the answer.
    """

    def __init__(self, search: StopSearch, num_prompt_tokens: int) -> None:
        self._search, self._begin = search, num_prompt_tokens
        self._tokens: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return whether each of the sequences ends, ``[1]``."""
        self._tokens += input_ids[0, self._begin + len(self._tokens) :].tolist()
        return torch.tensor([self._search(self._tokens) is not None], device=input_ids.device)


@contextmanager
def _counting_forwards(model: torch.nn.Module) -> Iterator[list[int]]:
    """Yield a list of one number, the forwards of a model until the context ends."""
    count = [0]

    def add(module: torch.nn.Module, inputs: Any) -> None:
        count[0] += 1

    handle = model.register_forward_pre_hook(add)
    try:
        yield count
    finally:
        handle.remove()
