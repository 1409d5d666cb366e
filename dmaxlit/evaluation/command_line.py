"""The command by which figures are made."""

import shlex
import sys
from pathlib import Path

from dmaxlit.backbone.formats.judged import is_line


def running_command() -> str | None:
    """Return the command line of dmaxlit that is running, in one line.

    None in a program of the user's own, and for one that a model's card cannot hold.
    """
    program = Path(sys.argv[0])
    is_dmaxlit = program.name == "dmaxlit" or program.parts[-2:] == ("dmaxlit", "__main__.py")
    command = f"python -m dmaxlit {shlex.join(sys.argv[1:])}"
    return command if is_dmaxlit and is_line(command) else None
