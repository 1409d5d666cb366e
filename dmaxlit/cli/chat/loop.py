"""The chat itself: read a line, carry it out or answer it, and go on."""

import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from types import FrameType

import torch
from rich.console import Console
from rich.text import Text

from dmaxlit.cli.answer_figures import figures, remarks
from dmaxlit.cli.chat.answer_view import AnswerView
from dmaxlit.cli.chat.commands import run_command
from dmaxlit.cli.chat.frames import Frame
from dmaxlit.cli.chat.history import ChatHistory
from dmaxlit.cli.chat.line_input import no_echo
from dmaxlit.cli.chat.session import ChatSession
from dmaxlit.errors import UserError, printable, reason_of


class ChatLoop:
    """Answers lines until they end.

    Args:
        session: The conversation.
        console: Where answers are shown.
        history: File of past conversations; None for none.
        delay: Seconds to wait after each forward.
        survives_errors: Whether the chat goes on after a line that is refused, or at which a decoder of the user's own
            fails.
    """

    def __init__(
        self, session: ChatSession, console: Console, history: ChatHistory | None, delay: float, survives_errors: bool
    ) -> None:
        self._session = session
        self._console = console
        self._history = history
        self._delay = delay
        self._survives_errors = survives_errors

    def run(self, lines: Iterable[str]) -> None:
        """Carry out lines: commands begin with a slash, a text that does with two.

        Raises:
            UserError: For a line that is refused, unless errors are survived.
        """
        for line in lines:
            try:
                if self._ends_with(line.strip()):
                    return
            except UserError as error:
                if not self._survives_errors:
                    raise
                self._refuse(str(error))
            except torch.OutOfMemoryError:
                self._refuse("device: expected memory for the answer, got too little; /new begins a new conversation")
            except Exception as error:
                if not self._survives_errors or self._session.decoder_is_ours:
                    raise
                self._refuse(f"decoder: it failed ({reason_of(error, with_type=True)}); /decoder chooses another one")

    def _ends_with(self, line: str) -> bool:
        """Carry out a line; return whether the chat ends with it."""
        if not line:
            return False
        if not line.startswith("/") or line.startswith("//"):
            self._show(self._session.answer(line[1:] if line.startswith("//") else line))
            return False
        outcome = run_command(self._session, line)
        if outcome.text:
            self._say(outcome.text)
        if outcome.begins_anew and self._history is not None:
            self._history.begin()
        if outcome.frames is not None:
            self._show(outcome.frames)
        return outcome.ends

    def _show(self, answer: Generator[Frame, None, None]) -> None:
        """Show an answer while it forms; Ctrl-C stops it."""
        session, before = self._session, self._session.exchanges[:]
        answers = session.totals.answers
        with no_echo(), _interruption() as interrupted, closing(answer), AnswerView(self._console) as view:
            try:
                for frame in answer:
                    view.show(frame)
                    if frame.generation is None:
                        interrupted.wait(self._delay)
                    if interrupted.is_set():
                        break
            except KeyboardInterrupt:  # the second one, in the middle of a forward
                pass
        if session.exchanges == before:
            if session.totals.answers > answers:
                self._say("stopped before a block was finished; the conversation is as it was")
            return
        last = session.exchanges[-1]
        more = ", stopped" if last.generation is None else remarks(last.generation)
        self._say(f"{figures(last.num_tokens, last.num_forwards)}, {last.seconds:.1f} s{more}")
        if self._history is not None:
            self._record(self._history, is_retry=len(session.exchanges) == len(before))

    def _record(self, history: ChatHistory, is_retry: bool) -> None:
        try:
            history.add(self._session, is_retry)
        except OSError as error:
            self._refuse(f"history: cannot write {str(history.path)!r} ({error.strerror}); nothing more is kept")
            self._history = None

    def _say(self, text: str) -> None:
        self._console.print(Text(printable(text)), style="dim", soft_wrap=not self._console.is_terminal)

    def _refuse(self, reason: str) -> None:
        self._console.print(Text(printable(f"error: {reason}")), style="red", soft_wrap=not self._console.is_terminal)


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; a second one raises KeyboardInterrupt, in the middle of a forward."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
