"""Files and other processes out of reach by Landlock, where there are no namespaces (Linux 5.13 and later)."""

import ctypes
import os
import struct
import sys
from collections.abc import Sequence

# These have the same numbers on all machines.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14
# How many kinds of access each version of Landlock knows, from 1: moving between folders, then truncating is new.
_KINDS = (13, 14, 15)
#: The devices that a sample has, at every level that separates files.
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def version() -> int:
    """Return the version of Landlock, or 0 without it."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)))


def restrict(visible: Sequence[str], scratch: str) -> bool:
    """Let this process read some paths and write one folder, and see into no other process; for good.

    Args:
        visible: Paths that may be read, with all beneath them.
        scratch: The folder that may be written.

    Returns:
        Whether the kernel enforces it.

    Raises:
        OSError: If it knows Landlock and refuses.
    """
    found = version()
    if not found:
        return False
    handled = (1 << _KINDS[min(found, len(_KINDS)) - 1]) - 1
    libc = ctypes.CDLL(None, use_errno=True)
    rules = _checked(libc.syscall(_CREATE_RULESET, struct.pack("Q", handled), ctypes.c_size_t(8), 0))
    read = {path: _EXECUTE | _READ_FILE | _READ_DIR for path in visible}
    for path, access in {**read, **dict.fromkeys(DEVICES, _READ_FILE | _WRITE_FILE), scratch: handled}.items():
        descriptor = os.open(path, os.O_PATH)
        kinds = access if os.path.isdir(path) else access & _OF_FILES & handled
        _checked(libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", kinds, descriptor), 0))
        os.close(descriptor)
    _checked(libc.syscall(_RESTRICT_SELF, rules, 0))
    os.close(rules)
    return True


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock: {os.strerror(number)}")
    return result
