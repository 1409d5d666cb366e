"""The commands of a chat: lines that begin with a slash."""

import math
import shlex
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path

from dmaxlit.cli.answer_figures import figures
from dmaxlit.cli.chat.frames import Frame
from dmaxlit.cli.chat.session import ChatSession
from dmaxlit.cli.messages import closest
from dmaxlit.cli.option_flags import read_value
from dmaxlit.cli.trace_view import summary
from dmaxlit.decoding import DECODERS
from dmaxlit.errors import UserError, reason_of
from dmaxlit.files import writable_path


@dataclass(frozen=True)
class Outcome:
    """What a command leads to.

    Args:
        text: Lines to print.
        frames: An answer to show.
        ends: Whether the chat ends.
        begins_anew: Whether a new conversation begins.
    """

    text: str = ""
    frames: Generator[Frame, None, None] | None = None
    ends: bool = False
    begins_anew: bool = False


def run_command(session: ChatSession, line: str) -> Outcome:
    """Carry out a command.

    Args:
        session: The conversation, which it may change.
        line: The line, with its slash.

    Raises:
        UserError: If there is no such command, or it refuses its argument.
    """
    name, _, argument = line[1:].strip().partition(" ")
    if name not in COMMANDS:
        known = ", ".join(f"/{known}" for known in COMMANDS)
        raise UserError(
            f"unknown command {'/' + name!r}{closest(name, COMMANDS)}; known: {known}; // begins a text with a slash"
        )
    command, argument = COMMANDS[name], argument.strip()
    if argument and not command.argument:
        raise UserError(f"{name}: expected nothing behind it, got {argument!r}")
    return command.function(session, argument)


def _decoder(session: ChatSession, argument: str) -> Outcome:
    try:
        name, *words = shlex.split(argument) or [""]
    except ValueError as error:
        raise UserError(f"decoder: expected NAME key=value ..., got {argument!r} ({error})") from error
    if not name:
        return Outcome(f"decoder: {session.settings.title}; known: {', '.join(DECODERS)}")
    options = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f"decoder: expected key=value behind the name, got {word!r}")
        options[key] = read_value(value)
    try:
        session.configure(replace(session.settings, decoder=name, decoder_options=options))
    except UserError:
        raise
    except Exception as error:  # of whatever kind the constructor of a user's own raises
        reason = reason_of(error, with_type=True)
        raise UserError(f"decoder: expected one that can be made with these options, got {reason}") from error
    return Outcome(f"decoder: {session.settings.title}")


def _temperature(session: ChatSession, argument: str) -> Outcome:
    if argument:
        try:
            value = float(argument)
        except ValueError as error:
            raise UserError(f"temperature: expected a number, got {argument!r}") from error
        session.configure(replace(session.settings, temperature=value))
    return Outcome(f"temperature: {session.settings.temperature:g}")


def _system(session: ChatSession, argument: str) -> Outcome:
    session.set_system(argument)
    return Outcome(f"system: {argument}" if argument else "system: none")


def _retry(session: ChatSession, argument: str) -> Outcome:
    answer = session.retry()
    same = not session.settings.temperature and session.exchanges[-1].generation is not None
    hint = "temperature 0: only other settings give another answer" if same else ""
    return Outcome(hint, frames=answer)


def _trace(session: ChatSession, argument: str) -> Outcome:
    if Path(argument).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"trace: expected a file that ends in .html, got {argument!r}")
    if session.trace is None:
        raise UserError("trace: expected an answer to show, got none yet")
    path = writable_path(Path(argument), "trace")
    session.trace.to_html(path)
    return Outcome(f"trace: {path}")


def _stats(session: ChatSession, argument: str) -> Outcome:
    totals = session.totals
    rate = totals.tokens / totals.seconds if totals.seconds else math.nan
    answers = f"{totals.answers} answer{'s' * (totals.answers != 1)}"
    if not totals.answers:
        return Outcome("no answers yet")
    every = f"{answers}: {figures(totals.tokens, totals.forwards)}, {totals.seconds:.1f} s, {rate:.1f} tokens/s"
    if session.trace is None:
        return Outcome(every)
    return Outcome(f"last answer: {summary(session.trace.rows[0])}\n{every}")


def _new(session: ChatSession, argument: str) -> Outcome:
    session.forget()
    return Outcome("a new conversation", begins_anew=True)


def _help(session: ChatSession, argument: str) -> Outcome:
    usages = {name: f"/{name} {command.argument}".strip() for name, command in COMMANDS.items()}
    return Outcome("\n".join(f"{usages[name]}\n    {command.summary}" for name, command in COMMANDS.items()))


def _quit(session: ChatSession, argument: str) -> Outcome:
    return Outcome(ends=True)


@dataclass(frozen=True)
class Command:
    """A command of a chat.

    Args:
        function: Carries it out, with the session and the text behind the name.
        argument: What stands behind the name, for the help; empty for nothing.
        summary: What it does, in one line.
    """

    function: Callable[[ChatSession, str], Outcome]
    argument: str
    summary: str


COMMANDS = {
    "decoder": Command(_decoder, "[NAME key=value ...]", "Decode with another decoder; alone: show it."),
    "temperature": Command(_temperature, "[NUMBER]", "0 takes the most probable tokens; above 0 they are sampled."),
    "system": Command(_system, "[TEXT]", "Begin the conversation with a system's turn; alone: with none."),
    "retry": Command(_retry, "", "Answer the last turn once more, with the next seed."),
    "new": Command(_new, "", "Begin a new conversation."),
    "trace": Command(_trace, "FILE.html", "Write the last answer, forward by forward, as a page for a browser."),
    "stats": Command(_stats, "", "Show the figures of the last answer and of all answers."),
    "help": Command(_help, "", "Show the commands."),
    "quit": Command(_quit, "", "End the chat, as Ctrl-D does."),
}
