"""The bounds of the process itself: resource limits, no privileges, and system calls that are refused."""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

# Numbers of system calls on x86_64 and aarch64 (None where there is none), and the machine's AUDIT_ARCH.
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_REFUSED = {
    "socket": (41, 198), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "setsid": (112, 157), "setpgid": (109, 154), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "open_by_handle_at": (304, 265), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224),
    "acct": (163, 89), "quotactl": (179, 60), "personality": (135, 92), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "memfd_create": (319, 279), "memfd_secret": (447, 447),
}  # fmt: skip
_REFUSED_ALONE = {"fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281)}
_CLONE, _CLONE3, _TGKILL, _PRLIMIT64 = (56, 220), (435, 435), (234, 131), (302, 261)
_CLONE_THREAD = 0x00010000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF operations on 32-bit words
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in seccomp_data


def die_with_parent(parent: int) -> None:
    """End this process when its parent ends, where the system can do that.

    Args:
        parent: Id of the parent at the start; one that has ended before is noticed too.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent and os.getppid() != parent:
            os._exit(1)


def limit_resources(settings: dict[str, Any]) -> None:
    """Set the limits of CPU time, memory, file size, threads and open files, and leave no core dump."""
    limits = {
        "RLIMIT_CPU": settings["cpu_seconds"],
        "RLIMIT_AS": settings["memory_mib"] * 2**20,
        "RLIMIT_FSIZE": settings["file_mib"] * 2**20,
        "RLIMIT_NPROC": settings["threads"],
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }
    for name, value in limits.items():
        kind = getattr(resource, name, None)
        if kind is None or value is None:
            continue
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):  # macOS has no limit of the address space
            if sys.platform == "linux":
                raise


def gain_no_privileges() -> None:
    """Make sure that no program gives this process more rights, where the system can do that."""
    if sys.platform == "linux":
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def give_up_privileges(alone: bool) -> bool:
    """Drop all capabilities for good, and refuse system calls that a sample has no use for.

    Args:
        alone: No other process may be started, threads aside.

    Returns:
        Whether system calls are refused; False where the machine's numbers of them are unknown.
    """
    if sys.platform != "linux":
        return False
    for capability in range(_LAST_CAPABILITY + 1):
        _prctl(_PR_CAPBSET_DROP, capability, check=False)
    _prctl(_PR_SET_DUMPABLE, 0)
    gain_no_privileges()
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    return _refuse_system_calls(alone)


def _refuse_system_calls(alone: bool) -> bool:
    column, architecture = _ARCHITECTURES.get(platform.machine(), (None, 0))
    if column is None or sys.maxsize < 2**32:
        return False
    program = _filter(column, architecture, alone)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    descriptor = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    buffer = ctypes.create_string_buffer(descriptor)
    try:
        _prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(buffer))
    except OSError:  # a kernel without seccomp filters
        return False
    return True


def _filter(column: int, architecture: int, alone: bool) -> list[tuple[int, int, int, int]]:
    """Return the steps: operation, steps to skip if it holds, if not, and its constant."""
    numbers = {**_REFUSED, **(_REFUSED_ALONE if alone else {})}
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _EPERM),
        (_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ENOSYS),  # so that libc uses clone, whose flags are seen
        # Signals to this process alone, limits of this process alone.
        (_EQUAL, 0, 4, _TGKILL[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 1, 0, os.getpid()),
        (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW),
        (_EQUAL, 0, 4, _PRLIMIT64[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW),
    ]  # fmt: skip
    if alone:
        steps += [(_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
        steps += [(_ANY_BIT, 1, 0, _CLONE_THREAD), (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    for pair in numbers.values():
        number = pair[column]
        if number is not None:
            steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def _prctl(option: int, *arguments: int, check: bool = True) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    padded = (*arguments, 0, 0, 0, 0)[:4]
    if libc.prctl(option, *(ctypes.c_ulong(argument) for argument in padded)) != 0 and check:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
