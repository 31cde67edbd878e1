r"""The math task: what counts as an equal answer; no answer can stop or break a run; splits are disjoint.

What is judged by math-verify is skipped where that is missing: pip install 'trajectory-nelbo[math]'.
"""

import importlib.util
import itertools
import json
import re
from fractions import Fraction
from pathlib import Path

import datasets
import pytest
from libraries import needs_math_verify
from transformers import AutoTokenizer

from trainers.models.tiny import TINY_ASSETS
from trainers.tasks import generating
from trainers.tasks.math import fractions, task
from trainers.tasks.math.judge import Judge
from trainers.tasks.math.text import key_of

SPLITS = ("train", "validation", "test")
CANVAS = 24  # tokens, of configs/sft_math.yaml


@pytest.fixture
def load(monkeypatch):
    """Splits, whether or not math-verify is there: nothing is judged by loading."""
    monkeypatch.setattr(task, "check_installed", lambda: None)

    def loaded(**overrides) -> dict[str, datasets.Dataset]:
        sizes = {"train_size": 300, "validation_size": 40, "test_size": 60, "seed": 0}
        return task.load_splits(**({"data_files": None, "dataset_name": None} | sizes | overrides))

    return loaded


def is_right(text: str, answer: str) -> tuple[bool, bool]:
    verdict = task.verify(text, answer)
    return verdict.strict, verdict.lenient


# --- what is equal, as math-verify has it ---------------------------------------------------------

MATRIX = r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"
EQUAL = [  # reference, what a box holds, whether they are equal, and where the library errs what would be right
    (r"\frac{1}{2}", "0.5", True),
    (r"\frac12", r"\frac{1}{2}", True),
    (r"\frac{1}{2}", r"\dfrac{1}{2}", True),
    (r"\frac{1}{2}", "1/2", True),
    (r"\frac{1}{2}", r"\frac{2}{4}", True),  # not in lowest terms
    (r"\frac{1}{2}", r"\frac{1}{3}", False),
    ("1000", "1,000", True),
    ("1000", "1{,}000", True),
    (r"50\%", r"50\%", True),
    (r"5\text{ cm}", "5", True),
    ("5", r"5\,\mathrm{cm}", True),
    ("5", "x=5", True),
    ("x=5", "5", True),
    ("5", "05.0", True),
    ("4", "2+2", True),
    ("120", "5!", True),
    (r"\sqrt{8}", r"2\sqrt2", True),
    (r"2\sqrt{2}", "2.8284", False),  # not exact
    ("[0,1)", "[0,1)", True),
    ("[0,1)", "[0,1]", False),
    ("(0,1)", "[0,1]", False),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)", True),
    ("1,2,3", "3,2,1", True),  # a set in other order
    (r"\{1,2\}", r"\{2,1\}", True),
    ("3,4", "3", False),
    ("3", "3,4", False),  # a list of guesses
    ("3", "3 or 4", False),
    ("(1,2)", r"\left(1,2\right)", True),
    ("(1,2)", "(2,1)", False),  # a tuple in other order
    (MATRIX, MATRIX.replace("pmatrix", "bmatrix"), True),
    (MATRIX, MATRIX.replace("4", "5"), False),
    ("0", "-0", True),
    (r"1\pm\sqrt{2}", r"1+\sqrt2,1-\sqrt2", True),
    (r"1\pm\sqrt{2}", r"1+\sqrt2", False),
    (r"\frac{7}{2}", r"3\frac12", True),  # a mixed number
    (r"3\frac12", r"\frac32", False),  # no product
    ("x^2+2x+1", "(x+1)^2", True),
    ("x^2+2x+1", "(x+2)^2", False),
    (r"\sin^2 x+\cos^2 x", "1", True),
    ("x>2", "2<x", True),
    ("x>2", r"x\ge2", False),
    ("x>2", r"(2,\infty)", True),
    ("x", "y", False),
    ("2x", "x", False),
    ("1+i", "i+1", True),
    (r"\pi", "3.14159", False),
    (r"\infty", r"\infty", True),
    (r"\text{Tuesday}", "Tuesday", True),
    (r"\text{(A)}", "A", True),
    (r"\text{even}", r"\text{odd}", False),
    # the library errs
    ("50", r"50\%", True),
    ("0.5", r"50\%", True),
    (r"\frac13", "0.333333", True),  # six decimals are enough
    (r"\frac13", "0.33333", False),
    ("12_{8}", "12", True),  # the base is dropped
    ("5", "1=2=5", True),  # of a chain the last part counts
    ("(1,2)", "1,2", True),
    ("1e3", "1000", False),
    ("1000", "1 000", False),
]


@needs_math_verify
@pytest.mark.parametrize(("answer", "boxed", "equal"), EQUAL)
def test_equal_answers(answer, boxed, equal):
    assert is_right(rf"\boxed{{{boxed}}}", answer) == (equal, equal)


FORMS = [  # completion, strict, lenient; the answer is 3
    (r"\boxed{3}", True, True),
    (r"So it is $\boxed{3}$.", True, True),
    ("Thus \\[\\boxed{3}.\\]\n", True, True),
    ("\\begin{align*}x&=\\boxed{3}\\end{align*}", True, True),
    (r"\boxed {3}", True, True),
    (r"\boxed 3", True, True),
    (r"\boxed{ 3 }", True, True),
    (r"It is $\boxed{3}$ dollars.", False, True),  # the box is not the last thing
    (r"\boxed{4} and \boxed{3}", False, True),
    (r"\boxed{3} and \boxed{4}", False, False),
    (r"\boxed{3}\boxed{3}", False, True),
    (r"\boxed{\boxed{3}}", False, True),
    (r"\boxed{3", False, False),  # cut off
    (r"\boxed{3} \boxed{", False, True),
    (r"\boxed{}", False, False),
    (r"\boxed{ }", False, False),
    (r"\boxed{\frac{3}{1}", False, False),
    ("$3$", False, True),  # no box
    (r"The answer is \(3\).", False, True),
    (r"$4$ or $3$", False, False),  # read together, as a set
    (r"First $4$. Then $3$.", False, True),
    ("3", False, False),  # no formula
    (r"\boxedx{3}", False, False),
    ("", False, False),
    ("}" * 50 + r"\boxed{3}", True, True),
]


@needs_math_verify
@pytest.mark.parametrize(("completion", "strict", "lenient"), FORMS)
def test_forms(completion, strict, lenient):
    assert is_right(completion, "3") == (strict, lenient)


@needs_math_verify
@pytest.mark.parametrize(("answer", "form"), [("3", 1.0), ("4", 1.0)])
def test_rewards_on_plain_and_conversational_completions(answer, form):
    for completions in ([r"\boxed{3}"], [[{"role": "assistant", "content": r"\boxed{3}"}]]):
        told = {"completions": completions, "prompts": ["?"], "answer": [answer], "trainer_state": None}
        assert task.REWARDS["correctness"](**told) == [float(answer == "3")]
        assert task.REWARDS["format"](**told) == [form]


# --- the judge ------------------------------------------------------------------------------------


@needs_math_verify
def test_the_share_of_answers_that_were_not_judged_is_logged():
    logged = []
    completions = [r"\boxed{3}", r"\boxed{" + "3" * 5000 + "}", r"\boxed{4}", "no box"]
    rewards = task.correctness(completions, ["3"] * 4, log_metric=lambda *pair: logged.append(pair))
    assert rewards == [1.0, 0.0, 0.0, 0.0]
    assert logged == [("math/unjudged", 0.25)]


def test_a_missing_library_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=re.escape("pip install 'trajectory-nelbo[math]'")):
        task.load_splits(
            data_files=None, dataset_name=None, train_size=1, validation_size=1, test_size=1, seed=0, max_term=9
        )
    with pytest.raises(ImportError, match="math-verify"):
        Judge().is_equal("1", "1")


# --- embedded problems ----------------------------------------------------------------------------


def test_every_answer_is_exact_and_in_lowest_terms(load):
    number = r"\\frac\{(\d+)\}\{(\d+)\}"
    values = {
        "+": Fraction.__add__,
        "-": Fraction.__sub__,
        r"\cdot ": Fraction.__mul__,
        r"\div ": Fraction.__truediv__,
    }
    seen = set()
    for row in (row for split in load(max_term=12).values() for row in split):
        a, b, sign, c, d = re.fullmatch(rf"Compute {number}(.*?){number}\.\nAnswer:", row["prompt"]).groups()
        seen.add(sign)
        value = values[sign](Fraction(int(a), int(b)), Fraction(int(c), int(d)))
        sign_of, *digits = re.fullmatch(rf"(-?)(?:{number}|(\d+))", row["answer"]).groups()
        above, below = (digits[2], "1") if digits[2] else digits[:2]
        assert (Fraction(int(sign_of + above), int(below)), int(below)) == (value, value.denominator)
        assert row["completion"] == rf"\boxed{{{row['answer']}}}"
        assert max(int(term) for term in (a, b, c, d)) <= 12
    assert seen == set(values)


@needs_math_verify
def test_reference_completions_are_right(load):
    rows = load()["test"].select(range(20))
    assert all(is_right(row["completion"], row["answer"]) == (True, True) for row in rows)


@pytest.mark.parametrize("max_term", [6, 9])
def test_splits_share_no_problem_whichever_way_round_it_is_written(load, max_term):
    sizes = {"validation_size": 50, "test_size": 50}
    drawn = {split: set() for split in SPLITS}
    for seed in (0, 1):
        for split, rows in load(max_term=max_term, seed=seed, **sizes).items():
            for prompt in rows["prompt"]:
                one, sign, other = re.fullmatch(
                    r"Compute (.*\})(\+|-|\\cdot |\\div )(\\.*)\.\nAnswer:", prompt
                ).groups()
                drawn[split].add((sign, *(sorted((one, other)) if sign in ("+", r"\cdot ") else (one, other))))
    for one, other in itertools.combinations(SPLITS, 2):
        assert not drawn[one] & drawn[other]


def test_generation_depends_on_the_seed_alone(load):
    test = load()["test"].to_list()
    assert load(train_size=5, validation_size=7)["test"].to_list() == test
    assert load(seed=1)["test"].to_list() != test
    assert len({row["cluster"] for row in test}) > 50


def test_texts_fit_the_canvas_of_the_embedded_model():
    tokenizer = AutoTokenizer.from_pretrained(TINY_ASSETS)
    pool = fractions.fractions_up_to(9)
    answers = {
        fractions.FractionProblem(left, sign, right).answer()
        for left, sign, right in itertools.product(pool, fractions.OPERATIONS, pool)
    }
    longest = max(len(ids) for ids in tokenizer([rf"\boxed{{{answer}}}" for answer in answers])["input_ids"])
    assert longest + 1 <= CANVAS


def test_more_held_out_problems_than_exist_are_refused(load, monkeypatch):
    monkeypatch.setattr(generating, "MAX_FRUITLESS_DRAWS", 500)
    with pytest.raises(ValueError, match=r"task\.test_size = 500: only about \d+ distinct problems with max_term = 4"):
        load(test_size=500, validation_size=5, max_term=4)


# --- real data ------------------------------------------------------------------------------------


def write(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def records(numbers: range) -> list[dict[str, str]]:
    return [{"problem": f"What is ${n}+1$?", "solution": rf"It is $\boxed{{{n + 1}}}$."} for n in numbers]


SAME = [  # of "Find $\left(\frac{1}{2}\right)^2$ and x."
    r"Find $\left(\frac{1}{2}\right)^2$ and x.",
    "  Find\n$\\left(\\frac{1}{2}\\right)^2$   and\tx. ",
    r"FIND $\left(\frac{1}{2}\right)^2$ and X.",
    r"Find $(\frac{1}{2})^2$ and x.",
    r"Find $\left(\dfrac{1}{2}\right)^2$ and x.",
    r"Find $\left(\tfrac{1}{2}\right)^2$ and x.",
    r"Find \(\left(\frac{1}{2}\right)^2\) and x.",
    r"Find \[\left(\frac{1}{2}\right)^2\] and x.",
    r"Find $$\displaystyle\left(\frac{1}{2}\right)^2$$ and x.",
    r"Find $\left(\frac{1}{2}\right)^2$\, and\quad x.",
    r"Find $\left(\frac{1}{2}\right)^2$~and\ x.",
    "Find\u00a0$\\left(\\frac{1}{2}\\right)^2$ and \uff58.",
]


OTHERS = [
    r"Find $\left(\frac{1}{3}\right)^2$ and x.",
    r"Find $\left(\frac{1}{2}\right)^3$ and x.",
    r"Find $\left(\frac{1}{2}\right)^2$ and y.",
    r"Find $\left(\frac{1}{2}\right]^2$ and x.",
    r"Find $\leftarrow(\frac{1}{2}\right)^2$ and x.",
]


def test_near_duplicates_are_one_problem_and_others_are_not():
    assert len({key_of(text) for text in SAME}) == 1
    assert len({key_of(text) for text in [SAME[0], *OTHERS]}) == 1 + len(OTHERS)


@pytest.mark.parametrize("with_test", [True, False])
def test_no_near_duplicate_crosses_a_split(tmp_path, load, with_test):
    near = [{"problem": text, "answer": "1"} for text in SAME]
    rows = records(range(40))
    if with_test:
        files = [write(tmp_path / "a.jsonl", [*near[1:], *rows]), write(tmp_path / "b.jsonl", near[:1])]
    else:
        files = [write(tmp_path / "a.jsonl", [*near, *rows])]
    for seed in range(5):
        splits = load(data_files=files, seed=seed, train_size=None, validation_size=10, test_size=10)
        for one, other in itertools.combinations(SPLITS, 2):
            assert not set(splits[one]["cluster"]) & set(splits[other]["cluster"])
            assert not {key_of(p) for p in splits[one]["prompt"]} & {key_of(p) for p in splits[other]["prompt"]}
        assert sum(split.num_rows for split in splits.values()) == 41


def test_records_of_every_kind(tmp_path, load):
    rows = [
        {"problem": "P1", "solution": r"Not \boxed{1} but \boxed{\frac{1}{2}}."},
        {"problem": "P2", "answer": "7"},
        {"problem": "P3", "solution": "Counting gives three.", "answer": "3", "level": 5},
        *records(range(10)),
    ]
    splits = load(
        data_files=[write(tmp_path / "a.jsonl", records(range(20, 40))), write(tmp_path / "b.jsonl", rows)],
        validation_size=5,
    )
    assert splits["test"].to_list()[:3] == [
        {"prompt": "P1\nAnswer:", "completion": rows[0]["solution"], "answer": r"\frac{1}{2}", "cluster": "p1"},
        {"prompt": "P2\nAnswer:", "completion": r"\boxed{7}", "answer": "7", "cluster": "p2"},
        {"prompt": "P3\nAnswer:", "completion": "Counting gives three.", "answer": "3", "cluster": "p3"},
    ]


def test_hub_rows_are_read_like_file_rows(tmp_path, load, monkeypatch):
    rows, calls = records(range(40)), []
    hub = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: calls.append(args) or hub)
    sizes = {"validation_size": 5, "test_size": 5}
    local = load(data_files=[write(tmp_path / "a.jsonl", rows)], **sizes)
    found = load(dataset_name="x/math", subset="algebra", **sizes)
    assert calls == [("x/math", "algebra")]
    assert all(found[split].to_list() == local[split].to_list() for split in SPLITS)


NEITHER = 'expected an object with the text "problem" and the text "solution" or "answer"'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], NEITHER),
        ({"problem": "P"}, NEITHER),
        ({"answer": "1", "solution": r"\boxed{1}"}, NEITHER),
        ({"problem": " ", "answer": "1"}, NEITHER),
        ({"problem": "P", "answer": 1}, NEITHER),
        ({"problem": "P", "answer": ""}, NEITHER),
        ({"problem": "P", "solution": "It is 1."}, 'expected a "solution" with its answer in \\boxed{...}'),
        ({"problem": "P", "solution": r"\boxed{}"}, 'expected a "solution" with its answer in \\boxed{...}'),
        ({"problem": "P", "solution": r"\boxed{1"}, 'expected a "solution" with its answer in \\boxed{...}'),
    ],
)
def test_bad_records_are_named_by_file_and_line(tmp_path, load, row, message):
    path = write(tmp_path / "a.jsonl", [*records(range(1)), row])
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2: {message}")):
        load(data_files=[path])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"max_term": 2}, "task.options.max_term = 2: must be a whole number in 3..100"),
        ({"max_term": 9.5}, "task.options.max_term = 9.5: must be a whole number in 3..100"),
        ({"subset": "algebra"}, "task.options.subset = 'algebra': only with task.dataset_name"),
        ({"train_size": 0}, "task.train_size = 0: must be at least 1"),
        ({"data_files": ["a"], "dataset_name": "b"}, "not both"),
    ],
)
def test_impossible_values_are_named(load, overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(**overrides)
