"""No output of the tested code reaches the verdict."""

import pytest

from trainers.tasks.code.sandbox import Run, UnitTests

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
