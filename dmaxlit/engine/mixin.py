"""Prompts in, texts out: what a module can do once it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from dmaxlit.data.encoding import encode_prompt
from dmaxlit.decoding import Decoder, make_decoder
from dmaxlit.engine.block_decoder import BlockDecoder
from dmaxlit.engine.generation import Generation
from dmaxlit.engine.sampler import Sampler
from dmaxlit.engine.stream import Draft, drafts
from dmaxlit.engine.trace import Trace

if TYPE_CHECKING:
    from dmaxlit.backbone.denoiser import Denoiser

__all__ = ["GenerationMixin"]


class GenerationMixin:
    """The part of :class:`dmaxlit.DMaxModule` that decodes. Needs its ``backbone`` and ``tokenizer``."""

    if TYPE_CHECKING:
        backbone: Denoiser

        @property
        def tokenizer(self) -> PreTrainedTokenizerBase: ...  # noqa: D102

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt, through the chat template if the tokenizer has one."""
        return encode_prompt(self.tokenizer, prompt)

    def generate(
        self,
        prompts: Sequence[str],
        decoder: str | Decoder = "spd",
        max_new_tokens: int = 256,
        batch_size: int = 64,
        max_forwards: int | None = None,
        progress: bool | Callable[[int], object] = False,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        trace: Trace | None = None,
        compile: bool = False,
        **decoder_options: Any,
    ) -> list[Generation]:
        """Decode prompts.

        Args:
            prompts: The prompts' texts.
            decoder: A decoder, or its registered name.
            max_new_tokens: Budget of tokens for each prompt, EOS included.
            batch_size: Rows that share a forward. It changes the speed, not the answers.
            max_forwards: Budget of forwards for each prompt; None for no limit.
            progress: Show a progress bar, or call this with the number of responses finished since the last call.
            temperature: At least 0; 0 takes the most probable tokens.
            top_p: In (0, 1]; tokens are drawn from the smallest set of that probability.
            seed: Seed of the draws. They depend on it and on a prompt's place in the list, not on the batch.
            stop: Texts that end a response like EOS does; its ``text`` ends before them.
            trace: Takes a record of every forward.
            compile: Compile the forwards; see :class:`~dmaxlit.engine.BlockDecoder`.
            decoder_options: Options of the decoder named, for instance ``tau_dec=0.3``.

        Returns:
            One :class:`Generation` a prompt, in order.

        Raises:
            UserError: For an unknown decoder or option, no prompts, or a prompt longer than the context.
        """
        sampler, decoder = Sampler(temperature, top_p, seed), make_decoder(decoder, **decoder_options)
        engine = BlockDecoder(
            self.backbone, decoder, batch_size, max_forwards=max_forwards, sampler=sampler, stop=stop, compile=compile
        )
        rows = engine.generate([self.encode_prompt(prompt) for prompt in prompts], max_new_tokens, progress, trace)
        return [
            Generation.from_row(row, prompt, self.tokenizer, engine.stop)
            for row, prompt in zip(rows, prompts, strict=True)
        ]

    def stream(
        self,
        prompt: str,
        decoder: str | Decoder = "spd",
        max_new_tokens: int = 256,
        max_forwards: int | None = None,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        **decoder_options: Any,
    ) -> Iterator[Draft]:
        """Decode one prompt and yield its response in the making after every forward; arguments of :meth:`generate`.

        The last draft holds the finished :class:`Generation`, the same that :meth:`generate` returns.
        """
        sampler, decoder = Sampler(temperature, top_p, seed), make_decoder(decoder, **decoder_options)
        engine = BlockDecoder(self.backbone, decoder, 1, max_forwards=max_forwards, sampler=sampler, stop=stop)
        return drafts(engine, self.encode_prompt(prompt), max_new_tokens, prompt)
