"""Nothing gets out: files, network, signals and privileges; nothing of another run comes in."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from trainers.tasks.code.sandbox import Run, Runner, planting


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
    with planting.plant() as planted:
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
        with planting.plant() as planted:
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
