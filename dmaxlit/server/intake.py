"""From the body of a request to the jobs of its responses."""

import asyncio
import copy
import itertools
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dmaxlit.engine.block_decoder import BlockDecoder
from dmaxlit.engine.sampler import Sampler
from dmaxlit.engine.settings import DecodeSettings
from dmaxlit.engine.stream import ResponseWriter
from dmaxlit.errors import PromptError, UserError
from dmaxlit.module import DMaxModule
from dmaxlit.server.errors import of_user_error, out_of_time
from dmaxlit.server.inbox import Inbox
from dmaxlit.server.job import Job, Sharing
from dmaxlit.server.limits import Limits
from dmaxlit.server.prompts import PromptField, TokenIds, encode, prompts_of
from dmaxlit.server.protocol import ChatBody, CompletionBody, StreamOptions
from dmaxlit.server.request_settings import check_size, check_steps, settings_of
from dmaxlit.server.scheduler import Scheduler
from dmaxlit.server.trial import forward_size, try_decoder

_MAX_TRIED = 256


@dataclass(frozen=True)
class Order:
    """The responses that a request asks for.

    Args:
        jobs: A job for each: the ``n`` responses to the first prompt, then those to the second, ...
        inbox: Where their drafts arrive.
        prompt_ids: Token ids of the prompts.
        seed: Seed of the samples; None at temperature 0.
    """

    jobs: list[Job]
    inbox: Inbox
    prompt_ids: list[list[int]]
    seed: int | None


@dataclass(frozen=True)
class _Plan:
    """How all responses of a request are decoded."""

    settings: DecodeSettings
    engine: BlockDecoder
    sharing: Sharing
    deadline: float


class Intake:
    """Checks requests, encodes their prompts, and makes their jobs.

    Args:
        module: The model.
        defaults: Settings of requests that name none.
        limits: Of the server.
        scheduler: Will decode the jobs.
    """

    def __init__(self, module: DMaxModule, defaults: DecodeSettings, limits: Limits, scheduler: Scheduler) -> None:
        self._denoiser, self._defaults, self._limits = module.backbone, defaults, limits
        self._scheduler = scheduler
        own = defaults.without_unused_policy().make_engine(module.backbone)
        self._own_steps, self._own_size = own.decoder.max_steps(module.backbone.block_length), forward_size(own)
        # A fast tokenizer must not encode while another thread, here the engine's, decodes with it.
        self._tokenizer = copy.deepcopy(module.tokenizer)
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="dmaxlit-encoder")
        self._indices = itertools.count()
        self._tried: OrderedDict[Hashable, None] = OrderedDict()

    def close(self) -> None:
        """Stop the thread that encodes."""
        self._encoder.shutdown(wait=False, cancel_futures=True)

    async def order(self, body: ChatBody | CompletionBody, arrived: float) -> Order:
        """Return the jobs that a request asks for.

        Args:
            body: The request.
            arrived: When it arrived, by ``time.monotonic``.

        Raises:
            ApiError: If it cannot be answered.
        """
        settings = settings_of(body, self._defaults, self._limits)
        prompts = prompts_of(body, self._limits.responses_per_request)
        loop = asyncio.get_running_loop()
        inbox, deadline = Inbox(loop), arrived + self._limits.max_seconds
        try:
            with self._scheduler.expect(len(prompts) * (body.n or 1)):
                async with asyncio.timeout(deadline - time.monotonic()):
                    return await loop.run_in_executor(
                        self._encoder, self._prepare, body, settings, prompts, inbox, deadline
                    )
        except TimeoutError as error:
            raise out_of_time(self._limits.max_seconds) from error
        except PromptError as error:
            raise of_user_error(error, "messages" if isinstance(body, ChatBody) else "prompt") from error
        except UserError as error:
            raise of_user_error(error) from error

    def _prepare(
        self,
        body: ChatBody | CompletionBody,
        settings: DecodeSettings,
        prompts: Sequence[PromptField],
        inbox: Inbox,
        deadline: float,
    ) -> Order:
        """Do what takes time, for which the event loop shall not wait; in the encoder's thread."""
        plan = self._plan(settings, deadline)
        prompt_ids = [
            plan.engine.check_prompt(index, encode(self._tokenizer, index, prompt), self._limits.max_length)
            for index, prompt in enumerate(prompts)
        ]
        jobs = self._jobs(body, plan, prompts, prompt_ids, inbox)
        return Order(jobs, inbox, prompt_ids, settings.seed if settings.temperature else None)

    def _plan(self, settings: DecodeSettings, deadline: float) -> _Plan:
        engine = settings.make_engine(self._denoiser)
        check_steps(engine.decoder, self._denoiser.block_length, self._own_steps)
        sharing = Sharing.of(settings, engine)
        if sharing.lane not in self._tried:
            check_size(forward_size(engine), self._limits, self._own_size)
            try_decoder(engine)
            self._tried[sharing.lane] = None
            if len(self._tried) > _MAX_TRIED:
                self._tried.popitem(last=False)
        return _Plan(settings, engine, sharing, deadline)

    def _jobs(
        self,
        body: ChatBody | CompletionBody,
        plan: _Plan,
        prompts: Sequence[PromptField],
        prompt_ids: Sequence[list[int]],
        inbox: Inbox,
    ) -> list[Job]:
        """Make the jobs of a request: ``n`` for the first prompt, then for the second, ..."""
        settings, engine = plan.settings, plan.engine
        options = body.stream_options or StreamOptions()
        jobs: list[Job] = []
        for number, (prompt, ids) in enumerate(zip(prompts, prompt_ids, strict=True)):
            text = "" if isinstance(prompt, TokenIds) else prompt
            for choice in range(body.n or 1):
                request = engine.make_request(
                    next(self._indices), ids, settings.max_new_tokens, self._limits.max_length
                )
                job = Job(
                    request,
                    engine,
                    Sampler(settings.temperature, settings.top_p, settings.seed + choice, first_index=number),
                    plan.sharing,
                    ResponseWriter(request.index, text, self._denoiser.tokenizer, engine.eos_ids, engine.stop),
                    inbox,
                    number=len(jobs),
                    reads_committed=bool(body.stream),
                    reads_provisional=options.include_provisional,
                    deadline=plan.deadline,
                )
                jobs.append(job)
        return jobs
