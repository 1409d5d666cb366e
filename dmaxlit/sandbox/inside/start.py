"""The beginning of every process of the sandbox: give up what the sample must not have, then do one job."""

import json
import os
import sys
from typing import Any, BinaryIO

from . import landlock, limits, sample, tests
from .values import receive, send


def main() -> None:
    """Do the job of the first argument, with the settings (JSON) of the second."""
    settings: dict[str, Any] = json.loads(sys.argv[2])
    job = sys.argv[1]
    sys.argv[1:], sys.orig_argv[:] = [], []  # the settings are no business of the sample
    del sys.path[0]  # the folder of this package
    if settings["level"] != "bubblewrap":  # which does this itself
        limits.die_with_parent(settings["parent"])
    if settings["level"] == "namespaces":
        from . import namespaces

        namespaces.enter(settings)
    sys.path += settings["packages"]
    os.environ.clear()
    sys.dont_write_bytecode = True
    if job == "program":
        _program(settings)
    elif job == "sample":
        requests, replies = _streams()
        _restrict(settings)
        sample.serve(requests, replies)
    elif job == "tests":
        orders, verdicts = _streams()
        to_sample, from_sample = os.fdopen(settings["pipes"][0], "wb"), os.fdopen(settings["pipes"][1], "rb")
        _restrict(settings)
        for verdict in tests.verdicts_of(receive(orders), to_sample, from_sample):
            send(verdicts, verdict)


def _restrict(settings: dict[str, Any]) -> None:
    limits.limit_resources(settings)
    if settings["level"] == "rlimits":
        limits.gain_no_privileges()
        landlock.restrict(settings["visible"], os.getcwd())
    limits.give_up_privileges(alone=settings["processes"] == 1)


def _streams() -> tuple[BinaryIO, BinaryIO]:
    """Return standard input and output under other numbers; the sample reads nothing and prints into nothing."""
    streams = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)
    return streams


def _program(settings: dict[str, Any]) -> None:
    with os.fdopen(settings["pipes"][0], encoding="utf-8") as file:
        code = file.read()
    _restrict(settings)
    main_module = sys.modules["__main__"]
    main_module.__dict__.clear()
    main_module.__dict__.update(__name__="__main__", __builtins__=__builtins__)
    sys.argv = ["program", *settings["arguments"]]
    try:
        exec(compile(code, "<program>", "exec"), main_module.__dict__)
    except Exception as error:
        import traceback

        below = error.__traceback__ and error.__traceback__.tb_next  # without this function
        traceback.print_exception(error.with_traceback(below))
        sys.exit(1)
