"""The sandbox: every attack is contained and the next run works; no output of the code reaches the verdict; a platform
that does not hold a guarantee is found out and refused."""

import itertools
import os
import re
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from trainers.tasks.code.sandbox import (
    GUARANTEES,
    Limits,
    Outcome,
    Run,
    Runner,
    SandboxError,
    UnitTests,
    open_sandbox,
    probing,
    runner,
    seccomp,
    wire,
)

MARKS = itertools.count()


@pytest.fixture(scope="module")
def sandbox():
    """The runner of a platform that has namespaces, Landlock and seccomp; where it has them, everything holds."""
    found = probing.walls()
    if found.mode not in ("root", "user") or found.layers != runner.LAYERS:
        pytest.skip(f"this platform has mode {found.mode!r} and layers {sorted(found.layers)} alone")
    assert not found.missing
    return open_sandbox()


@pytest.fixture
def attack(sandbox):
    """Run code, look for what is left of it, and run something else."""

    def run(code: str, **limits) -> Outcome:
        mark = 30_000_000 + os.getpid() * 100 + next(MARKS)  # a limit without effect, to know its processes by
        changed = replace(sandbox.limits, **({"file_bytes": mark} | limits))
        outcome = replace(sandbox, limits=changed).run(Run(code))
        assert not outcome.outlived
        assert not processes_with(changed.file_bytes)
        assert sandbox.run(Run("print('the run goes on')")).stdout == "the run goes on\n"
        return outcome

    return run


def processes_with(mark: int) -> list[int]:
    """Processes that may write files of this size."""
    found = []
    for path in Path("/proc").glob("[0-9]*/limits"):
        try:
            found += [int(path.parent.name)] if re.search(rf"Max file size +{mark} ", path.read_text()) else []
        except OSError:
            continue
    return found


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def open_directory():
    """A directory that every user may enter and change: only the sandbox keeps code out."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


# --- attacks --------------------------------------------------------------------------------------


FORK_BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError as error:\n        last = error\n"


@pytest.mark.parametrize("processes", [1, 8])
def test_a_fork_bomb_ends_with_its_run(attack, processes):
    outcome = attack(FORK_BOMB, processes=processes, wall_seconds=1.0, cpu_seconds=20)
    assert outcome.status == "timeout"


def test_no_more_processes_start_than_allowed(attack):
    code = """
import os, time
children = 0
try:
    while children < 100:
        if os.fork() == 0:
            time.sleep(30)
        children += 1
except OSError:
    print(children, flush=True)
os._exit(0)
"""
    assert 1 <= int(attack(code, processes=4, threads=3).stdout) <= 7
    assert attack("import os\ntry:\n    os.fork()\nexcept OSError:\n    print('none')").stdout == "none\n"


def test_no_more_threads_start_than_allowed(attack):
    code = """
import threading
forever, started = threading.Event(), 0
threading.stack_size(32768)
try:
    while started < 1000:
        threading.Thread(target=forever.wait, daemon=True).start()
        started += 1
except RuntimeError:
    print(started)
"""
    assert 1 <= int(attack(code, threads=5).stdout) <= 6


def test_an_infinite_loop_is_killed_at_its_cpu_limit(attack):
    outcome = attack("while True: pass", wall_seconds=30)
    assert (outcome.status, outcome.exit_code) == ("killed", -signal.SIGKILL)
    assert outcome.cpu_seconds < 3


def test_sleeping_through_every_signal_ends_at_the_wall_limit(attack):
    code = """
import signal, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
time.sleep(60)
"""
    outcome = attack(code, wall_seconds=1.0)
    assert outcome.status == "timeout"
    assert outcome.wall_seconds < 30


@pytest.mark.parametrize(
    "code", ["bytearray(10**9)", "x = 'x'\nwhile True: x += x", "[0] * 10**10", "'%1000000000d' % 1"]
)
def test_a_memory_bomb_meets_its_limit(attack, code):
    outcome = attack(code)
    assert outcome.exit_code == 1
    assert "MemoryError" in outcome.stderr


def test_a_flood_of_output_is_dropped(attack):
    outcome = attack("import os\nwhile True: os.write(1, b'x' * 65536)", output_bytes=1000)
    assert outcome.status in ("killed", "timeout")
    assert outcome.stdout == "x" * 1000
    assert outcome.dropped_bytes > 2**20


def test_a_daemon_dies_with_its_run(attack):
    code = """
import os, signal, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
os.wait()
print("left it behind")
"""
    outcome = attack(code, processes=8)
    assert (outcome.status, outcome.stdout) == ("exited", "left it behind\n")


def test_a_daemon_dies_where_there_are_no_namespaces(attack, sandbox):
    """There the launcher, which every orphan comes back to, kills them one by one."""
    code = "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n"
    code += "if os.getpgid(0) == os.getpid():\n    time.sleep(60)"
    mark = 31_415_926
    plain = Runner(replace(sandbox.limits, file_bytes=mark), "plain", frozenset({"rlimits"}))
    assert not plain.run(Run(code)).outlived
    assert not processes_with(mark)


WRITE = "def write(path, size):\n    with open(path, 'wb') as file:\n        file.write(bytes(size))\n"


def test_files_are_bounded_one_by_one_together_and_in_number(attack):
    one = attack(f"{WRITE}\nwrite('x', 3 * 2**20)", file_bytes=2**20)
    assert "File too large" in one.stderr
    together = attack(f"{WRITE}\nfor i in range(9): write(str(i), 2**20)", disk_bytes=4 * 2**20)
    assert "No space left" in together.stderr
    many = attack(f"{WRITE}\nfor i in range(99): write(str(i), 1)", files=20)
    assert "No space left" in many.stderr
    fine = attack(f"{WRITE}\nfor i in range(9): write(str(i), 1000)")
    assert fine.exit_code == 0


def test_descriptors_are_bounded(attack):
    assert "Too many open files" in attack("kept = [open('/dev/null') for _ in range(1000)]", open_files=20).stderr


def test_nothing_is_written_outside(attack, open_directory):
    existing = open_directory / "existing"
    existing.write_text("as it was")
    existing.chmod(0o666)
    targets = [str(open_directory / "new"), str(existing), "/new", "/tmp/new", "/usr/lib/new", os.__file__]
    code = f"""
import os
for path in {targets!r}:
    for mode in ("w", "a"):
        try:
            with open(path, mode) as file:
                file.write("changed")
            print("wrote", path)
        except OSError:
            pass
    for act in (os.remove, os.rmdir, os.mkdir, lambda p: os.chmod(p, 0o777), lambda p: os.rename("mine", p)):
        try:
            act(path)
            print("changed", path)
        except OSError:
            pass
"""
    assert attack(code).stdout == ""
    assert [path.name for path in open_directory.iterdir()] == ["existing"]
    assert existing.read_text() == "as it was"


def test_no_file_of_the_user_is_read(attack, open_directory):
    (open_directory / "secret").write_text("the-planted-word")
    (open_directory / "secret").chmod(0o644)
    paths = [
        open_directory / "secret",
        Path.home() / ".bashrc",
        Path.home() / ".profile",
        "/etc/passwd",
        "/etc/shadow",
    ]
    paths += [__file__, f"/proc/{os.getpid()}/environ", "/proc/self/environ", "/proc/1/environ", "/proc/1/cmdline"]
    code = f"""
import os
print(os.environ.get("HOME"), sorted(set(os.environ) - {{"HOME", "TMPDIR"}}))
for path in {list(map(str, paths))!r}:
    os.symlink(path, "link")
    for name in (path, "link", "../../../../.." + path):
        try:
            with open(name) as file:
                print("read", name, file.read())
        except OSError:
            pass
    os.remove("link")
for directory in ("/", "/proc", {str(open_directory)!r}, {str(Path.home())!r}, "/etc"):
    try:
        print("listed", directory, os.listdir(directory))
    except OSError:
        pass
"""
    assert attack(code).stdout == "/home []\n"


def test_network_and_signals_do_not_get_out(attack):
    """The same program, without walls, reaches every listener and kills the sentinel: so the test can fail."""
    code = """
import os, signal, socket
def attempt(act):
    try:
        act()
    except OSError:
        pass
def send(family, kind, address):
    end = socket.socket(family, kind)
    end.settimeout(0.2)
    end.connect(address)
    end.send(b"x")
attempt(lambda: send(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", TCP)))
attempt(lambda: send(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", UDP)))
attempt(lambda: send(socket.AF_UNIX, socket.SOCK_STREAM, PATH))
attempt(lambda: send(socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + NAME))
attempt(lambda: socket.getaddrinfo("localhost", 80))
for target in TARGETS:
    attempt(lambda: os.kill(target, signal.SIGKILL))
"""
    with probing.plant() as planted:
        facts = {
            "TCP": planted.listeners["tcp"].getsockname()[1],
            "UDP": planted.listeners["udp"].getsockname()[1],
            "PATH": str(planted.directory / "socket"),
            "NAME": planted.word,
        }
        told = "".join(f"{name} = {value!r}\n" for name, value in facts.items())
        outcome = attack(f"{told}TARGETS = {[planted.sentinel.pid, os.getpid(), os.getppid(), -1]!r}\n{code}")
        assert outcome.exit_code in (0, -signal.SIGKILL)  # of itself it may dispose
        assert planted.touched() == {}

        Runner(mode="plain", layers=frozenset()).run(Run(f"{told}TARGETS = {[planted.sentinel.pid]!r}\n{code}"))
        planted.sentinel.wait(timeout=10)
        touched = planted.touched()
        assert set(touched) == {"network", "signals"}
        assert all(name in touched["network"] for name in planted.listeners)


CONNECT = """
import socket
def send(family, kind, address):
    try:
        with socket.socket(family, kind) as end:
            end.settimeout(0.2)
            end.connect(address)
            end.send(b"x")
    except OSError as error:
        print(type(error).__name__)
"""


def test_each_layer_alone_keeps_signals_and_connections_in(sandbox):
    """Namespaces, and the filter of system calls: neither leans on the other."""
    for mode, layers in ((sandbox.mode, frozenset()), ("plain", frozenset({"seccomp"}))):
        with probing.plant() as planted:
            ports = [planted.listeners[name].getsockname()[1] for name in ("tcp", "udp")]
            code = f"{CONNECT}send(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', {ports[0]}))\n"
            code += f"send(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', {ports[1]}))\n"
            code += f"send(socket.AF_UNIX, socket.SOCK_STREAM, '\\0{planted.word}')\n"
            code += f"import os\nfor number in (9, 15):\n    os.kill({planted.sentinel.pid}, number)"
            assert "Error" in Runner(mode=mode, layers=layers).run(Run(code)).stderr
            assert planted.touched() == {}


LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
DENIED = {
    "setuid": "import os; os.setuid(0)",
    "exec": "import os; os.execv('/bin/sh', ['sh'])",
    "program": "import subprocess; subprocess.run(['/bin/ls'])",
    "socketpair": "import socket; socket.socketpair()",
    "memfd": "import os; os.memfd_create('x')",
    "limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
    "limits of another": f"import resource; resource.prlimit({os.getpid()}, resource.RLIMIT_CPU, (1, 1))",
    "priority": "import os; os.setpriority(os.PRIO_USER, 0, 19)",
    "owner of signals": f"import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, {os.getpid()})",
    "namespace": f"{LIBC}if libc.unshare(1 << 28): raise OSError(ctypes.get_errno())",
    "trace": f"{LIBC}if libc.ptrace(16, 1, 0, 0): raise OSError(ctypes.get_errno())",
    "chroot": "import os; os.chroot('.')",
    "device": "import os, stat; os.mknod('x', 0o600 | stat.S_IFBLK, os.makedev(8, 0))",
    "terminal": "open('/dev/tty')",
}


@pytest.mark.parametrize("what", DENIED)
def test_privileges_are_not_to_be_had(attack, what):
    outcome = attack(DENIED[what])
    assert outcome.exit_code == 1
    assert outcome.stderr.splitlines()[-1].partition(":")[0] in (
        "PermissionError",
        "OSError",
        "FileNotFoundError",
        "ValueError",
    )


def test_standard_input_is_empty_and_the_directory_is_its_own(attack):
    code = "import os, sys\nprint(repr(sys.stdin.read()), os.getcwd(), os.listdir('.'))\nopen('left', 'w').close()"
    before = set(os.listdir(tempfile.gettempdir()))
    assert attack(code).stdout == "'' /home []\n"
    assert attack(code).stdout == "'' /home []\n"
    left = set(os.listdir(tempfile.gettempdir())) - before
    assert not [name for name in left if name.startswith("sandbox-") and "probe" not in name and not _in_use(name)]


def _in_use(name: str) -> bool:
    """Of another test process, running now."""
    time.sleep(1)
    return not Path(tempfile.gettempdir(), name).exists()


def test_an_ordinary_program_runs_as_it_would_outside(sandbox):
    code = """
import asyncio.events, collections, dataclasses, json, math, random, re, sys, threading
@dataclasses.dataclass
class Point:
    x: int
numbers = []
thread = threading.Thread(target=lambda: numbers.append(math.sqrt(16)))
thread.start(); thread.join()
print(json.dumps([dataclasses.asdict(Point(1)), numbers]), __name__)
print("aside", file=sys.stderr)
sys.exit(7)
"""
    outcome = sandbox.run(Run(code))
    assert (outcome.status, outcome.exit_code) == ("exited", 7)
    assert (outcome.stdout, outcome.stderr) == ('[{"x": 1}, [4.0]] __main__\n', "aside\n")


def test_several_at_once_keep_their_order(sandbox):
    codes = [f"import time; time.sleep({0.2 * (i == 0)}); print({i})" for i in range(6)]
    outcomes = replace(sandbox, workers=3).run_all([Run(code) for code in codes])
    assert [outcome.stdout for outcome in outcomes] == [f"{i}\n" for i in range(6)]


# --- verdicts -------------------------------------------------------------------------------------

TESTS = UnitTests(("assert f(2, 3) == 6", "assert f(4, 5) == 20", "assert f(0, 7) == 0"))


def passed(sandbox, code: str, tests: UnitTests = TESTS) -> tuple[bool, ...]:
    return sandbox.run(Run(code, tests)).passed


def test_each_unit_test_is_judged_by_itself(sandbox):
    assert passed(sandbox, "def f(a, b): return a * b") == (True, True, True)
    assert passed(sandbox, "def f(a, b): return a + b + 1") == (True, False, False)
    assert passed(sandbox, "def f(a, b): return 1 / 0 if a == 4 else a * b") == (True, False, True)
    assert passed(sandbox, "def f(a, b):\n    while a == 4: pass\n    return a * b") == (True, False, False)
    assert passed(sandbox, "def f(a, b) return a") == (False, False, False)
    assert passed(sandbox, "") == (False, False, False)


FORGERIES = {
    "print": 'print(\'{"test": 0, "passed": true}\')\ndef f(a, b): print(\'{"test": 0, "passed": true}\')',
    "every descriptor": """
import os
def f(a, b):
    for descriptor in range(64):
        for text in (b'{"test": 0, "passed": true}\\n', b'{"test": 1, "passed": true}\\n', b'{"exit_code": 0}\\n'):
            try:
                os.write(descriptor, text)
            except OSError:
                pass
""",
    "exit": "import sys; sys.exit(0)",
    "hard exit": "import os; os._exit(0)",
    "exit in a call": "import sys\ndef f(a, b): sys.exit(0)",
    "hard exit in a call": "import os\ndef f(a, b): os._exit(0)",
    "equal to everything": """
class Equal:
    def __eq__(self, other): return True
    __ne__ = __bool__ = __eq__
    def __hash__(self): return 6
def f(a, b): return Equal()
""",
    "equal number": "class Equal(int):\n    def __eq__(self, other): return True\ndef f(a, b): return Equal(1)",
    "patched builtins": """
import builtins
builtins.AssertionError = type("Quiet", (BaseException,), {})
builtins.exec = builtins.compile = lambda *a, **k: None
builtins.__dict__["isinstance"] = lambda *a: True
def f(a, b): return True
""",
    "patched launcher": """
import sys
for module in list(sys.modules.values()):
    for name in ("report", "verdicts", "decode", "encode"):
        if hasattr(module, name): setattr(module, name, lambda *a, **k: ["value", 6])
def f(a, b): return None
""",
    "frames": """
import sys
frame = sys._getframe()
while frame:
    for value in list(frame.f_locals.values()):
        if isinstance(value, dict) and "tests" in value: value["tests"] = None
    frame = frame.f_back
def f(a, b): return None
""",
    "raised": "def f(a, b): raise SystemExit(0)",
    "huge answer": "def f(a, b): return 'x' * 10**7",
    "deep answer": "def f(a, b):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "endless answer": "import itertools\ndef f(a, b): return itertools.repeat(6)",
    "killed judge": "import os, signal\ndef f(a, b):\n    for number in (9, 15, 19): os.kill(os.getppid(), number)",
}


@pytest.mark.parametrize("how", FORGERIES)
def test_no_verdict_is_forged(sandbox, how):
    assert passed(sandbox, FORGERIES[how]) == (False, False, False)
    assert passed(sandbox, "def f(a, b): return a * b") == (True, True, True)


@pytest.mark.parametrize("test", ["assert f(1, 2) != 5", "assert f(1, 2)", "assert not f(1, 2)", "assert f(1, 2) < 9"])
def test_an_object_of_the_code_answers_no_question(sandbox, test):
    assert passed(sandbox, FORGERIES["equal to everything"], UnitTests((test,))) == (False,)
    assert passed(sandbox, "def f(a, b): return a * b", UnitTests((test,))) == (not test.startswith("assert not"),)


def test_what_is_expected_never_reaches_the_tested_code(sandbox):
    """It has its calls' two pipes, and neither files nor objects that hold the tests."""
    code = """
import gc, os
def f(a, b):
    open_ones = [d for d in range(64) if os.path.lexists("/") and _is_open(d)]
    texts = [x for o in gc.get_objects() for x in gc.get_referents(o) if isinstance(x, str)]
    return [len(open_ones), any("-".join(["the", "expected", "value"]) in text for text in texts)]
def _is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
"""
    tests = UnitTests(("assert f(1, 2) == [5, False]", "assert f(1, 2) == 'the-expected-value'"))
    assert passed(sandbox, code, tests) == (True, False)


def test_values_cross_as_they_are_and_objects_can_be_given_back(sandbox):
    code = """
import collections
class Pair:
    def __init__(self, a, b): self.a, self.b = a, b
def total(pairs): return sum(pair.a for pair in pairs)
def same(x): return x
def count(words): return collections.Counter(words)
def squares(n): return (i * i for i in range(n))
def fails(): raise KeyError("x")
"""
    tests = (
        "assert total([Pair(5, 24), Pair(15, 25)]) == 20",
        "x = [1, 2.5, None, 'ä', b'b', 1j, (1, 2), {3}, frozenset({4}), {5: [6], (7, 8): {}}]; assert same(x) == x",
        "assert [type(same(v)) for v in (1, 1.0, True, (), [], set())] == [int, float, bool, tuple, list, set]",
        "assert count('aab') == {'a': 2, 'b': 1}",
        "assert list(squares(3)) == [0, 1, 4]",
        "assert math.isclose(same(0.1) + 0.2, 0.3)",
        "try:\n    fails()\nexcept KeyError:\n    pass\nelse:\n    raise AssertionError",
        "assert same(float('nan')) != same(float('nan')) and same(float('inf')) > 1",
    )
    assert passed(sandbox, code, UnitTests(tests)) == (True,) * len(tests)


def test_helpers_of_the_tests_are_the_tests_own(sandbox):
    """HumanEval's prompts define what its checks use: a solution that redefines it changes nothing."""
    setup = "def distance(a, b): return abs(a - b)\ndef f(a): ...\n"
    setup += "def check(candidate): assert distance(candidate(3), 6) < 1"
    tests = UnitTests(("check(f)",), setup, ("f",))
    assert passed(sandbox, "def f(a): return 2 * a", tests) == (True,)
    assert passed(
        sandbox, "def f(a): return 7\ndef distance(a, b): return 0\ndef check(f): ...\nabs = distance", tests
    ) == (False,)


def test_a_broken_setup_is_told(sandbox):
    outcome = sandbox.run(Run("def f(a): return a", UnitTests(("assert f(1) == 1",), "import missing_module")))
    assert outcome.passed == (False,)
    assert "missing_module" in outcome.problem


def test_hostile_messages_are_values_or_errors():
    def unresolved(kind, content):
        raise ValueError(kind)

    deep = ["list", []]
    for _ in range(100_000):
        deep = ["list", [deep]]
    hostile = [
        [],
        [1],
        ["list"],
        ["list", 5],
        ["dict", [1]],
        ["dict", [[["list", []], 1]]],
        ["set", [["list", []]]],
        deep,
    ]
    hostile += [
        ["bytes", "xyz"],
        ["bytes", 1],
        ["complex", []],
        ["complex", ["a", "b"]],
        ["name", "f"],
        {"a": 1},
        ["a", "b", "c"],
    ]
    for message in hostile:
        with pytest.raises(ValueError):
            wire.decode(message, unresolved)


# --- the filter of system calls ------------------------------------------------------------------


def decide(code: list[seccomp.Instruction], machine: str, number: int, first: int = 0, second: int = 0) -> int:
    """What a filter answers: classic BPF, by hand."""
    data = struct.pack("<IIQQQ", number, seccomp.AUDIT_ARCHITECTURES[machine], 0, first, second)
    at, value = 0, 0
    while True:
        operation, yes, no, constant = code[at]
        at += 1
        if operation == seccomp.LOAD:
            (value,) = struct.unpack_from("<I", data, constant)
        elif operation == seccomp.RETURN:
            return constant
        else:
            true = {
                seccomp.JUMP_EQUAL: value == constant,
                seccomp.JUMP_ABOVE: value > constant,
                seccomp.JUMP_BITS: bool(value & constant),
            }[operation]
            at += yes if true else no


@pytest.mark.parametrize("machine", seccomp.AUDIT_ARCHITECTURES)
@pytest.mark.parametrize(("processes", "threads"), [(False, False), (False, True), (True, True)])
def test_the_filter_refuses_what_the_table_lists_and_nothing_else(machine, processes, threads):
    column = list(seccomp.AUDIT_ARCHITECTURES).index(machine)
    code = seccomp.program(machine, 77, processes, threads)
    eperm, enosys = seccomp.FAIL | 1, seccomp.FAIL | 38

    def answer(call, *arguments):
        return decide(code, machine, call[column], *arguments)

    denied = {call[column] for call in seccomp.DENIED.values()} - {None}
    special = {
        seccomp.KILL,
        seccomp.TGKILL,
        seccomp.PRLIMIT,
        seccomp.CLONE,
        seccomp.CLONE3,
        seccomp.FORK,
        seccomp.VFORK,
    }
    special |= set(seccomp.OWNER_OF_SIGNALS)
    unlisted = set(range(seccomp.LAST_KNOWN + 1)) - denied - {call[column] for call in special}
    assert {decide(code, machine, number) for number in denied} == {eperm}
    assert {decide(code, machine, number) for number in unlisted} == {seccomp.ALLOW}
    assert {decide(code, machine, number) for number in (463, 1000, 1 << 30, (1 << 30) + 41)} == {enosys}
    for call in (seccomp.KILL, seccomp.TGKILL):
        assert [answer(call, pid) for pid in (77, 1, 76, 0, 2**32 - 1)] == [seccomp.ALLOW, *[eperm] * 4]
    assert [answer(seccomp.PRLIMIT, pid) for pid in (0, 77, 1)] == [seccomp.ALLOW, seccomp.ALLOW, eperm]
    assert [answer(seccomp.FCNTL, 0, command) for command in (1, 8, 10, 15, 9)] == [
        seccomp.ALLOW, eperm, eperm, eperm, seccomp.ALLOW,
    ]  # fmt: skip
    assert [answer(seccomp.IOCTL, 0, command) for command in (0x5401, 0x8901, 0x8902)] == [seccomp.ALLOW, eperm, eperm]
    as_thread, as_process = 0x3D0F00, 17  # what glibc passes for a thread and for fork
    assert answer(seccomp.CLONE, as_thread) == (seccomp.ALLOW if threads else eperm)
    assert answer(seccomp.CLONE, as_process) == (seccomp.ALLOW if processes else eperm)
    assert answer(seccomp.CLONE, as_process | 1 << 28) == eperm
    assert answer(seccomp.CLONE3) == enosys
    other = next(name for name in seccomp.AUDIT_ARCHITECTURES if name != machine)
    assert decide(code, other, unlisted.pop()) == seccomp.KILL_PROCESS


def test_an_architecture_without_a_table_is_an_error():
    with pytest.raises(OSError, match="riscv64"):
        seccomp.program("riscv64", 1, False, False)


# --- what the platform cannot enforce ------------------------------------------------------------


def test_a_platform_without_layers_is_found_out(sandbox):
    """No namespaces, Landlock or filter: every guarantee that they give is seen to be missing."""
    missing = probing.probe("plain", frozenset({"rlimits"}))
    assert set(missing) == {"network", "files_read", "files_write", "disk", "processes", "signals"}


def test_a_platform_without_limits_is_found_out(sandbox, monkeypatch):
    monkeypatch.setattr(probing, "SPINNING", replace(probing.SPINNING, wall_seconds=3.0))
    missing = probing.probe(sandbox.mode, frozenset({"landlock", "seccomp"}))
    assert {"memory", "cpu", "processes", "disk"} <= set(missing)


def test_runs_that_do_not_end_and_floods_that_are_kept_are_found_out(monkeypatch):
    class Leaky(Runner):
        def run(self, run):
            return Outcome("exited", 0, "x" * 10**6, "", 0, 0.0, 0.0, outlived=True)

    monkeypatch.setattr(probing, "Runner", Leaky)
    assert set(probing._sleeping("plain", frozenset())) == {"output", "escape"}
    assert "escape" in probing._processes("plain", frozenset())
    untried = probing._surroundings("plain", frozenset())
    assert {"network", "files_read", "files_write", "signals", "memory", "disk"} <= set(untried)


@pytest.mark.parametrize("name", GUARANTEES)
def test_a_missing_guarantee_is_refused_unless_allowed_by_name(sandbox, monkeypatch, name):
    lacking = probing.Walls(sandbox.mode, sandbox.layers, {name: "seen broken"})
    monkeypatch.setattr(probing, "walls", lambda: lacking)
    with pytest.raises(ValueError, match=rf"does not enforce {name} \(seen broken\).*allow_unenforced: \[{name}\]"):
        open_sandbox()
    others = [other for other in GUARANTEES if other != name]
    with pytest.raises(ValueError, match=f"does not enforce {name}"):
        open_sandbox(allow_unenforced=others)
    with pytest.warns(UserWarning, match=f"not enforced here, as allowed by name: {name}"):
        allowed = open_sandbox(allow_unenforced=[name])
    assert allowed == sandbox


def test_an_unknown_guarantee_is_named():
    with pytest.raises(ValueError, match="allow_unenforced='internet': expected some of network"):
        open_sandbox(allow_unenforced=["internet"])


def test_another_operating_system_is_refused_whatever_is_allowed(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    found = probing.walls.__wrapped__()
    monkeypatch.undo()
    assert set(found.missing) == set(GUARANTEES)
    monkeypatch.setattr(probing, "walls", lambda: found)
    with pytest.raises(ValueError, match=r"does not enforce network .*darwin.*escape"):
        open_sandbox(allow_unenforced=list(GUARANTEES))


def test_a_sandbox_that_cannot_be_built_is_no_outcome(sandbox, monkeypatch, tmp_path):
    broken = tmp_path / "launcher.py"
    broken.write_text("raise SystemExit('no walls here')")
    monkeypatch.setattr(runner, "LAUNCHER", broken)
    with pytest.raises(SandboxError, match="the launcher"):
        sandbox.run(Run(""))


def test_the_launcher_finds_its_siblings_by_path_and_takes_nothing_else_from_there(sandbox, monkeypatch, tmp_path):
    """It runs as a script, without site-packages: a file beside it must not stand in for the standard library."""
    folder = tmp_path / "trainers/tasks/code/sandbox"
    shutil.copytree(runner.LAUNCHER.parent, folder)
    for planted in ("json", "resource", "select"):
        (folder / f"{planted}.py").write_text("raise SystemExit('imported from beside the launcher')")
    for above in (folder, *folder.parents[:3]):
        (above / "__init__.py").write_text("raise SystemExit('the launcher imported a package')")
    solution = folder / "solution.py"
    solution.write_text(solution.read_text().replace('"<code>"', '"<code of the copy>"'))
    monkeypatch.setattr(runner, "LAUNCHER", folder / "launcher.py")
    assert "<code of the copy>" in sandbox.run(Run("1 / 0")).stderr


@pytest.mark.parametrize(
    "limit", [{"wall_seconds": 0}, {"memory_bytes": 1}, {"processes": "2"}, {"files": float("inf")}]
)
def test_impossible_limits_are_named(limit):
    with pytest.raises(ValueError, match=rf"limits\.{next(iter(limit))}="):
        Limits(**limit)


def test_a_launcher_that_is_killed_takes_everything_along(sandbox):
    """As when the trainer dies: the kernel kills the judge with its parent, and with it all inside."""
    mark = 27_182_818
    changed = replace(sandbox, limits=replace(sandbox.limits, file_bytes=mark, wall_seconds=20.0))
    outcomes = []

    def run():
        try:
            outcomes.append(changed.run(Run("import time; time.sleep(15)")))
        except SandboxError as error:
            outcomes.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(2):  # it is tried twice
        deadline = time.monotonic() + 15
        while not (found := processes_with(mark)) and time.monotonic() < deadline:
            time.sleep(0.01)
        judge = parent_of(found[0])
        os.kill(parent_of(judge), signal.SIGKILL)
        while found[0] in processes_with(mark) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert found[0] not in processes_with(mark)
    thread.join(timeout=20)
    assert isinstance(outcomes[0], SandboxError)
