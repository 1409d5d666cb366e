"""The command line: ``dmaxlit COMMAND ...`` or ``python -m dmaxlit COMMAND ...``.

One file for each command; ``fit``, ``validate``, ``test`` and ``predict`` share ``training.py``. A command's file is
imported when the command is called, so that ``--help`` and refusals do not wait for torch.
"""

import gc
import os
import sys
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper

from dmaxlit.cli.messages import closest, one_line
from dmaxlit.cli.terminal import print_traceback, printable_messages
from dmaxlit.errors import UserError, printable, reason_of
from dmaxlit.version import __version__

__all__ = ["COMMANDS", "main"]

# For each command, the module whose ``run(command, args)`` carries it out, and a line for the overview.
COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("training", "Train a model on a corpus, or on a task's own worked responses."),
    "validate": ("training", "Decode the validation prompts with a trained model and print its figures."),
    "test": ("training", "Decode the test prompts with a trained model and print its figures."),
    "predict": ("training", "Decode the test prompts and write each answer to a file."),
    "plan": ("plan", "Estimate the memory that a configuration of fit needs on each GPU, before loading anything."),
    "preview": ("preview", "Show what a noise strategy makes of texts, view by view, in the terminal."),
    "distill": ("distill", "Let a model write the corpus it is then trained on."),
    "generate": ("generate", "Answer prompts, and report the tokens per forward."),
    "serve": ("serve", "Serve a model over HTTP, with OpenAI's API."),
    "chat": ("chat", "Talk to a model in the terminal, and see its answers form."),
    "evaluate": ("evaluate", "Judge a model on tasks with several decoders, and record how everything was counted."),
    "compare": ("compare", "Show what differs between the settings of runs, and their figures side by side."),
    "lm_eval": ("harness", "Run lm-evaluation-harness, which then knows the models of dmaxlit (--model dmaxlit)."),
    "analyse": ("analyse", "Show what decoding looks like: in which order tokens become final, how many at a time."),
    "trace": ("trace", "Show in a browser, forward by forward, how answers were decoded."),
    "check": ("check", "Test a noise strategy, decoder, admission policy or task, such as your own, without a model."),
    "list": (
        "listing",
        "List strategies, decoders, admission policies, tasks, metrics, callbacks, models and recipes.",
    ),
    "bench": ("bench", "Reproduce the figures of the documentation."),
    "convert": ("convert", "Convert a LLaDA2-MoE checkpoint to the format of transformers, or back."),
    "export": ("export", "Turn a checkpoint into a folder that dmaxlit.load and transformers read."),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: Arguments after ``dmaxlit``; None for those of the process.

    Raises:
        SystemExit: With status 2, after one line on stderr, if the user's input cannot be used, or needs more memory
            than the device has; with 130 after Ctrl-C, and 143 if training was stopped by SIGTERM, after saving.
    """
    if args is None:
        sys.excepthook = print_traceback
    for stream in (sys.stdout, sys.stderr):  # a stream that is not UTF-8 shows what it lacks as \\u2713
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with printable_messages():
            _run(list(sys.argv[1:] if args is None else args))
    except (UserError, ArgumentError) as error:
        print(printable(f"error: {one_line(error)}"), file=sys.stderr)
        raise SystemExit(2) from error
    except BrokenPipeError:  # the reader of the output, such as head, has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        print(printable(f"error: {_system_line(error)}"), file=sys.stderr)
        raise SystemExit(2) from error
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        print(printable(f"error: {_memory_line(error)}"), file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except SystemExit as end:
        # Lightning's trainer turns Ctrl-C, for instance while a corpus is distilled, into an ordinary failure.
        if end.code == 1 and isinstance(end.__context__, KeyboardInterrupt):
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        raise


def _run(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_overview())
        return
    command, *rest = args
    if command == "--version":
        print(__version__)
        return
    if command not in COMMANDS:
        raise UserError(f"unknown command {command!r}{closest(command, COMMANDS)}; known: {', '.join(COMMANDS)}")
    from dmaxlit.cli.safe import admitted  # here, so that --help does not wait for the parser

    with admitted(rest) as (rest, is_safe):
        if not is_safe:
            _add_current_folder_to_path()
        with _without_garbage_collection():
            module = import_module(f"dmaxlit.cli.{COMMANDS[command][0]}")
        module.run(command, rest)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Look for no garbage during the imports, which leave none: a fifth of their seconds would go to it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _system_line(error: OSError) -> str:
    """Return what the operating system refused, and for which file: a full disk, a read-only folder, a long name."""
    paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
    reason = error.strerror or str(error) or type(error).__name__
    return f"{', '.join(paths)}: {reason}" if paths else one_line(error)


def _is_out_of_memory(error: RuntimeError) -> bool:
    torch = sys.modules.get("torch")  # which has not raised it if it is not there yet
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _memory_line(error: RuntimeError) -> str:
    """Return which settings need less memory of a device that has too little."""
    reason = ". ".join(reason_of(error).split(". ")[:2])  # without the state of the allocator
    return (
        "device: expected memory for the batch size (--batch_size; of fit --data.batch_size) and the dtype (--dtype; "
        f"of fit --trainer.precision), got too little ({reason})"
    )


def _overview() -> str:
    lines = [f"  {name:10}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: dmaxlit COMMAND [options]",
            "",
            "Train and decode diffusion language models that write many tokens per forward and correct themselves.",
            "",
            *lines,
            "",
            "Options of a command: dmaxlit COMMAND --help. Version: dmaxlit --version.",
            "",
            "A configuration file is code: it names classes, which are imported and called. Read one from elsewhere",
            "before use, or run it with --safe: it may then name only what is registered, and the libraries' classes.",
        ]
    )


def _add_current_folder_to_path() -> None:
    """Make ``my_file.MyNoise`` importable from the current folder for a console script too, as ``python -m`` does."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
