"""The command by which figures are made."""

import shlex
import sys
from pathlib import Path


def running_command() -> str | None:
    """Return the command line of dmaxlit that is running, in one line; None in a program of the user's own."""
    program = Path(sys.argv[0])
    is_dmaxlit = program.name == "dmaxlit" or program.parts[-2:] == ("dmaxlit", "__main__.py")
    if not is_dmaxlit or any(character in " ".join(sys.argv) for character in "\n|`<>"):
        return None  # a card holds one line of text
    return f"python -m dmaxlit {shlex.join(sys.argv[1:])}"
