"""The command line of ``dmaxlit chat``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmaxlit.cli.arguments import Dtype, call, decode_settings, load_model, make_parser
from dmaxlit.errors import UserError, check_at_least, printable

if TYPE_CHECKING:
    from rich.console import Console

    from dmaxlit.cli.chat.history import ChatHistory, Conversation
    from dmaxlit.cli.chat.session import ChatSession

_MAX_DELAY = 3600  # far beyond use, within what a thread can wait


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    parser = make_parser(command, chat, skip=["stop", "resume"])
    parser.add_argument("--stop", action="append", help="A text that ends an answer; may be given several times.")
    parser.add_argument(
        "--resume",
        nargs="?",
        type=bool | str,
        const=True,
        default=False,
        metavar="NAME",
        help="Go on with the last conversation of the history, or with the one whose name begins with NAME.",
    )
    call(parser, chat, args)


def chat(
    model: str,
    decoder: str | None = None,
    decoder_options: dict[str, Any] | None = None,
    window: int = 1,
    admission: str = "progress",
    admission_options: dict[str, Any] | None = None,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: list[str] | None = None,
    system: str = "",
    chat_template: str | None = None,
    template_options: dict[str, Any] | None = None,
    history: bool | str = True,
    resume: bool | str = False,
    delay: float = 0.0,
    check_decoder: bool = True,
    device: str = "auto",
    dtype: Dtype = "float32",
    probe: bool = True,
) -> None:
    """Talk to a model, and see its answers form: masks fill, guesses change, blocks settle.

    Lines that begin with a slash are commands: /help lists them. Ctrl-C stops an answer, Ctrl-D ends the chat. Lines of
    a pipe are turns too, and answers to a pipe are plain text. A model without a chat template knows no turns: each
    line is a prompt of its own. The extra dmaxlit[chat] adds editing, completion and recall of lines.

    Args:
        model: Folder, .ckpt file, hub id, or builtin:NAME.
        decoder: Registered name of the decoder, or import path of your own; /decoder changes it. Default: the one that
            the model was judged with, with its options, or spd.
        decoder_options: Options of the decoder, also as --decoder.tau_dec 0.3.
        window: Most blocks of an answer that are open at once.
        admission: Registered name of the policy that says when a window takes in the next block, or import path of your
            own.
        admission_options: Options of the policy, also as --admission.theta 0.8.
        max_new_tokens: Most tokens of an answer, EOS included. Default: that of the task the model was trained on, or
            256.
        temperature: 0 takes the most probable tokens; above 0 tokens are sampled; /temperature changes it.
        top_p: Sample from the smallest set of tokens with that probability, above 0 and at most 1.
        seed: Seed of the samples; /retry takes the next one.
        stop: A text that ends an answer; may be given several times.
        system: Text of the system's turn; /system changes it.
        chat_template: Name of one of the tokenizer's chat templates, or a .jinja file. Default: the model's own.
        template_options: Values of variables that the chat template reads, also as --template_options.enable_thinking
            false.
        history: File that answers are added to, false for none. Default: dmaxlit/chat.jsonl in the folder
            XDG_STATE_HOME (~/.local/state), if turns are typed and not piped.
        resume: Go on with the last conversation of the history, or with the one whose name begins with NAME.
        delay: Seconds to wait after each forward, to watch a small model.
        check_decoder: Check what a decoder of your own returns in the first forwards.
        device: cpu, cuda, ...; auto takes an accelerator if there is one.
        dtype: Type of the weights. In bfloat16 a model needs half the memory; answers may differ from float32's.
        probe: Check by nine forwards of a few tokens that the model obeys block masks and positions.
    """
    from rich.console import Console

    from dmaxlit.cli.chat.history import ChatHistory, default_path
    from dmaxlit.cli.chat.line_input import user_lines
    from dmaxlit.cli.chat.loop import ChatLoop
    from dmaxlit.cli.chat.session import ChatSession
    from dmaxlit.files import expanded

    check_at_least(0, delay=delay)
    if resume == "":
        raise UserError("resume: expected the beginning of a conversation's name, got an empty text")
    if delay > _MAX_DELAY:
        raise UserError(f"delay: expected at most {_MAX_DELAY} seconds, got {delay:g}")
    is_typed = _is_typed()
    record = None
    if isinstance(history, str):
        record = ChatHistory(Path(expanded(history)), model)
    elif history and resume:
        record = ChatHistory(default_path(), model)
    elif history and is_typed:
        record = _default_history(model)
    earlier = _earlier(record, resume)
    module = load_model(model, device, dtype, probe, chat_template, template_options)
    settings = decode_settings(
        module,
        decoder,
        decoder_options,
        admission_options,
        max_new_tokens,
        window=window,
        admission=admission,
        batch_size=1,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop or [],
        check_decoder=check_decoder,
    )
    session = ChatSession(module, settings, system)
    if earlier is not None:
        session.resume(system or earlier.system, earlier.exchanges)
    console = Console(highlight=False, markup=False, emoji=False)
    if is_typed and console.is_terminal:
        _greet(console, session, model)
        if earlier is not None:
            _repeat(console, earlier)
    lines = user_lines(console, [] if record is None else record.texts())
    ChatLoop(session, console, record, delay, survives_errors=is_typed).run(lines)


def _is_typed() -> bool:
    return sys.stdin.isatty()


def _default_history(model: str) -> "ChatHistory | None":
    """Return the history in the state folder, or None, after a line, if it cannot be written."""
    from dmaxlit.cli.chat.history import ChatHistory, default_path

    try:
        return ChatHistory(default_path(), model)
    except UserError as error:
        print(printable(f"{error}; this conversation is not kept"), file=sys.stderr)
        return None


def _earlier(record: "ChatHistory | None", resume: bool | str) -> "Conversation | None":
    """Return the conversation that the chat goes on with."""
    if not resume:
        return None
    if record is None:
        raise UserError("resume: expected a history, got --history false")
    return record.resume(None if resume is True else resume)


def _repeat(console: "Console", earlier: "Conversation") -> None:
    """Print the turns of an earlier conversation."""
    for exchange in earlier.exchanges:
        console.print(printable(f"> {exchange.user}"), style="dim")
        console.print(printable(exchange.answer))
    turns = f"{len(earlier.exchanges)} turn{'s' * (len(earlier.exchanges) != 1)}"
    console.print(printable(f"conversation {earlier.name}: {turns}, the last of {earlier.time}"), style="dim")


def _greet(console: "Console", session: "ChatSession", model: str) -> None:
    from dmaxlit.cli.chat.answer_view import legend

    console.print(printable(f"{model}, {session.settings.title}. /help lists the commands."), style="dim")
    if not session.remembers:
        console.print("The model has no chat template: each line is a prompt of its own.", style="dim")
    console.print(legend())
