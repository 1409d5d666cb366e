"""Run code as a program, and return what it printed."""

import subprocess
import time
from collections.abc import Sequence

from dmaxlit.sandbox.children import ended_at_exit, file_with, read_bounded, scratch_folder, start
from dmaxlit.sandbox.isolation import command_of, level_of
from dmaxlit.sandbox.settings import Output, SandboxSettings

__all__ = ["run_program"]


def run_program(
    code: str, stdin: str = "", arguments: Sequence[str] = (), settings: SandboxSettings | None = None
) -> Output:
    """Run code as a program.

    What it prints is its own claim: compare it with what you expect, and take nothing in it for a verdict.

    Args:
        code: The program; its ``__name__`` is ``__main__``.
        stdin: Text of its standard input.
        arguments: Its ``sys.argv[1:]``.
        settings: Bounds.

    Raises:
        UserError: If this machine has no such sandbox.
    """
    settings = settings or SandboxSettings()
    level = level_of(settings)
    begin = time.monotonic()
    processes: list[subprocess.Popen[bytes]] = []
    with (
        scratch_folder() as folder,
        file_with(code.encode(errors="surrogatepass")) as program,
        file_with(stdin.encode(errors="surrogatepass")) as given,
        ended_at_exit(processes),
    ):
        details = {"pipes": [program.fileno()], "arguments": list(arguments)}
        command = command_of("program", level, settings, details)
        pipes = {"stdin": given, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = start(command, folder, [program.fileno()], **pipes)
        processes.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        streams = {"stdout": process.stdout, "stderr": process.stderr}
        read, stopped_by = read_bounded(streams, begin + settings.wall_seconds, settings.output_kib * 1024)
        status = _status(process, begin + settings.wall_seconds) if stopped_by is None else None
    texts = {name: content.decode(errors="replace") for name, content in read.items()}
    stopped_by = stopped_by or ("wall_seconds" if status is None else None)
    return Output(status, texts["stdout"], texts["stderr"], stopped_by, time.monotonic() - begin, level)


def _status(process: "subprocess.Popen[bytes]", deadline: float) -> int | None:
    try:
        status = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:  # it has closed its streams and goes on
        return None
    return 128 - status if 128 < status < 160 else status  # the parent in the sandbox says so of a signal
