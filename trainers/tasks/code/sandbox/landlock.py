"""Landlock: a process gives up all files but those it names, TCP, and signals to processes outside.

Source: the kernel's userspace-api/landlock; numbers as of ABI 7. What an older kernel does not know is left out, and
shows when the guarantees are probed.
"""

import ctypes
import os
import stat
from collections.abc import Iterable

from trainers.tasks.code.sandbox import kernel

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = (1 << bit for bit in range(4))
READING = READ_FILE | READ_DIR
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14  # and truncation: what a file, not a directory, can have
RIGHTS_BY_ABI = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))  # ABI -> the rights it brought
BIND_AND_CONNECT_TCP = 3  # ABI 4
ABSTRACT_SOCKETS_AND_SIGNALS = 3  # ABI 6


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def restrict(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Restrict this process, and its children, for good; needs no_new_privs. Paths that do not exist are skipped.

    Args:
        readable: files and directories that can be read.
        writable: the same, to be changed as well.

    Raises:
        OSError: the kernel has no Landlock, or it is not switched on.
    """
    abi = kernel.syscall(CREATE_RULESET, None, 0, 1)
    rights = 0
    for since, brought in RIGHTS_BY_ABI:
        rights |= brought if abi >= since else 0
    attributes = _Ruleset(rights, BIND_AND_CONNECT_TCP, ABSTRACT_SOCKETS_AND_SIGNALS)
    known = 8 if abi < 4 else 16 if abi < 6 else 24  # bytes of the structure that this kernel knows
    ruleset = kernel.syscall(CREATE_RULESET, ctypes.byref(attributes), known, 0)
    for path in readable:
        _allow(ruleset, path, READING & rights)
    for path in writable:
        _allow(ruleset, path, rights & ~EXECUTE)
    kernel.syscall(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there
        return
    if not stat.S_ISDIR(os.fstat(parent).st_mode):
        rights &= FILE_RIGHTS
    rule = _PathBeneath(rights, parent)
    kernel.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    os.close(parent)
