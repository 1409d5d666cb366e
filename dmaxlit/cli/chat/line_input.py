"""Where the user's turns come from: a terminal, with prompt_toolkit if it is installed, or a pipe."""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from dmaxlit.cli.chat.commands import COMMANDS

_PROMPT = "> "
_HINT = "/quit or Ctrl-D ends the chat"


def user_lines(console: Console, recalled: Sequence[str]) -> Iterator[str]:
    """Yield what the user enters, up to the end of the input.

    Args:
        console: The terminal. Without one the lines of standard input are the turns.
        recalled: Earlier texts that the arrow keys bring back, oldest first.
    """
    if not (sys.stdin.isatty() and console.is_terminal):
        if isinstance(sys.stdin, io.TextIOWrapper):  # UTF-8 in any locale; what is none is refused as a turn
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        for line in sys.stdin:
            yield line.rstrip("\r\n")
        return
    ask = _reader(console, recalled)
    while True:
        try:
            line = ask()
        except EOFError:
            return
        except KeyboardInterrupt:  # discards the line, as in a shell
            console.print(_HINT, style="dim")
            continue
        yield line


def _reader(console: Console, recalled: Sequence[str]) -> Callable[[], str]:
    """Return a function that asks for a line."""
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import InMemoryHistory
    except ImportError:
        return lambda: input(_PROMPT)
    if console.is_dumb_terminal:
        return lambda: input(_PROMPT)
    completer = WordCompleter([f"/{name}" for name in COMMANDS], sentence=True)
    session: PromptSession[str] = PromptSession(
        history=InMemoryHistory(recalled), completer=completer, complete_while_typing=False
    )
    return lambda: session.prompt(_PROMPT)


@contextmanager
def no_echo() -> Iterator[None]:
    """Keep the terminal from showing what is typed meanwhile, ``^C`` for instance, in the middle of an answer."""
    if not sys.stdin.isatty() or sys.platform == "win32":
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    silent = list(before)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
