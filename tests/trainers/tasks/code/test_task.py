"""The code task: references pass their tests and nothing else does, splits are disjoint in behaviour, nothing is run
unless asked for, and bad input is named."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from paths import CONFIGS
from transformers import AutoTokenizer

from trainers.models.tiny import TINY_ASSETS
from trainers.tasks.code import functions, task
from trainers.tasks.code.functions import SHAPES, Function
from trainers.tasks.code.problems import of_function, to_problem
from trainers.tasks.code.sandbox import opening

CONFIG = CONFIGS / "trajectory_nelbo_code.yaml"
SPLITS = ("train", "validation", "test")
MBPP = {
    "text": "Write a function to add two numbers.",
    "code": "def add(x, y):\r\n  return x + y",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(-1, 5) == 4"],
    "test_setup_code": "",
}


HUMANEVAL = {
    "prompt": 'import math\n\ndef double(x: int) -> int:\n    """Twice x."""\n    return x + x\n\n\n'
    'def quadruple(x: int) -> int:\n    """Four times x."""\n',
    "canonical_solution": "    return double(double(x))\n",
    "test": "def check(candidate):\n    for i in range(5):\n        assert candidate(i) == double(double(i))\n",
    "entry_point": "quadruple",
}


def load(**overrides):
    sizes = {"train_size": 300, "validation_size": 30, "test_size": 60}
    base = {"data_files": None, "dataset_name": None, "seed": 0, "execute": True}
    return task.load_splits(**(base | sizes | overrides))


@pytest.fixture(autouse=True)
def closed(monkeypatch):
    """Each test begins without a sandbox and without remembered verdicts."""
    monkeypatch.setattr(task, "_judge", task._Judge())


@pytest.fixture
def judged():
    """Splits, with the sandbox open."""
    missing = opening.walls().missing
    if missing:
        pytest.skip(f"this platform does not enforce {', '.join(missing)}")
    return load()


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def counted(monkeypatch) -> list[str]:
    """The programs that are run from here on."""
    seen: list[str] = []
    run = task.Runner.run

    def watched(self, what):
        seen.append(what.code)
        return run(self, what)

    monkeypatch.setattr(task.Runner, "run", watched)
    return seen


# --- verifier and rewards -------------------------------------------------------------------------


def test_every_shape_passes_its_own_tests_and_fails_when_it_is_changed(judged):
    problems = [of_function(Function(shape, 7, 5)) for shape in range(len(SHAPES))]
    answers = [problem.to_row()["answer"] for problem in problems]
    completions = [problem.completion for problem in problems]
    assert task.tests_reward(completions, answers) == [1.0] * len(problems)
    assert task.correctness(completions, answers) == [1.0] * len(problems)
    changed = [f"{completion} + 1" if " if " not in completion else " b" for completion in completions]
    assert all(share < 1 for share in task.tests_reward([f" ({c.strip()}) + 1" for c in completions], answers))
    assert task.correctness(changed, answers) == [0.0] * len(problems)


def test_shares_of_tests_give_signal(judged):
    """Guesses that no model would be praised for pass some tests of some problems, and not the same."""
    rows = judged["train"].select(range(16))
    shares = task.tests_reward([" a"] * 16, rows["answer"]) + task.tests_reward([" b - a"] * 16, rows["answer"])
    assert len(set(shares)) > 1
    assert 0 < sum(shares) < 0.5 * len(shares)
    assert {round(share * functions.TESTS, 9) % 1 for share in shares} == {0}


ANSWER = of_function(Function(0, 7, 2)).to_row()["answer"]  # a + b + 7
VERDICTS = [  # completion, strict, lenient, format
    (" a + b + 7", True, True, True),
    (" 7 + b + a\n", True, True, True),
    (" (a\n            + b + 7)", True, True, True),
    ("def f(a, b):\n    return a + b + 7", True, True, True),
    ("import math\n\ndef f(*numbers):\n    return sum(numbers, 7)\n", True, True, True),
    ("```python\ndef f(a, b):\n    return a + b + 7\n```", False, True, False),
    ("Sure:\n```\n a + b + 7\n```\nDone.", False, True, False),
    ("```py\ndef f(a, b):\n    return a\n```\nno:\n```python\ndef f(a, b): return a + b + 7\n", False, True, False),
    ("```python\ndef f(a, b): return a + b + 7\n```\nor\n```python\ndef f(a, b): return a\n```", False, False, False),
    (" a + b", False, False, True),
    (" a + b + 7 =", False, False, False),
    ("", False, False, False),
    ("   \n", False, False, False),
    (" # a + b + 7", False, False, False),
    (" None", False, False, True),
    ("\0", False, False, False),
    (" " + "(" * 5000 + "a" + ")" * 5000, False, False, False),
    (" " + "-" * 50_000 + "a", False, False, False),
    (" a" + " + a" * 30_000, False, False, False),
    ("x" * 2**17, False, False, False),
]


@pytest.mark.parametrize(("text", "strict", "lenient", "parses"), VERDICTS)
def test_verdicts(judged, text, strict, lenient, parses):
    verdict = task.verify(text, ANSWER)
    assert (verdict.strict, verdict.lenient) == (strict, lenient)
    assert task.correctness([text], [ANSWER]) == [float(strict)]
    assert task.correctness([[{"role": "assistant", "content": text}]], [ANSWER]) == [float(strict)]
    assert task.format_reward([text], [ANSWER]) == [float(parses)]


def test_a_program_is_run_once_and_no_text_that_is_none(judged, monkeypatch):
    seen = counted(monkeypatch)
    completions, answers = [" a + b + 7", " a + b + 7", " a", " a +"], [ANSWER] * 4
    for reward in (task.correctness, task.tests_reward, task.format_reward):
        reward(completions, answers)
    assert task.verify(" a + b + 7", ANSWER).strict
    assert sorted(program.rpartition("return")[2] for program in seen) == [" a", " a + b + 7"]


def test_a_batch_of_attacks_is_judged_and_the_next_one_too(judged):
    attacks = [
        "import os\nos._exit(0)",
        "while True: pass",
        "import os\nwhile True: os.fork()",
        "def f(a, b): print('passed'); return type('E', (), {'__eq__': lambda *_: True})()",
        "x = 'x' * 10**10",
    ]
    attacks = [f"{attack}\ndef f(a, b): return 0" if "def f" not in attack else attack for attack in attacks]
    assert task.correctness([*attacks, " a + b + 7"], [ANSWER] * 6) == [0.0] * 5 + [1.0]
    assert task.correctness([" 7 + a + b"], [ANSWER]) == [1.0]


def test_an_interrupted_batch_keeps_what_it_has(judged, monkeypatch):
    """As when a reward's time is up: the repetition does not begin anew."""
    seen = counted(monkeypatch)
    shares = task._judge.shares
    programs = [f"def f(a, b): return a + b + {i}" for i in range(7, 10)]
    task._judge.runner = replace(task._judge.runner, workers=1)
    run_all = task.Runner.run_all

    def interrupted(self, runs):
        yield next(iter(run_all(self, runs)))
        raise KeyboardInterrupt

    monkeypatch.setattr(task.Runner, "run_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shares(programs, [ANSWER] * 3)
    monkeypatch.setattr(task.Runner, "run_all", run_all)
    seen.clear()
    assert shares(programs, [ANSWER] * 3) == [1.0, 0.0, 0.0]
    assert programs[0] not in seen


# --- nothing is run unless asked for -------------------------------------------------------------


@pytest.mark.parametrize("execute", [False, None, 1, "true"])
def test_nothing_is_loaded_unless_execution_is_asked_for(execute, monkeypatch):
    monkeypatch.setattr(task, "open_sandbox", lambda *_: pytest.fail("opened"))
    with pytest.raises(ValueError, match=r"task\.options\.execute=.*runs Python that the model wrote, in a sandbox"):
        load(execute=execute)
    with pytest.raises(RuntimeError, match="it opens the sandbox"):
        task.verify(" a + b + 7", ANSWER)


def test_a_platform_that_lacks_a_guarantee_is_refused(judged, monkeypatch):
    lacking = replace(opening.walls(), missing={"network": "seen broken"})
    monkeypatch.setattr(opening, "walls", lambda: lacking)
    with pytest.raises(ValueError, match=r"does not enforce network \(seen broken\)"):
        load()
    for allowed in (["network"], "network"):  # as a list of YAML, or as a word on the command line
        with pytest.warns(UserWarning, match="network"):
            load(allow_unenforced=allowed)


@pytest.mark.parametrize(
    ("option", "value", "names"),
    [
        ("workers", 0, "task.options.workers=0"),
        ("workers", "2", "task.options.workers='2'"),
        ("memory_mib", "256", "task.options.memory_mib='256'"),
        ("memory_mib", 1, "limits.memory_bytes="),
        ("wall_seconds", 0, "limits.wall_seconds=0"),
        ("allow_unenforced", ["internet"], "allow_unenforced='internet'"),
        ("test_size", 5000, "task.test_size = 5000"),
        ("train_size", 0, "task.train_size = 0"),
    ],
)
def test_a_bad_option_is_named(option, value, names):
    with pytest.raises(ValueError, match=re.escape(names)):
        load(**{option: value})


# --- splits ---------------------------------------------------------------------------------------


def test_generated_splits_share_no_behaviour_and_no_text(judged):
    prompts = {split: set(judged[split]["prompt"]) for split in SPLITS}
    clusters = {split: set(judged[split]["cluster"]) for split in SPLITS}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not prompts[one] & prompts[other]
        assert not clusters[one] & clusters[other]
    assert len(clusters["test"]) == len(judged["test"]) == 60


def test_a_seed_gives_the_same_problems_and_the_size_of_a_split_changes_no_other(judged):
    again = load(test_size=30)
    assert again["train"].to_list() == judged["train"].to_list()
    assert again["test"].to_list() == judged["test"].to_list()[:30]
    assert load(seed=1)["train"]["prompt"] != judged["train"]["prompt"]


# --- files ----------------------------------------------------------------------------------------


def test_references_of_both_formats_pass(judged, tmp_path):
    other = {**MBPP, "text": "Write a function to double.", "code": "def twice(x): return 2 * x"}
    other |= {"test_list": ["assert twice(2) == 4"]}
    third = {**MBPP, "text": "Nothing new.", "code": "def no(x): return not x", "test_list": ["assert no(0)"]}
    splits = load(data_files=[write(tmp_path / "a", MBPP, HUMANEVAL, other, third)], test_size=1, validation_size=1)
    rows = [row for split in SPLITS for row in splits[split]]
    assert len(rows) == 4
    assert all(task.verify(row["completion"], row["answer"]).strict for row in rows)
    assert all(not task.verify("def add(*x): return 0", row["answer"]).strict for row in rows)
    whole = HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"]
    answer = to_problem(HUMANEVAL, "here").to_row()["answer"]
    assert task.verify(f"Here it is:\n```python\n{whole}```", answer).lenient
    cheat = "    return 0\ndef double(x): return 0\n"
    assert not task.verify(cheat, answer).strict


def test_problems_that_share_a_text_or_a_function_are_on_one_side(judged, tmp_path):
    """Through a third, too: a and c share nothing, but both share something with b."""
    texts = [f"Write function number {i}." for i in range(20)]
    rows = [
        {"text": text, "code": f"def g(x): return x + {i}", "test_list": [f"assert g(0) == {i}"]}
        for i, text in enumerate(texts)
    ]
    copies = [
        {**rows[0], "text": "Another text."},  # the function of 0
        {**rows[1], "text": f" {texts[0].upper()} "},  # the text of 0, the function of 1
        {**rows[2], "text": "Third.", "code": 'def other(number):\n    """Words."""\n    return number + 2  # note\n'},
    ]
    test = [rows[5], {**rows[6], "text": "Renamed.", "code": "def h(y):\n    return y + 6"}]
    splits = load(data_files=[write(tmp_path / "a", *rows, *copies), write(tmp_path / "b", *test)], validation_size=3)
    found = [json.loads(row["answer"])["tests"][0] for split in ("train", "validation") for row in splits[split]]
    assert "assert g(0) == 5" not in found
    assert "assert g(0) == 6" not in found
    assert len({*found} & {"assert g(0) == 0", "assert g(0) == 1"}) == 1
    assert len(found) == len(set(found))
    clusters = [cluster for split in SPLITS for cluster in set(splits[split]["cluster"])]
    assert len(clusters) == len(set(clusters))


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"question": "?"}, 'expected an object with "test_list" (MBPP) or "entry_point" (HumanEval)'),
        ({**MBPP, "test_list": []}, "the list of texts test_list"),
        ({**MBPP, "test_list": "assert True"}, "the list of texts test_list"),
        ({**MBPP, "code": "def add(x, y) return"}, "no Python: 'def add(x, y) return'"),
        ({**HUMANEVAL, "test": None}, "expected the texts prompt, canonical_solution, test, entry_point"),
        ({**HUMANEVAL, "test": "def check("}, "no Python"),
    ],
)
def test_a_malformed_record_is_named(tmp_path, row, names):
    with pytest.raises(ValueError, match=re.escape(names)) as error:
        load(data_files=[write(tmp_path / "a.jsonl", MBPP, row)])
    assert "line 2" in str(error.value)


# --- the experiment -------------------------------------------------------------------------------


def test_references_fit_the_canvas_of_the_config():
    config = yaml.safe_load(CONFIG.read_text())
    tokenizer = AutoTokenizer.from_pretrained(TINY_ASSETS)
    longest = max(
        len(tokenizer(f" {Function(shape, c, d).expression}")["input_ids"])
        for shape in range(len(SHAPES))
        for c in (2, 20)
        for d in (3, 19)
    )
    assert longest + 1 <= config["generation"]["max_completion_length"]  # and EOS
    assert set(config["task"]["rewards"]) <= task.REWARDS.keys()
