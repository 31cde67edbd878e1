"""System calls that Python has no name for, through ctypes. Linux; the standard library alone.

Source: the manual pages prctl(2), unshare(2), mount(2), mount_setattr(2), pivot_root(2), capset(2).
"""

import ctypes
import os
import signal

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
LAST_CAPABILITY = 40
CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: 64 bits in two halves

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 1 << 12, 1 << 14, 1 << 18
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_SETATTR = 442  # the same number on every architecture, as all newer calls

# system call -> number, where it differs
NUMBERS = {"x86_64": {"pivot_root": 155, "capset": 126}, "aarch64": {"pivot_root": 41, "capset": 91}}

_libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """The result of a call, or OSError with the call's name."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: object) -> int:
    """A system call by number; whole numbers travel as longs.

    Raises:
        OSError: it failed.
    """
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return checked(_libc.syscall(ctypes.c_long(number), *longs), f"system call {number}")


def number_of(name: str) -> int:
    """The number of a system call on this machine.

    Raises:
        OSError: an architecture without a table.
    """
    try:
        return NUMBERS[os.uname().machine][name]
    except KeyError as error:
        raise OSError(f"no system call numbers for {os.uname().machine}") from error


def prctl(option: int, argument: object = 0) -> None:
    """prctl(2): change one property of this process, for a whole number or a pointer; OSError if it is refused."""
    value = ctypes.c_ulong(argument) if isinstance(argument, int) else argument
    zero = ctypes.c_ulong(0)
    checked(_libc.prctl(ctypes.c_int(option), value, zero, zero, zero), f"prctl {option}")


def die_with_parent() -> None:
    """Be killed when the parent dies. To be called again after a change of user, which clears it."""
    prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def unshare(flags: int) -> None:
    """unshare(2): leave the parent's namespaces for new ones of the kinds in ``flags``, CLONE_NEW*."""
    checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2): attach a file system of a kind (None: what a flag such as MS_BIND says) at a path."""
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    data = None if options is None else options.encode()
    checked(_libc.mount(*encoded, ctypes.c_ulong(flags), data), f"mount on {target}")


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "namespace")]


def restrict_mount(target: str, flags: int) -> None:
    """Add MS_RDONLY, MS_NOSUID, ... to a mount and to all below it; what it already has stays."""
    attributes = _MountAttributes(set=flags)  # MOUNT_ATTR_* of these four flags are the same bits
    size = ctypes.sizeof(attributes)
    syscall(MOUNT_SETATTR, AT_FDCWD, ctypes.c_char_p(target.encode()), AT_RECURSIVE, ctypes.byref(attributes), size)


def pivot_root(root: str) -> None:
    """Make a mounted directory the root, and let go of the old one."""
    os.chdir(root)
    here = ctypes.c_char_p(b".")
    syscall(number_of("pivot_root"), here, here)  # the old root now lies over the new one
    checked(_libc.umount2(here, ctypes.c_int(MNT_DETACH)), "umount of the old root")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    for capability in range(LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # an ordinary user has nothing to drop, an older kernel fewer of them
            break
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    syscall(number_of("capset"), header, (ctypes.c_uint32 * 6)())
