"""The judge: no answer can stop it, and its worker is a process of its own."""

import os
import re
import shutil
import signal
import threading
from pathlib import Path

import pytest
from libraries import needs_math_verify

from trainers.tasks.math import judge as judging
from trainers.tasks.math.judge import MEMORY_BYTES, Judge


@pytest.fixture
def judge():
    judge = Judge(cpu_seconds=1.0)
    yield judge
    judge.close()


HOSTILE = [
    r"9^{9^{9^9}}",
    r"(10^7)!",
    "(" * 900 + "1" + ")" * 900,
    r"\frac{1}{" * 180 + "1" + "}" * 180,
]


@needs_math_verify
def test_a_hostile_answer_is_wrong_and_the_next_one_is_judged(judge):
    for text in HOSTILE:
        assert judge.is_equal(r"\boxed{5}", rf"\boxed{{{text}}}") is False
        assert judge.is_equal(r"\boxed{5}", r"\boxed{5}") is True
    assert judge.counts["stopped"] >= 2  # the power and the factorial at least
    assert judge.counts.total() == len(HOSTILE) + 1  # what was judged is remembered


@needs_math_verify
def test_odd_answers_are_wrong_and_never_an_error(judge):
    odd = ["\x00", "\ud800", "\\" * 999, "{}" * 900, "1" * 1900, r"\frac{1}{0}", "nan", "\n", '"', "__import__('os')"]
    assert not any(judge.is_equal(r"\boxed{5}", rf"\boxed{{{text}}}") for text in odd)
    assert judge._ask('["too few"]') == "TypeError"  # as an error of the library: the worker goes on
    assert judge.is_equal(r"\boxed{5}", r"\boxed{5}")


def test_a_text_that_is_too_long_is_wrong_unread(judge):
    assert judge.is_equal("5", "5" * 100_000) is False
    assert judge.counts == {"unread": 1}


@needs_math_verify
def test_a_worker_that_dies_or_hangs_is_replaced():
    judge = Judge(wall_seconds=0.5)
    assert judge.is_equal("$1$", "$1$")
    for number, sent in enumerate((signal.SIGKILL, signal.SIGSTOP), start=1):
        os.kill(judge._worker.pid, sent)
        assert judge.is_equal("$2$", f"$2+0\\cdot {number}$") is False
        assert judge.counts["stopped"] == number
        judge.wall_seconds = 60.0
        assert judge.is_equal("$3$", f"$3+0\\cdot {number}$") is True
        judge.wall_seconds = 0.5
    judge.close()


@needs_math_verify
def test_a_question_that_a_dead_worker_never_read_goes_with_it():
    judge = Judge()
    assert judge.is_equal("$1$", "$1$")
    judge._worker.kill()
    judge._worker.wait()  # what is sent to it from here on breaks the pipe, and so does what is left at its end
    assert judge.is_equal("$2$", "$2+0$") is False
    assert judge.is_equal("$3$", "$3+0$") is True
    judge.close()


@needs_math_verify
def test_the_worker_has_the_memory_it_is_allowed(judge):
    judge.is_equal("$1$", "$1$")
    limits = Path(f"/proc/{judge._worker.pid}/limits")
    if not limits.exists():
        pytest.skip("needs /proc")
    assert re.search(rf"^Max address space +{MEMORY_BYTES} ", limits.read_text(), re.MULTILINE)


@needs_math_verify
def test_the_worker_takes_nothing_from_its_own_folder(judge, monkeypatch, tmp_path):
    """It runs as a script: a file beside it must not stand in for the standard library, which sympy imports."""
    assert (judging.WORKER.parent / "fractions.py").is_file()  # such a one
    worker = shutil.copy(judging.WORKER, tmp_path)
    for planted in ("fractions", "math", "json"):
        (tmp_path / f"{planted}.py").write_text("raise SystemExit('imported from beside the worker')")
    monkeypatch.setattr(judging, "WORKER", Path(worker))
    assert judge.is_equal("$1$", "$1$")


@needs_math_verify
def test_threads_and_forks_are_judged_too(judge):
    assert judge.is_equal("$1$", "$1$")
    found = []
    threads = [threading.Thread(target=lambda n=n: found.append(judge.is_equal("$7$", f"${n}$"))) for n in range(6, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False, False, True]
    child = os.fork()
    if child == 0:
        parents = judge._worker.pid
        right = judge.is_equal("$9$", "$3^2$") and not judge.is_equal("$9$", "$3^3$")
        own = judge._worker.pid != parents
        judge.close()
        os._exit(0 if right and own else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert judge.is_equal("$11$", "$11$")
