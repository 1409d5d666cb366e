"""A conversation with a model: its turns, how they are decoded, and what the answers took."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dmaxlit.cli.chat.frames import Frame, frames
from dmaxlit.data.encoding import Prompt
from dmaxlit.data.messages import Conversation
from dmaxlit.decoding import DECODERS
from dmaxlit.engine import DecodeSettings, Generation, Trace
from dmaxlit.errors import PromptError, UserError
from dmaxlit.module import DMaxModule
from dmaxlit.tasks.unicode import check_text

_WITHOUT_TEMPLATE = "expected a model with a chat template, got one without; --chat_template takes a .jinja file"


@dataclass(frozen=True)
class Exchange:
    """A turn of the user and its answer.

    Args:
        user: The user's text.
        answer: The text of the answer; of one that was stopped, that of its finished blocks.
        num_tokens: Tokens of that.
        num_forwards: Forwards that it took.
        seconds: Time that it took.
        seed: Seed of its samples.
        generation: The answer; None if it was stopped, or is of an earlier chat.
    """

    user: str
    answer: str
    num_tokens: int
    num_forwards: int
    seconds: float
    seed: int
    generation: Generation | None = None


@dataclass
class Totals:
    """What all answers of a session took, those that were replaced or forgotten included."""

    answers: int = 0
    tokens: int = 0
    forwards: int = 0
    seconds: float = 0.0

    def add(self, exchange: Exchange) -> None:
        """Count an answer."""
        self.answers += 1
        self.tokens += exchange.num_tokens
        self.forwards += exchange.num_forwards
        self.seconds += exchange.seconds


@dataclass
class ChatSession:
    """A conversation with a model.

    A model without a chat template knows no turns: each text is then a prompt of its own.

    Args:
        module: The model, with the chat template that is to be used.
        settings: How answers are decoded.
        system: Text of the system's turn; empty for none.

    Raises:
        UserError: If the model takes no system's turn, but there is one.
    """

    module: DMaxModule
    settings: DecodeSettings
    system: str = ""
    exchanges: list[Exchange] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    trace: Trace | None = None  # of the last answer; of one that was stopped, as far as it had come

    def __post_init__(self) -> None:
        self.configure(self.settings)
        self.set_system(self.system)

    @property
    def remembers(self) -> bool:
        """Whether an answer can depend on earlier turns."""
        return self.module.tokenizer.chat_template is not None

    @property
    def decoder_is_ours(self) -> bool:
        """Whether the decoder is one of dmaxlit's own, which are tested."""
        decoder = self.settings.decoder
        cls = DECODERS.get(decoder) if isinstance(decoder, str) else type(decoder)
        return cls.__module__.startswith("dmaxlit.")

    def configure(self, settings: DecodeSettings) -> None:
        """Decode the next answers with other settings.

        Raises:
            UserError: If one of them is refused; the old ones then stay.
        """
        settings.make_engine(self.module.backbone)
        self.settings = settings

    def set_system(self, text: str) -> None:
        """Begin the conversation with a system's turn, or with none if the text is empty.

        Raises:
            UserError: If the model takes none; the old one then stays.
        """
        if text and not self.remembers:
            raise UserError(f"system: {_WITHOUT_TEMPLATE}")
        if text:
            check_text("system", text)
            self.module.encode_prompt(_messages(text, [], "?"))
        self.system = text

    def resume(self, system: str, exchanges: Sequence[Exchange]) -> None:
        """Go on with an earlier conversation.

        Args:
            system: Text of its system's turn; empty for none.
            exchanges: Its turns.

        Raises:
            UserError: If the model knows no turns, or does not take these.
        """
        if not self.remembers:
            raise UserError(f"resume: {_WITHOUT_TEMPLATE}")
        self.module.encode_prompt(_messages(system, exchanges, "?"))
        self.system, self.exchanges, self.trace = system, [*exchanges], None

    def forget(self) -> None:
        """Begin a new conversation, with the same system's turn and settings."""
        self.exchanges, self.trace = [], None

    def answer(self, text: str, seed: int | None = None) -> Generator[Frame, None, None]:
        """Answer the user's next turn, and yield a frame after every forward.

        The exchange is part of the conversation once the last frame is there, or, if the iterator is closed before,
        with the text that was committed by then; without any it is dropped.

        Args:
            text: The user's turn.
            seed: Seed of the samples. Default: that of the settings.

        Raises:
            UserError: If the model does not take the turn, for instance since the context is full.
        """
        seed = self.settings.seed if seed is None else seed
        prompt: Prompt = _messages(self.system, self.exchanges, text) if self.remembers else text
        settings = replace(self.settings, seed=seed)
        engine = settings.make_engine(self.module.backbone)
        prompt_ids = self.module.encode_prompt(prompt)
        trace, self.trace = Trace(), None
        started, frame = time.perf_counter(), None
        try:
            for frame in frames(engine, prompt_ids, settings.max_new_tokens, prompt, trace):
                yield frame
        except PromptError as error:
            raise UserError(f"conversation: {error.reason}; /new begins another one") from error
        finally:
            if frame is not None:
                self._keep(text, frame, time.perf_counter() - started, seed)
                stopped = ", stopped" if frame.generation is None else ""
                trace.stop(settings.max_new_tokens)
                trace.describe(self.module.tokenizer, [prompt], settings.title + stopped)
                self.trace = trace

    def retry(self) -> Generator[Frame, None, None]:
        """Answer the user's last turn once more, with the next seed; the old answer is replaced.

        Raises:
            UserError: If there is none.
        """
        if not self.exchanges:
            raise UserError("retry: expected an answer to replace, got none yet")
        return self._replace_last()

    def _replace_last(self) -> Generator[Frame, None, None]:
        last = self.exchanges.pop()
        size = len(self.exchanges)
        try:
            yield from self.answer(last.user, last.seed + 1)
        finally:
            if len(self.exchanges) == size:  # stopped before a block was finished, or refused
                self.exchanges.append(last)

    def _keep(self, user: str, frame: Frame, seconds: float, seed: int) -> None:
        exchange = Exchange(
            user, frame.committed, frame.num_committed, frame.num_forwards, seconds, seed, frame.generation
        )
        self.totals.add(exchange)
        if frame.committed or frame.generation is not None:
            self.exchanges.append(exchange)


def _messages(system: str, exchanges: Sequence[Exchange], text: str) -> Conversation:
    turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for exchange in exchanges:
        turns.append({"role": "user", "content": exchange.user})
        turns.append({"role": "assistant", "content": exchange.answer})
    return Conversation([*turns, {"role": "user", "content": text}])
