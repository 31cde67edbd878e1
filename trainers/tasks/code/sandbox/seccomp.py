"""A system call filter: what code without processes, sockets and privileges has no use for is refused with EPERM.

Convention: refused calls fail, they do not kill, so that Python raises an ordinary exception. Calls newer than the
table do not exist (ENOSYS). Source: seccomp(2); the classic BPF of linux/filter.h.
"""

import ctypes
import errno
import os
import struct

from trainers.tasks.code.sandbox import kernel

# name -> number on x86_64 and on aarch64, from asm/unistd_64.h and asm-generic/unistd.h; None: there is no such call
DENIED: dict[str, tuple[int, int | None]] = {
    # network, and anything else that ends in another process
    "socket": (41, 198), "socketpair": (53, 199),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # programs: there is nothing to run
    "execve": (59, 221), "execveat": (322, 281),
    # memory that rlimits do not count
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192), "semctl": (66, 191),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "mq_notify": (244, 184),
    # mounts, namespaces, files by handle
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "unshare": (272, 97),
    "setns": (308, 268), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    # large attack surfaces of the kernel
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "fanotify_init": (300, 262), "personality": (135, 92),
    "modify_ldt": (154, None),
    # the machine
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "quotactl": (179, 60), "quotactl_fd": (443, 443), "acct": (163, 89),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "vhangup": (153, 58), "syslog": (103, 116),
    "iopl": (172, None), "ioperm": (173, None),
}  # fmt: skip

# calls whose arguments decide
KILL, TGKILL, PRLIMIT = (62, 129), (234, 131), (302, 261)
CLONE, CLONE3, FORK, VFORK = (56, 220), (435, 435), (57, None), (58, None)
FCNTL, IOCTL = (72, 25), (16, 29)
OWNER_OF_SIGNALS = {
    FCNTL: (8, 10, 15),
    IOCTL: (0x8901, 0x8902),
}  # F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP
CLONE_THREAD = 0x00010000
NEW_NAMESPACES = 0x7E020080  # all CLONE_NEW* flags
LAST_KNOWN = 462  # mseal, Linux 6.10

AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

LOAD, JUMP_EQUAL, JUMP_ABOVE, JUMP_BITS, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
ALLOW, KILL_PROCESS, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24  # offsets into struct seccomp_data, low halves

Instruction = tuple[int, int, int, int]  # operation, jump if true, jump if false, constant
Call = tuple[int, int | None]
Body = tuple[Instruction, ...]  # what is done for one call; it ends in a return

PASS: Instruction = (RETURN, 0, 0, ALLOW)
REFUSE: Instruction = (RETURN, 0, 0, FAIL | errno.EPERM)
UNKNOWN: Instruction = (RETURN, 0, 0, FAIL | errno.ENOSYS)
LOAD_FIRST, LOAD_SECOND = (LOAD, 0, 0, FIRST_ARGUMENT), (LOAD, 0, 0, SECOND_ARGUMENT)


def program(machine: str, pid: int, processes: bool, threads: bool) -> list[Instruction]:
    """The filter of one process.

    Args:
        machine: as `os.uname` names it.
        pid: of the process, the only one that it may signal or limit.
        processes: whether it may start processes.
        threads: whether it may start threads.

    Raises:
        OSError: an architecture without a table.
    """
    if machine not in AUDIT_ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"seccomp: no system call numbers for {machine}")
    column = list(AUDIT_ARCHITECTURES).index(machine)
    code: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER),
        (JUMP_ABOVE, 0, 1, LAST_KNOWN),  # x32 too: its numbers have bit 30
        UNKNOWN,
    ]
    for call, body in _rules(pid, processes, threads):
        number = call[column]
        if number is not None:
            code += [(JUMP_EQUAL, 0, len(body), number), *body]
    return [*code, PASS]


def _rules(pid: int, processes: bool, threads: bool) -> list[tuple[Call, Body]]:
    """What is done for each call that is not simply allowed."""
    own = (JUMP_EQUAL, 1, 0, pid)
    return [
        *((call, (REFUSE,)) for call in DENIED.values()),
        *((call, (LOAD_FIRST, own, REFUSE, PASS)) for call in (KILL, TGKILL)),
        (PRLIMIT, (LOAD_FIRST, (JUMP_EQUAL, 2, 0, 0), own, REFUSE, PASS)),  # 0 is the process itself
        *((call, _refused_commands(commands)) for call, commands in OWNER_OF_SIGNALS.items()),
        (CLONE3, (UNKNOWN,)),  # its flags lie in memory; the C library then takes clone
        *((call, (REFUSE,)) for call in (FORK, VFORK) if not processes),
        (CLONE, _clone(processes, threads)),
    ]


def _refused_commands(commands: tuple[int, ...]) -> Body:
    """Refuse a call whose second argument is one of these."""
    last = len(commands) - 1
    tests = [(JUMP_EQUAL, last - i, 0 if i < last else 1, command) for i, command in enumerate(commands)]
    return (LOAD_SECOND, *tests, REFUSE, PASS)


def _clone(processes: bool, threads: bool) -> Body:
    """A thread where they are allowed, no new namespace, else a process where they are allowed."""
    return (
        LOAD_FIRST,
        (JUMP_BITS, 3, 0, NEW_NAMESPACES),
        (JUMP_BITS, 0, 1, CLONE_THREAD),
        PASS if threads else REFUSE,
        PASS if processes else REFUSE,
        REFUSE,
    )


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


def install(processes: bool, threads: bool) -> None:
    """Filter this process and its children from now on; needs no_new_privs.

    Raises:
        OSError: the kernel or the architecture has no filters.
    """
    code = program(os.uname().machine, os.getpid(), processes, threads)
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    memory = ctypes.create_string_buffer(packed, len(packed))
    filtered = _Program(len(code), ctypes.addressof(memory))
    mode_filter = 2
    _set_filter(mode_filter, filtered)


def _set_filter(mode: int, filtered: _Program) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.prctl(kernel.PR_SET_SECCOMP, ctypes.c_ulong(mode), ctypes.byref(filtered))
    kernel.checked(result, "seccomp")
