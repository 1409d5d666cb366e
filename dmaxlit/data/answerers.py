"""Who answers prompts: a model in this process, or a server."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from dmaxlit.data.assistant_turn import response_content
from dmaxlit.data.encoding import Prompt
from dmaxlit.data.identity import model_identity
from dmaxlit.data.prompt_shares import prompt_lengths
from dmaxlit.data.response_rows import Generate, Response
from dmaxlit.errors import UserError
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks.prompts import conversation_of, is_plain

if TYPE_CHECKING:
    from dmaxlit.data.answer_server import AnswerServer
    from dmaxlit.data.distill_settings import DistillSettings


class Answerer(Protocol):
    """Answers prompts."""

    def identity(self) -> dict[str, Any]:
        """Return what the answers depend on besides prompts and settings, for the manifest."""

    def asked(self, prompt: Prompt) -> Prompt:
        """Return a prompt as a corpus has it: messages, or a text; refuse one that a corpus has no form for."""

    def lengths(self, prompts: Sequence[Prompt]) -> Sequence[int]:
        """Return the length of each prompt, by which they are ordered; refuse those that cannot be answered."""

    def generator(self, settings: "DistillSettings", stop: Sequence[str], is_answered: bool) -> Generate:
        """Return a function that answers prompts, and passes on each response as it is finished.

        Args:
            settings: How to answer.
            stop: Texts that end a response.
            is_answered: Whether others of the prompts have been answered before.
        """

    def content(self, prompt: Prompt, text: str) -> str:
        """Return the text of a response as it stands in a corpus."""


class ModelAnswerer:
    """A model of this process.

    Args:
        module: A :class:`~dmaxlit.module.DMaxModule`.
    """

    def __init__(self, module: Any) -> None:
        self._module = module

    def identity(self) -> dict[str, Any]:
        """Return hashes of the weights and the chat template, and the block length."""
        return model_identity(self._module)

    def asked(self, prompt: Prompt) -> Prompt:
        """Return messages for a chat template, and the text without one.

        Raises:
            UserError: For a text to continue, on which ``fit`` would apply the chat template.
        """
        if self._module.tokenizer.chat_template is None:
            return prompt
        if is_plain(prompt):
            raise UserError(
                "expected a conversation, as `fit` applies the model's chat template to all prompts of a corpus, got a "
                "text to continue (chat: false)"
            )
        asked: Prompt = conversation_of(prompt)
        return asked

    def lengths(self, prompts: Sequence[Prompt]) -> Sequence[int]:
        """Return the tokens of each prompt; see :func:`~dmaxlit.data.prompt_shares.prompt_lengths`."""
        return prompt_lengths(self._module.tokenizer, self._module.backbone.max_length, prompts)

    def generator(self, settings: "DistillSettings", stop: Sequence[str], is_answered: bool) -> Generate:
        """Return a function that decodes prompts; see :meth:`Answerer.generator`."""
        device = next(self._module.backbone.model.parameters()).device
        decoding = {**settings.decoding(), "stop": stop}

        def generate(
            prompts: Sequence[Prompt],
            indices: Sequence[int],
            take: Callable[[int, Response], object],
            tick: Callable[[int], object],
        ) -> object:
            # For decoders of one's own that use the global generator; the samples of ours do not.
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(stable_seed("distill", settings.seed, indices[0]))
                return self._module.generate_batch(prompts, decoding, indices, progress=tick, on_response=take)

        return generate

    def content(self, prompt: Prompt, text: str) -> str:
        """Return the text without what the chat template adds to the assistant's turn."""
        return response_content(self._module.tokenizer, prompt, text)


class ServerAnswerer:
    """A server.

    Args:
        server: The server.
    """

    def __init__(self, server: "AnswerServer") -> None:
        self._server = server

    def identity(self) -> dict[str, Any]:
        """Return where the server is, the name of the model there, and the fields of requests."""
        return {"server": self._server.identity()}

    def asked(self, prompt: Prompt) -> Prompt:
        """Return what the server gets; see :meth:`~dmaxlit.data.answer_server.AnswerServer.asked`."""
        return self._server.asked(prompt)

    def lengths(self, prompts: Sequence[Prompt]) -> Sequence[int]:
        """Return the characters of each prompt: its tokens are the server's affair."""
        return [len(str(conversation_of(prompt))) for prompt in prompts]

    def generator(self, settings: "DistillSettings", stop: Sequence[str], is_answered: bool) -> Generate:
        """Return a function that asks the server; see :meth:`Answerer.generator`."""
        assert settings.max_new_tokens is not None, "resolved before"
        max_new_tokens = settings.max_new_tokens

        def generate(
            prompts: Sequence[Prompt],
            indices: Sequence[int],
            take: Callable[[int, Response], object],
            tick: Callable[[int], object],
        ) -> None:
            nonlocal is_answered
            is_answered = self._server.generate(
                prompts,
                indices,
                take,
                tick,
                max_new_tokens=max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=settings.seed,
                stop=stop,
                is_answered=is_answered,
            )

        return generate

    def content(self, prompt: Prompt, text: str) -> str:
        """Return the text: the server has removed what its template adds."""
        return text
