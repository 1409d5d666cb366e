"""A model of dmaxlit as a model of lm-evaluation-harness."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string

from dmaxlit.bars import make_bar
from dmaxlit.data.chat_template import choose_template
from dmaxlit.data.encoding import encode_responses
from dmaxlit.data.identity import model_identity
from dmaxlit.decoding import make_decoder
from dmaxlit.engine import DecodeSettings, Generation
from dmaxlit.engine.request import DecodedSequence
from dmaxlit.errors import DMaxWarning, UserError, check_choice
from dmaxlit.harness.arguments import check_names, check_single_process, check_whole, requests_per_forward
from dmaxlit.harness.contexts import Chat, Contexts
from dmaxlit.harness.generation_settings import GenerationSettings
from dmaxlit.harness.response_cache import claim_cache
from dmaxlit.harness.scoring import ScoringLM
from dmaxlit.loading import load

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import CacheHook

# What lm-eval passes on without --device, on any machine.
_DEFAULT_DEVICE = "cuda:0"


@register_model("dmaxlit")
class DMaxLM(ScoringLM):
    """A block-diffusion model that lm-evaluation-harness prompts and scores, in one process.

    Each argument is one of ``--model_args``, ``batch_size`` and ``device`` also of lm-eval's own flags.

    Args:
        pretrained: Folder, ``.ckpt`` file, hub id or ``builtin:NAME``.
        decoder: Registered name of the decoder.
        batch_size: Requests that share a forward. It changes the speed, not the responses. Default and ``auto``: 64.
        device: ``cpu``, ``cuda`` and so on; ``auto`` takes an accelerator if there is one.
        dtype: Type of the weights.
        attn_implementation: ``sdpa``, ``eager`` or ``flex_attention``.
        max_length: Most tokens of prompt and response, at most the model's context, which is the default.
        max_gen_toks: Most tokens of a response, EOS included, to requests that do not say.
        max_forwards: Most forwards for one response; None for no limit.
        mc_samples: Most sets of masks for each block of a text whose likelihood is asked for
            (:class:`~dmaxlit.evaluation.likelihood.Likelihood`).
        seed: Seed of samples of responses and of masks. Default: the one of lm-eval's ``--seed`` for torch.
        chat_template: One of the tokenizer's chat templates by name, or a ``.jinja`` file.
        compile: Compile the forwards.
        probe: Check by nine forwards of a few tokens that the model obeys block masks and positions.
        max_batch_size: Not used; lm-eval passes it on.
        decoder_options: Options of the decoder, for instance ``tau_dec=0.5``.

    Raises:
        UserError: If there is no such model or device, for an unknown decoder or option, a value out of range, or if
            it is one of several processes.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        decoder: str = "spd",
        batch_size: int | str | None = None,
        device: str | None = "auto",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attn_implementation: str = "sdpa",
        max_length: int | None = None,
        max_gen_toks: int = 256,
        max_forwards: int | None = None,
        mc_samples: int = 32,
        seed: int | None = None,
        chat_template: str | None = None,
        compile: bool = False,
        probe: bool = True,
        max_batch_size: int | None = None,
        **decoder_options: Any,
    ) -> None:
        super().__init__()
        if not isinstance(pretrained, str) or not pretrained:
            raise UserError(
                "pretrained: expected a folder, .ckpt file, hub id or builtin:NAME, "
                f"as in --model_args pretrained=NAME, got {pretrained!r}"
            )
        check_single_process()
        check_names(type(self), decoder, decoder_options)
        make_decoder(decoder, **decoder_options)  # refuses bad options before a model is loaded
        check_whole(1, max_gen_toks=max_gen_toks, max_forwards=max_forwards, mc_samples=mc_samples)
        check_whole(2, max_length=max_length)
        check_whole(0, seed=seed)
        check_choice("dtype", dtype, ("float32", "bfloat16", "float16"))
        self.batch_size = requests_per_forward(batch_size)
        self.max_gen_toks = max_gen_toks
        self._module = load(
            pretrained, device=device or "auto", attn_implementation=attn_implementation, dtype=dtype, probe=probe
        )
        self._device = self._module.device
        backbone = self._module.backbone
        self.max_length = backbone.max_length if max_length is None else max_length
        if self.max_length > backbone.max_length:
            raise UserError(f"max_length: expected at most the model's {backbone.max_length}, got {max_length}")
        self.tokenizer = self._module.tokenizer
        choose_template(self.tokenizer, chat_template)
        self._contexts = Contexts(self.tokenizer)
        self._mc_samples, self._seed = mc_samples, seed
        self._decoder, self._decoder_options = decoder, decoder_options
        self._max_forwards, self._compile = max_forwards, compile
        self._num_tokens = self._num_forwards = 0

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> DMaxLM:
        """Make a model of ``--model_args`` as text; see :meth:`create_from_arg_obj`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> DMaxLM:
        """Make a model of ``--model_args``, which take precedence over lm-eval's own flags.

        Args:
            arg_dict: The arguments.
            additional_config: ``batch_size``, ``max_batch_size`` and ``device`` of the flags; None where not given.
        """
        flags = {name: value for name, value in (additional_config or {}).items() if value is not None}
        if flags.get("device") == _DEFAULT_DEVICE and not torch.cuda.is_available():
            flags["device"] = "auto"
        return cls(**{**flags, **arg_dict})

    @property
    def eot_token_id(self) -> int:
        """The token that ends a response."""
        return self._module.backbone.special.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without a context, as lm-eval has it: BOS, or EOS without one."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """Name under which lm-eval caches requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the chat template that is applied, or None.

        Args:
            chat_template: Whether chats are rendered, or the name of one of the tokenizer's templates.

        Raises:
            UserError: If the tokenizer has no such template.
        """
        if not chat_template:
            return None
        self._contexts.require_template()
        if isinstance(chat_template, str):
            choose_template(self.tokenizer, chat_template)
        text: str = self.tokenizer.get_chat_template()
        return text

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> Chat:
        """Return the text of a chat, which still knows its messages.

        Args:
            chat_history: The messages.
            add_generation_prompt: False if the last message is the beginning of the response.

        Raises:
            UserError: If the tokenizer has no chat template, or it refuses the chat.
        """
        return self._contexts.render(chat_history, ends_in_response=not add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the token ids of a context.

        Args:
            string: The context.
            add_special_tokens: False for a text that follows another; default: as the model's own prompts.
        """
        if add_special_tokens is False:
            return encode_responses(self.tokenizer, [string])[0]
        return self._contexts.encode(string)

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Take lm-eval's cache of responses.

        Raises:
            UserError: If it holds responses of another model, or by other settings.
        """
        settings = {
            **model_identity(self._module),
            "dtype": str(self._module.backbone.model.dtype),
            "decoder": self._decoder,
            "decoder_options": self._decoder_options,
            "max_length": self.max_length,
            "max_gen_toks": self.max_gen_toks,
            "max_forwards": self._max_forwards,
            "mc_samples": self._mc_samples,
            "seed": self._seed_of_run(),
        }
        claim_cache(cache_hook.dbdict, settings)
        super().set_cache_hook(cache_hook)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Decode the response to each request, up to its first stop text.

        Requests with equal settings are decoded together. Samples depend on the seed and on a request's index among
        these, not on the batch.

        Args:
            requests: Each with its context and its generation settings.
            disable_tqdm: Show no progress bar.

        Raises:
            UserError: For a setting that cannot be obeyed, a budget that leaves no room for a prompt, or samples that
                lm-eval would take from its cache again.
        """
        groups: dict[GenerationSettings, list[int]] = {}
        for index, request in enumerate(requests):
            settings = GenerationSettings.of(request.args[1], self.max_gen_toks)
            self._check_cached(settings, request.args[1].get("do_sample"))
            groups.setdefault(settings, []).append(index)
        for settings in groups:
            self._check_budget(settings.max_new_tokens)
        responses: dict[int, str] = {}
        with make_bar(total=len(requests), desc="generate_until", unit="request", disable=disable_tqdm) as bar:
            for settings, indices in groups.items():
                texts = self._generate([requests[index] for index in indices], settings, bar)
                responses |= zip(indices, texts, strict=True)
        return [responses[index] for index in range(len(requests))]

    def _check_cached(self, settings: GenerationSettings, do_sample: bool | None) -> None:
        """Refuse samples that lm-eval would cache: all repeats of a request would be the same one."""
        if settings.temperature > 0 and not do_sample and self.cache_hook.dbdict is not None:
            raise UserError(
                f"do_sample: expected True with --use_cache and temperature {settings.temperature}, got {do_sample}; "
                "--gen_kwargs do_sample=True sets it"
            )

    def _check_budget(self, budget: int) -> None:
        if budget >= self.max_length:
            raise UserError(
                f"max_gen_toks: expected fewer than the context of {self.max_length} tokens, which the prompt shares, "
                f"got {budget}; --gen_kwargs max_gen_toks=NUMBER sets it"
            )

    def _generate(self, requests: Sequence[Instance], settings: GenerationSettings, bar: Any) -> list[str]:
        """Decode the responses to requests with the same settings."""
        engine = self._decode_settings(settings).make_engine(self._module.backbone)
        prompts = [self._contexts.encode(request.args[0]) for request in requests]
        room = self.max_length - settings.max_new_tokens
        if num_long := sum(len(prompt) > room for prompt in prompts):
            longest = max(map(len, prompts))
            warnings.warn(
                f"prompts: {num_long} of {len(prompts)} are longer than the {room} tokens that the context has room "
                f"for, the longest with {longest}; their beginnings are cut off",
                DMaxWarning,
                stacklevel=3,
            )
        texts: dict[int, str] = {}

        def finish(index: int, sequence: DecodedSequence) -> None:
            request = requests[index]
            texts[index] = Generation.from_sequence(sequence, request.args[0], self.tokenizer, engine.stop).text
            self.cache_hook.add_partial("generate_until", request.args, texts[index])
            self._num_tokens += sequence.num_tokens
            self._num_forwards += sequence.num_forwards

        engine.decode([prompt[-room:] for prompt in prompts], settings.max_new_tokens, bar.update, None, finish)
        return [texts[index] for index in range(len(requests))]

    def _decode_settings(self, settings: GenerationSettings) -> DecodeSettings:
        return DecodeSettings(
            decoder=self._decoder,
            decoder_options=self._decoder_options,
            max_new_tokens=settings.max_new_tokens,
            batch_size=self.batch_size,
            max_forwards=self._max_forwards,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=self._seed_of_run() if settings.seed is None else settings.seed,
            stop=settings.stop,
            compile=self._compile,
        )

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm-eval records of the model: how it decodes, and the tokens per forward.

        These are of the responses that were decoded, without those of ``--use_cache``.
        """
        backbone = self._module.backbone
        rate = {} if self._num_forwards == 0 else {"tpf": self._num_tokens / self._num_forwards}
        return {
            "decoder": self._decoder,
            "decoder_options": self._decoder_options,
            "block_length": backbone.block_length,
            "model_dtype": str(backbone.model.dtype).removeprefix("torch."),
            "model_num_parameters": sum(parameter.numel() for parameter in backbone.model.parameters()),
            "num_tokens": self._num_tokens,
            "num_forwards": self._num_forwards,
            **rate,
        }
