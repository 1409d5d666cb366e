"""Namespaces of the process itself, where bubblewrap is not installed: no network, and few files."""

import ctypes
import os
from typing import Any

from .landlock import DEVICES
from .limits import die_with_parent

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH = 2
# pivot_root has no function in libc.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
# Flags that a bind mount in a user namespace has to keep: those of statvfs have the same values.
_KEPT = 1 | 2 | 4 | 8 | 1024 | 2048


def enter(settings: dict[str, Any]) -> None:
    """Move this process into namespaces of its own; return in its grandchild, and end the others with its status.

    Args:
        settings: ``visible``, the paths that stay, read-only; ``file_mib``, the size of ``/scratch``, the only
            folder that can be written.

    Raises:
        OSError: If the machine does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    _call("unshare", _NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS)
    for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    _fork_and_wait()  # the first process of the new namespace: when it ends, the kernel ends all others
    _change_root(settings["visible"], settings["file_mib"])
    _fork_and_wait()  # so that the sample is an ordinary process, whom its own signals end


def _fork_and_wait() -> None:
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(os.getppid() and parent)  # 0 if the parent is outside of the namespace
        return
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _change_root(visible: list[str], scratch_mib: int) -> None:
    _call("mount", b"none", b"/", None, _REC | _PRIVATE, None)
    root = "/tmp"
    # Opened before the new root covers the folder, in which some may be.
    links = {path: os.path.realpath(path) for path in visible if os.path.islink(path)}
    opened = {path: os.open(path, os.O_PATH) for path in [*visible, *DEVICES] if path not in links}
    folders = {path for path in opened if os.path.isdir(path)}
    _call("mount", b"tmpfs", root.encode(), b"tmpfs", _NOSUID | _NODEV, b"size=1m,mode=755")
    for path, descriptor in opened.items():
        _bind(descriptor, root + path, path in folders, read_only=path not in DEVICES)
        os.close(descriptor)  # it would lead out of the new root
    for path, target in links.items():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(target, root + path)
    os.makedirs(f"{root}/scratch")
    size = f"size={scratch_mib}m,mode=700".encode()
    _call("mount", b"tmpfs", f"{root}/scratch".encode(), b"tmpfs", _NOSUID | _NODEV, size)
    os.makedirs(f"{root}/old")
    os.chdir(root)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"old") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chdir("/")
    _call("umount2", b"/old", _DETACH)
    os.rmdir("/old")
    _call("mount", b"none", b"/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV, None)
    os.chdir("/scratch")


def _bind(source: int, target: str, is_folder: bool, read_only: bool) -> None:
    os.makedirs(target if is_folder else os.path.dirname(target), exist_ok=True)
    if not is_folder:
        with open(target, "w"):
            pass
    _call("mount", f"/proc/self/fd/{source}".encode(), target.encode(), None, _BIND, None)
    if read_only:
        kept = os.fstatvfs(source).f_flag & _KEPT
        _call("mount", None, target.encode(), None, _BIND | _REMOUNT | _RDONLY | _NOSUID | kept, None)


def _call(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
