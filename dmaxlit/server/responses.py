"""The bodies of responses, as OpenAI's API has them."""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dmaxlit.engine.generation import Generation
from dmaxlit.engine.stream import Draft
from dmaxlit.server.metrics import finish_reason
from dmaxlit.version import __version__


@dataclass(frozen=True)
class Format:
    """How the responses to a request are written: as completions of texts, or as turns of chats.

    Args:
        model: Name of the model.
        is_chat: Whether they are turns of chats.
        seed: Seed of the samples, which is part of the body; None for none.
        with_usage: Whether chunks have a field for the counts of tokens.
    """

    model: str
    is_chat: bool
    seed: int | None = None
    with_usage: bool = False
    _id: str = field(default_factory=lambda: secrets.token_hex(12))
    _created: int = field(default_factory=lambda: int(time.time()))

    def body(
        self, generations: Sequence[Generation], prompt_ids: Sequence[Sequence[int]], with_ids: bool
    ) -> dict[str, Any]:
        """Return the body of a whole response.

        Args:
            generations: The responses; equally many to each prompt, in order.
            prompt_ids: Token ids of the prompts.
            with_ids: Whether to return token ids.
        """
        per_prompt = len(generations) // len(prompt_ids)
        choices = []
        for index, generation in enumerate(generations):
            text: dict[str, Any] = {"text": generation.text}
            if self.is_chat:
                text = {"message": {"role": "assistant", "content": generation.text, "refusal": None}}
            choice = {"index": index, **text, "logprobs": None, **_end(generation)}
            if with_ids:
                choice["token_ids"] = generation.token_ids
                choice["prompt_token_ids"] = list(prompt_ids[index // per_prompt])
            choices.append(choice)
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": usage(generations, prompt_ids)}

    def first(self, index: int) -> bytes:
        """Return the chunk that opens a turn of a chat."""
        return self._chunk([self._choice(index, {"role": "assistant", "content": ""})])

    def text(self, index: int, text: str) -> bytes:
        """Return a chunk of committed text."""
        return self._chunk([self._choice(index, {"content": text} if self.is_chat else {"text": text})])

    def end(self, index: int, generation: Generation) -> bytes:
        """Return the chunk that ends a response."""
        return self._chunk([self._choice(index, {} if self.is_chat else {"text": ""}) | _end(generation)])

    def provisional(self, index: int, draft: Draft) -> bytes:
        """Return an event with the text of the open blocks, which the next one replaces."""
        provisional = {"index": index, "text": draft.provisional, "num_forwards": draft.num_forwards}
        return b"event: provisional\n" + self._chunk([], provisional=provisional)

    def usage(self, generations: Sequence[Generation], prompt_ids: Sequence[Sequence[int]]) -> bytes:
        """Return the chunk with the counts of tokens."""
        return self._chunk([], usage=usage(generations, prompt_ids))

    def _choice(self, index: int, content: dict[str, Any]) -> dict[str, Any]:
        content = {"delta": content} if self.is_chat else content
        return {"index": index, **content, "logprobs": None, "finish_reason": None}

    def _chunk(self, choices: list[dict[str, Any]], **fields: Any) -> bytes:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        empty = {"usage": None} if self.with_usage else {}
        return event({**self._head(kind), "choices": choices, **empty, **fields})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.is_chat else 'cmpl'}-{self._id}",
            "object": kind,
            "created": self._created,
            "model": self.model,
            "system_fingerprint": f"dmaxlit-{__version__}",
            **({} if self.seed is None else {"seed": self.seed}),
        }


def event(content: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def usage(generations: Sequence[Generation], prompt_ids: Sequence[Sequence[int]]) -> dict[str, int]:
    """Return the counts of tokens; those of a prompt count once, EOS counts as a token of a response."""
    prompt, response = sum(map(len, prompt_ids)), sum(generation.num_tokens for generation in generations)
    return {"prompt_tokens": prompt, "completion_tokens": response, "total_tokens": prompt + response}


def _end(generation: Generation) -> dict[str, Any]:
    """Return why a response ended, and what it took."""
    return {"finish_reason": finish_reason(generation), "num_forwards": generation.num_forwards}
