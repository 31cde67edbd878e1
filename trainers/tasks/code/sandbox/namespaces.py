"""A world of its own: namespaces, with a root that holds the standard library, shared libraries and an empty home.

Two ways in. As root, the namespaces are made with root's rights, and the code becomes nobody in a user namespace of
its own: it then has no rights over any of them. An ordinary user makes the user namespace first. Sources:
namespaces(7), user_namespaces(7).
"""

import os

from trainers.tasks.code.sandbox import kernel

NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    getattr(os, f"CLONE_{name}", number)  # Python 3.12 has the names
    for name, number in (
        ("NEWNS", 1 << 17),
        ("NEWCGROUP", 1 << 25),
        ("NEWUTS", 1 << 26),
        ("NEWIPC", 1 << 27),
        ("NEWUSER", 1 << 28),
        ("NEWPID", 1 << 29),
        ("NEWNET", 1 << 30),
    )
)
ALL_BUT_USER = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWPID | NEWNET
NOBODY = 2**16 - 2
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
HOME = "/home"  # and TMPDIR


def enter_as_root(scratch: str, readable: list[str], disk_bytes: int, files: int) -> None:
    """Make the namespaces and the root, then become nobody; the next child is the first process inside.

    Args:
        scratch: an empty directory to build on.
        readable: files and directories of the machine that stay in sight, read-only.
        disk_bytes, files: what the home holds at most.

    Raises:
        OSError: the platform refuses a part of it.
    """
    kernel.unshare(ALL_BUT_USER)
    process = os.open("/proc/self", os.O_PATH | os.O_CLOEXEC)  # /proc is out of sight once the root is built
    _build_root(scratch, readable, disk_bytes, files)
    become_nobody()
    _own_user_namespace(process, NEWUSER)
    os.close(process)


def enter_as_user(scratch: str, readable: list[str], disk_bytes: int, files: int) -> None:
    """The same without root's rights; see `enter_as_root`."""
    process = os.open("/proc/self", os.O_PATH | os.O_CLOEXEC)
    _own_user_namespace(process, NEWUSER | ALL_BUT_USER)
    os.close(process)
    _build_root(scratch, readable, disk_bytes, files)


def become_nobody() -> None:
    """Give up root for the user `NOBODY`, for good, in a process whose /proc entries stay its own."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else /proc/self/uid_map belongs to root


def _own_user_namespace(process: int, flags: int) -> None:
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        file = os.open(name, os.O_WRONLY, dir_fd=process)
        os.write(file, text.encode())
        os.close(file)


def _build_root(scratch: str, readable: list[str], disk_bytes: int, files: int) -> None:
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)  # nothing of this is seen outside
    kernel.mount("root", scratch, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for path in [*readable, *DEVICES]:
        _bind(path, scratch + path)
    home = scratch + HOME
    os.mkdir(home)
    kernel.restrict_mount(scratch, kernel.MS_RDONLY | kernel.MS_NOSUID)  # no MS_NODEV: /dev/null stays a device
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("home", home, "tmpfs", flags, f"size={disk_bytes},nr_inodes={files + 1},mode=1777")
    kernel.pivot_root(scratch)


def _bind(source: str, target: str) -> None:
    if not os.path.exists(source):
        return
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)
