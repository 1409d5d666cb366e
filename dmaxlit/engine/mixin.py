"""Prompts in, responses out: the decoding methods of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from dmaxlit.data.encoding import Prompt, encode_prompt
from dmaxlit.data.lost_turns import warn_of_losses
from dmaxlit.decoding import Decoder
from dmaxlit.decoding.admission import AdmissionPolicy
from dmaxlit.engine.default_decoding import DefaultDecoding
from dmaxlit.engine.generation import Generation
from dmaxlit.engine.prompts import Prompts, as_prompt, as_prompts
from dmaxlit.engine.request import DecodedSequence
from dmaxlit.engine.settings import DecodeSettings
from dmaxlit.engine.stream import Draft, drafts
from dmaxlit.engine.trace import Trace
from dmaxlit.errors import PromptError, UserError

if TYPE_CHECKING:
    from dmaxlit.backbone.denoiser import Denoiser

__all__ = ["GenerationMixin"]


class GenerationMixin(DefaultDecoding):
    """The part of :class:`dmaxlit.DMaxModule` that decodes. It needs its ``backbone`` and ``tokenizer``."""

    if TYPE_CHECKING:
        backbone: Denoiser

        @property
        def tokenizer(self) -> PreTrainedTokenizerBase: ...  # noqa: D102

    def encode_prompt(self, prompt: str | Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the token ids of a prompt, through the chat template if the tokenizer has one.

        Args:
            prompt: A text, which is the user's turn of a chat, or a list of chat messages.

        Raises:
            UserError: For anything else.
        """
        return encode_prompt(self.tokenizer, as_prompt(prompt))

    def generate(
        self,
        prompts: Prompts,
        decoder: str | Decoder | None = None,
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
        check_decoder: bool = True,
        window: int = 1,
        admission: str | AdmissionPolicy = "progress",
        admission_options: Mapping[str, Any] | None = None,
        **decoder_options: Any,
    ) -> list[Generation]:
        """Decode prompts.

        Args:
            prompts: One prompt or many. A text is one prompt; a list of chat messages (dictionaries with ``role`` and
                ``content``) is one prompt; a list of these are many. A text is the user's turn if the tokenizer has a
                chat template.
            decoder: A decoder, or its registered name. Default: the one that the model was judged with, with its
                options (see :meth:`set_decoding`), or ``spd``.
            max_new_tokens: Most tokens of each response, EOS included.
            batch_size: Prompts that share a forward. It changes the speed, not the responses; in bfloat16
                a near-tie may be rounded differently in another batch.
            max_forwards: Most forwards for each prompt; None for no limit.
            progress: Show a progress bar, or call this after each forward with the number of responses it finished.
            temperature: At least 0; 0 takes the most probable tokens.
            top_p: In (0, 1]; tokens are sampled from the smallest set with that probability.
            seed: Seed of the samples. They depend on it and on a prompt's index in the list, not on the batch.
            stop: Texts that end a response as EOS does; its ``text`` ends before them. A special token may be one.
            trace: Records every forward.
            compile: Compile the forwards; see :class:`~dmaxlit.engine.BlockDecoder`.
            check_decoder: Check what a decoder of your own returns in the first forwards of this call.
            window: Most blocks of a prompt that are open at once, at least 1; see
                :class:`~dmaxlit.engine.BlockDecoder`.
            admission: Says when a window takes in the next block: a policy, or its registered name.
            admission_options: Options of a policy given by name.
            decoder_options: Options of the decoder, for instance ``tau_dec=0.3``; none of a ready one.

        Returns:
            One :class:`Generation` per prompt, in order; a list of one for one prompt.

        Raises:
            UserError: For an unknown decoder or option, no prompts, something that is no prompt, or a prompt longer
                than the context.
        """
        settings = self._settings(
            decoder,
            decoder_options,
            admission_options,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            max_forwards=max_forwards,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop,
            compile=compile,
            check_decoder=check_decoder,
            window=window,
            admission=admission,
        )
        return self.generate_batch(prompts, settings, progress=progress, trace=trace)

    def generate_batch(
        self,
        prompts: Prompts,
        settings: DecodeSettings | Mapping[str, Any],
        first_index: int | Sequence[int] = 0,
        progress: bool | Callable[[int], object] = False,
        trace: Trace | None = None,
        on_response: Callable[[int, Generation], object] | None = None,
    ) -> list[Generation]:
        """Decode prompts that may be part of a longer list; what :meth:`generate` and the command line call.

        Args:
            prompts: As in :meth:`generate`.
            settings: How to decode them, or the arguments of :class:`DecodeSettings`.
            first_index: Index of the first prompt in the longer list, or the index of each. Samples depend on it.
            progress: As in :meth:`generate`.
            trace: Records every forward; if decoding ends with an exception, those until then.
            on_response: Called with the index of a prompt in ``prompts`` and its response, as soon as that is finished.

        Returns:
            One :class:`Generation` per prompt, in order.

        Raises:
            UserError: As :meth:`generate`.
        """
        settings = DecodeSettings.of(settings)
        engine = settings.make_engine(self.backbone, first_index)
        every_prompt = as_prompts(prompts)
        warn_of_losses(self.tokenizer, every_prompt)
        prompt_ids = [self._encode(index, prompt) for index, prompt in enumerate(every_prompt)]
        responses: dict[int, Generation] = {}

        def finish(index: int, sequence: DecodedSequence) -> None:
            responses[index] = Generation.from_sequence(sequence, every_prompt[index], self.tokenizer, engine.stop)
            if on_response is not None:
                on_response(index, responses[index])

        try:
            engine.decode(prompt_ids, settings.max_new_tokens, progress, trace, finish)
        finally:
            if isinstance(trace, Trace):
                trace.stop(settings.max_new_tokens)
                trace.describe(self.tokenizer, every_prompt, settings.title)
        return [responses[index] for index in range(len(every_prompt))]

    def _settings(
        self,
        decoder: str | Decoder | None,
        decoder_options: dict[str, Any],
        admission_options: Mapping[str, Any] | None,
        **others: Any,
    ) -> DecodeSettings:
        name, options = self.default_decoding(decoder, decoder_options)
        policy_options = dict(admission_options or {})
        return DecodeSettings(decoder=name, decoder_options=options, admission_options=policy_options, **others)

    def _encode(self, index: int, prompt: Prompt) -> list[int]:
        try:
            return self.encode_prompt(prompt)
        except UserError as error:
            raise PromptError(index, str(error)) from error

    def stream(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        decoder: str | Decoder | None = None,
        max_new_tokens: int = 256,
        max_forwards: int | None = None,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        check_decoder: bool = True,
        window: int = 1,
        admission: str | AdmissionPolicy = "progress",
        admission_options: Mapping[str, Any] | None = None,
        **decoder_options: Any,
    ) -> Iterator[Draft]:
        """Decode one prompt and yield a draft of its response after every forward.

        The last draft holds the finished :class:`Generation`, the same that :meth:`generate` returns for the same
        arguments.

        Args:
            prompt: A text, or a list of chat messages, as in :meth:`generate`.
            decoder: As in :meth:`generate`, like all arguments below.
            max_new_tokens: Most tokens of the response, EOS included.
            max_forwards: Most forwards; None for no limit.
            temperature: At least 0; 0 takes the most probable tokens.
            top_p: In (0, 1]; tokens are sampled from the smallest set with that probability.
            seed: Seed of the samples.
            stop: Texts that end the response as EOS does.
            check_decoder: Check what a decoder of your own returns in the first forwards.
            window: As in :meth:`generate`, like the two arguments below.
            admission: Says when a window takes in the next block.
            admission_options: Options of a policy given by name.
            decoder_options: Options of a decoder given by name.

        Raises:
            UserError: As :meth:`generate`, before the first draft; also for several prompts, and for the arguments of
                :meth:`generate` that are not here.
        """
        for other in ("batch_size", "progress", "trace", "compile"):
            if other in decoder_options:
                raise UserError(f"{other}: expected by generate alone, got it in stream, which decodes one prompt")
        settings = self._settings(
            decoder,
            decoder_options,
            admission_options,
            max_new_tokens=max_new_tokens,
            batch_size=1,
            max_forwards=max_forwards,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop,
            check_decoder=check_decoder,
            window=window,
            admission=admission,
        )
        engine = settings.make_engine(self.backbone)
        one = as_prompt(prompt)
        warn_of_losses(self.tokenizer, [one])
        return drafts(engine, self.encode_prompt(one), max_new_tokens, one)
