"""Bounds of a run: processes, threads, time, memory, output and files; the next run works."""

import signal
from dataclasses import replace

import pytest
from marked import processes_with

from trainers.tasks.code.sandbox import Run, Runner

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
