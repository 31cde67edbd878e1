"""`python -I -S launcher.py`: runs untrusted code for `trainers.tasks.code.sandbox.jobs`, which sends them.

It is started once and forks for every job, as importing takes longer than all the rest; it reads nothing of a job but
its limits, so no run finds anything of another in its memory. Three processes make a run. The launcher, one of these
forks, builds the walls and keeps the time. Its child is the judge, the first process inside. The judge's child is the
solution, which runs the code; it is forked before the judge reads the tests, so that its memory never held them. The
launcher, which no code can signal, kills the judge; with the first process of a process namespace, all others die.

A job is JSON, see `jobs.Job`, with open files. What happened is reported in lines of JSON on a pipe of its own,
whose end the solution does not have.
"""

import json
import os
import resource
import select
import signal
import socket
import sys
import time
from types import ModuleType
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
# The packages above without their __init__: those import data sets and trainers.
PACKAGES = ("trainers.tasks.code.sandbox", "trainers.tasks.code", "trainers.tasks", "trainers")
for depth, package in enumerate(PACKAGES):
    bare = sys.modules[package] = ModuleType(package)
    bare.__path__ = [os.path.normpath(os.path.join(HERE, *[os.pardir] * depth))]

from trainers.tasks.code.sandbox import judge, kernel, landlock, namespaces, seccomp, solution  # noqa: E402

MAX_JOB = 2**16  # bytes
LAST_WORDS = 0.5  # seconds that the code has for leaving when all tests are done
STANDARD = 3  # file descriptors: stdin, stdout, stderr
FILES = ("stdout", "stderr", "result", "code", "tests")  # that come with a job; it may have no tests
WAYS = {"root": namespaces.enter_as_root, "user": namespaces.enter_as_user}  # modes with namespaces; others: none


def serve() -> int:
    """Fork for each job that comes through the socket at standard input, until it is closed."""
    jobs = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no child is waited for
    while True:
        text, descriptors, _, _ = socket.recv_fds(jobs, MAX_JOB, len(FILES))
        if not text:
            return 0
        if os.fork() == 0:
            jobs.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for standard in (1, 2):
                os.dup2(descriptors[standard - 1], standard)
                os.close(descriptors[standard - 1])
            return launch(json.loads(text) | dict(zip(FILES, descriptors, strict=False)))
        for descriptor in descriptors:
            os.close(descriptor)


def launch(job: dict[str, Any]) -> int:
    """Run one job."""
    started = time.monotonic()
    report(job, launcher=os.getpid())
    # Linux counts a user's processes inside a user namespace by itself, but not where that user is root outside.
    job["counted"] = job["mode"] == "root" or (job["mode"] == "user" and os.getuid() != 0)
    try:
        kernel.die_with_parent()
        enter(job)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        first = os.fork()
    except OSError as error:
        report(job, broken=str(error))
        return 1
    if first == 0:
        return inside(job)
    for standard in (1, 2):  # the solution's alone
        os.dup2(0, standard)
    in_time = wait(first, started + job["limits"]["wall_seconds"])
    if not in_time:
        os.kill(first, signal.SIGKILL)
    _, _, usage = os.wait4(first, 0)
    kill_orphans()
    report(job, in_time=in_time, cpu_seconds=usage.ru_utime + usage.ru_stime)
    os._exit(0)  # there is nothing to tidy up


def report(job: dict[str, Any], **facts: Any) -> None:
    """Write facts as one line of JSON to the pipe that the solution does not have."""
    os.write(job["result"], json.dumps(facts).encode() + b"\n")


def enter(job: dict[str, Any]) -> None:
    """Make the walls that hold for the launcher too."""
    limits, mode = job["limits"], job["mode"]
    if mode in WAYS:
        WAYS[mode](job["scratch"], job["readable"], limits["disk_bytes"], limits["files"])
    elif mode == "nobody":
        os.chown(job["scratch"], namespaces.NOBODY, namespaces.NOBODY)
        namespaces.become_nobody()
    kernel.die_with_parent()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)


def wait(process: int, deadline: float) -> bool:
    """Whether a child ends before a time, in seconds of the monotonic clock."""
    handle = os.pidfd_open(process)
    ended, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
    os.close(handle)
    return bool(ended)


def kill_orphans() -> None:
    """Kill whatever is left, children of children too: they come back to the launcher, again and again."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for child in children():
            os.kill(child, signal.SIGKILL)
        time.sleep(0.001)


def children() -> list[int]:
    """Processes whose parent this is; with namespaces, where there is no /proc, none is left."""
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            with open(f"/proc/{entry}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # it is gone, or no process
            continue
        found += [int(entry)] if parent == os.getpid() else []
    return found


# --- inside ---------------------------------------------------------------------------------------


def inside(job: dict[str, Any]) -> int:
    """The judge, and the fork of the solution."""
    kernel.die_with_parent()
    os.environ.clear()
    home = namespaces.HOME if job["mode"] in WAYS else job["scratch"]
    os.environ.update(HOME=home, TMPDIR=home)
    os.chdir(home)
    with open(job["code"], encoding="utf-8") as file:
        code = file.read()
    to_solution, to_judge = os.pipe(), os.pipe()
    process = os.fork()
    if process == 0:
        return be_solution(job, home, code, to_solution[0], to_judge[1])
    try:
        os.close(to_solution[0])
        os.close(to_judge[1])
        for standard in (1, 2):  # the solution's alone
            os.dup2(0, standard)
        if "tests" not in job:
            os.close(to_solution[1])
        else:
            judge_tests(job, home, to_solution[1], to_judge[0])
        _, status, usage = os.wait4(process, 0)
        report(job, exit_code=os.waitstatus_to_exitcode(status), peak_bytes=usage.ru_maxrss * 1024)
    finally:
        os._exit(0)  # with it, all that the code has started


def judge_tests(job: dict[str, Any], home: str, requests: int, answers: int) -> None:
    """Run the tests against the solution's process, report each, and leave it `LAST_WORDS` seconds to end."""
    with open(job["tests"], encoding="utf-8") as file:
        tests = json.load(file)
    confine(job, home)
    try:
        for number, passed in enumerate(judge.verdicts(tests, judge.Channel(requests, answers))):
            report(job, test=number, passed=passed)
    except BaseException as error:  # of the setup: no test can be run
        report(job, setup=f"{type(error).__name__}: {error}")
    os.close(requests)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, LAST_WORDS)


def be_solution(job: dict[str, Any], home: str, code: str, requests: int, answers: int) -> int:
    """Close every file but its two pipes and the standard ones, run the code confined, answer the judge."""
    keep = {requests, answers}
    for descriptor in range(STANDARD, max(*keep, *(job[name] for name in FILES if name in job)) + 1):
        if descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:  # not open
                continue
    tested = "tests" in job
    confine(job, home)
    status, names = solution.run(code, "solution" if tested else "__main__")
    if tested and status == 0:
        solution.answer(requests, answers, names)
    return status


def confine(job: dict[str, Any], home: str) -> None:
    """What one process gives up, for good."""
    layers, limits = job["layers"], job["limits"]
    kernel.drop_capabilities()
    if "rlimits" in layers:
        set_limits(limits, job["counted"])
    if "landlock" in layers:
        landlock.restrict([*job["readable"], *namespaces.DEVICES], [home, "/dev/null"])
    if "seccomp" in layers:
        counted = job["counted"]  # what cannot be counted is not allowed at all
        seccomp.install(processes=counted and limits["processes"] > 1, threads=counted)


def set_limits(limits: dict[str, Any], counted: bool) -> None:
    """Set the resource limits: seconds of CPU, bytes, files and, where they are counted, processes."""
    seconds = max(1, round(limits["cpu_seconds"]))
    bounds = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: limits["processes"] + limits["threads"],
    }
    if counted:
        ours = 2  # launcher and judge
        bounds[resource.RLIMIT_NPROC] = ours + limits["processes"] + limits["threads"]
    for bound, value in bounds.items():
        _, hard = resource.getrlimit(bound)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(bound, (value, value))


if __name__ == "__main__":
    sys.exit(serve())
