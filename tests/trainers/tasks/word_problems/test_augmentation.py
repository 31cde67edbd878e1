"""Training data of word problems: styles keep the answer, copies are right, nothing held out is trained on."""

import itertools
import json
import os
import random
import re
from fractions import Fraction
from pathlib import Path

import datasets
import pytest
from paths import DATA

from trainers.experiment import load_task
from trainers.settings.trainer import ConfigError, TaskArguments
from trainers.tasks import TASKS, gsm8k
from trainers.tasks.arithmetic import annotations_of
from trainers.tasks.training_data import TrainingData
from trainers.tasks.word_problems.perturbation import equation_truths, perturbed
from trainers.tasks.word_problems.problems import WordProblem
from trainers.tasks.word_problems.tracing import Slot, Untraceable, numbers_of, trace
from trainers.tasks.word_problems.vocabulary import IMPLIED

REAL_DATA = Path(os.environ.get("GSM8K_DIR", DATA / "gsm8k"))
SVAMP_FILE = Path(os.environ.get("SVAMP_DIR", DATA / "svamp")) / "SVAMP.json"
HAS_DATA = (REAL_DATA / "test.jsonl").is_file() and SVAMP_FILE.is_file()
SPLITS = ("train", "validation", "test")

SHOP = WordProblem(
    "Olga buys 14 pens for $6 each and 5 pads. The pads cost $8 each. How much does she pay, in $, for all of it?",
    "The pens cost 14 x 6 = $<<14*6=84>>84.\nThe pads cost 5*8=$<<5*8=40>>40.\nShe pays $84 + $40 = $<<84+40=124>>124."
    "\n#### 124",
    "shop",
)


def problem(question: str, *annotations: str, answer: str = "") -> WordProblem:
    """A problem whose solution is nothing but annotations."""
    last = answer or annotations[-1].rpartition("=")[2]
    return WordProblem(question, "\n".join(f"<<{text}>>" for text in annotations) + f"\n#### {last}", question)


def copies_of(source: WordProblem, number: int = 20, seed: int = 0) -> list[WordProblem]:
    return list(itertools.islice(perturbed(source, random.Random(seed)), number))


def load(training_data: TrainingData = TrainingData(), **overrides) -> dict[str, datasets.Dataset]:  # noqa: B008 (frozen)
    sizes = {"train_size": None, "validation_size": None, "test_size": None}
    bounds = {"seed": 0, "min_operations": 1, "max_operations": 1, "max_number": 20}
    defaults = {"data_files": None, "dataset_name": None, **sizes, **bounds, "training_data": training_data}
    return gsm8k.load_splits(**(defaults | overrides))


def write_jsonl(path: Path, numbers: range, wrong: bool = False) -> str:
    """Problems n + 300 = ..., one a number; a wrong one's annotation has another result than its answer."""
    rows = [
        {
            "question": f"Olga has {n} pens and gets 300 more. How many has she?",
            "answer": f"She has {n}+300=<<{n}+300={n + 300 + wrong}>>{n + 300}.\n#### {n + 300}",
        }
        for n in numbers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def is_right(solution: str, answer: str) -> bool:
    """Every annotation is true, and the last one gives the answer."""
    annotations = annotations_of(solution)
    return (
        bool(annotations)
        and all(annotation.is_true() for annotation in annotations)
        and Fraction(annotations[-1].result) == Fraction(answer)
        and gsm8k.verify(solution, answer).strict
    )


# --- copies ---------------------------------------------------------------------------------------


def test_copies_are_right_and_distinct_and_keep_the_words():
    copies = copies_of(SHOP)
    assert len(copies) == 20 == len({copy.key for copy in copies} - {SHOP.key})
    for copy in copies:
        assert is_right(copy.solution, copy.answer)
        assert re.sub(r"[0-9]+", "#", copy.solution) == re.sub(r"[0-9]+", "#", SHOP.solution)
        pens, price, pads, cost = map(int, re.findall(r"[0-9]+", copy.question))
        assert copy.solution == (
            f"The pens cost {pens} x {price} = $<<{pens}*{price}={pens * price}>>{pens * price}.\n"
            f"The pads cost {pads}*{cost}=$<<{pads}*{cost}={pads * cost}>>{pads * cost}.\n"
            f"She pays ${pens * price} + ${pads * cost} = "
            f"$<<{pens * price}+{pads * cost}={pens * price + pads * cost}>>{pens * price + pads * cost}."
            f"\n#### {pens * price + pads * cost}"
        )


def test_copies_keep_the_order_of_the_numbers_and_stay_within_half_and_double():
    for copy in copies_of(SHOP):
        pens, price, pads, cost = map(int, re.findall(r"[0-9]+", copy.question))
        assert pads <= price <= cost <= pens
        assert 7 <= pens <= 28 and 3 <= price <= 12 and 3 <= pads <= 10 and 4 <= cost <= 16


def test_copies_depend_on_the_seed_alone_and_more_of_them_begin_alike():
    assert copies_of(SHOP, 5) == copies_of(SHOP)[:5]
    assert copies_of(SHOP, 5) != copies_of(SHOP, 5, seed=1)


def test_a_division_stays_whole_and_a_difference_positive():
    source = problem("There are 60 pens. Olga takes 15, then packs bags of 9. How many bags?", "60-15=45", "45/9=5")
    copies = copies_of(source)
    assert copies
    for copy in copies:
        assert all(Fraction(annotation.result) > 1 for annotation in annotations_of(copy.solution) or ())
        assert all("." not in annotation.result for annotation in annotations_of(copy.solution) or ())
        assert is_right(copy.solution, copy.answer)


def test_numbers_stay_that_are_spelled_or_measure_time_or_are_one():
    source = problem(
        "Olga has three bags of 40 pens for 7 days and 1 pad. How many?", "40*3=120", "120*7=840", "840+1=841"
    )
    copies = copies_of(source)
    assert 1 < len(copies) == len({copy.key for copy in copies}) < 20, "40 has six other round values in reach"
    for copy in copies:
        assert re.fullmatch(r"Olga has three bags of (\d+) pens for 7 days and 1 pad\. How many\?", copy.question)
        assert copy.solution.startswith(f"<<{re.findall('[0-9]+', copy.question)[0]}*3=")
        assert is_right(copy.solution, copy.answer)


def test_commas_and_decimal_places_are_kept():
    source = WordProblem(
        "A car costs $4,500 and wheels $300. What do they cost?",
        "They cost 4,500+300=$<<4500+300=4800.00>>4,800.00.\n#### 4,800",
        "car",
    )
    assert len(copies_of(source)) == 20
    for copy in copies_of(source):
        car, wheels = (int(number.replace(",", "")) for number in re.findall(r"[0-9][0-9,]*", copy.question))
        total = car + wheels
        assert f"${car:,} and wheels ${wheels}." in copy.question
        assert (
            copy.solution == f"They cost {car:,}+{wheels}=$<<{car}+{wheels}={total}.00>>{total:,}.00.\n#### {total:,}"
        )


def test_every_number_of_a_solution_becomes_a_slot_of_the_right_quantity():
    traced = trace(SHOP)
    assert [str(value) for value in traced.values] == ["5", "6", "8", "14", "84", "40", "124"]
    slots = [part for part in traced.solution if isinstance(part, Slot)]
    assert all(Fraction(slot.text) == traced.values[slot.quantity] for slot in slots)
    assert "".join(part if isinstance(part, str) else part.text for part in traced.solution) == SHOP.solution


NOWHERE, TWICE, PART = "comes from nowhere", "means two things", "is part of"
WORD, UNUSED, WRONG = "a word may stand for", "feeds no annotation", "do not lead to the answer"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (problem("Olga has 14 pens and loses half. How many?", "14/2=7"), NOWHERE),
        (problem("Olga has 14 pens and 5 pads. How many?", "14+5=19", "19*3=57"), NOWHERE),
        (problem("Olga has 2 cats and twice as many dogs, 9 in all?", "2*2=4", "4+9=13"), WORD),
        (problem("Olga has 3 cats, three dogs and 9 hens. How many?", "3+3=6", "6+9=15"), None),  # 3 stays
        (problem("Olga has 8 cats and 8 dogs and 64 hens. How many?", "8*8=64", "64+64=128"), TWICE),
        (problem("Olga has 8 cats, 4 dogs. How many?", "8+4=12", "8+4=12", "12+12=24"), TWICE),
        (problem("Olga has 14 pens, 5 blue ones. How many pens?", "14+14=28"), UNUSED),
        (problem("Of 50 pens, 20% are blue. How many?", "50*20=1000", "1000/100=10"), PART),
        (problem("Of 50 pens, 20 percent are blue. How many?", "50*20=1000"), PART),
        (problem("Of 50 pens 1/5 are blue. How many?", "50/5=10"), PART),
        (problem("The 2nd of 50 pens, and 7 more?", "50+7=57"), PART),
        (problem("From 7:30 on, 50 pens and 7 more?", "50+7=57"), PART),
        (problem("Olga has 14 pens and 5 pads. How many?", "14+5=20"), WRONG),
        (problem("Olga has 14 pens and 5 pads. How many?", "14+5=19", answer="20"), WRONG),
        (problem("Olga has 5 pens and loses 5. How many?", "5-5=0"), "not positive"),
        (problem("Olga has pens for 7 days and as many again?", "7+7=14"), "no number to replace"),
        (WordProblem("Has 14 and 5?", "It is 4S: <<14+5=19>>19\n#### 19", ""), PART),
        (WordProblem("Has 14 and 5?", "It is 18: <<14+5=19>>19\n#### 19", ""), NOWHERE),
        (WordProblem("Has 14 and 5?", "All nineteen: <<14+5=19>>19\n#### 19", ""), WORD),
    ],
)
def test_what_cannot_be_traced_gets_no_copy(source, reason):
    if reason is None:
        assert all(copy.question.startswith("Olga has 3 cats, three dogs") for copy in copies_of(source))
        return
    with pytest.raises(Untraceable, match=reason):
        copies_of(source)


def test_an_equation_of_the_text_that_would_turn_false_forbids_a_copy():
    """12 - 8 = 4 holds by chance: 4 is a variable of its own, so no draw keeps it but those with the same gap."""
    source = WordProblem(
        "Olga has 12 pens, Henk 8 and Ravi 4. How many?", "As 12 - 8 = 4, it is <<12+8+4=24>>24.\n#### 24", ""
    )
    copies = copies_of(source)
    assert copies and all(equation_truths(copy.solution) == [True] for copy in copies)


def test_words_imply_values():
    assert IMPLIED["twice"] == {2} and IMPLIED["seven"] == IMPLIED["week"] == {7} and IMPLIED["quarter"] == {4, 25}


def test_numbers_of_a_text_stand_where_they_are_written():
    text = "He pays $1,200 for 3 bags (12 pens)."
    assert [text[number.start : number.end] for number in numbers_of(text)] == ["1,200", "3", "12"]


# --- styles ---------------------------------------------------------------------------------------


def test_each_style_has_each_problem_once_and_a_prompt_of_its_own(tmp_path):
    files = [write_jsonl(tmp_path / "a.jsonl", range(100)), write_jsonl(tmp_path / "b.jsonl", range(500, 520))]
    plain = load(data_files=files)
    both = load(TrainingData(("full", "equations")), data_files=files)
    full = both["train"].filter(lambda row: row["prompt"].endswith("\nAnswer:"))
    equations = both["train"].filter(lambda row: row["prompt"].endswith("\nEquations:"))
    assert full.to_list() == plain["train"].to_list()
    assert equations.num_rows == full.num_rows == both["train"].num_rows / 2
    for one, other in zip(full, equations, strict=True):
        assert other["prompt"].removesuffix("Equations:") == one["prompt"].removesuffix("Answer:")
        assert (other["answer"], other["cluster"]) == (one["answer"], one["cluster"])
        assert other["completion"] == f"<<{int(one['answer']) - 300}+300={one['answer']}>>\n#### {one['answer']}"
        assert is_right(other["completion"], other["answer"])
    assert all(both[split].to_list() == plain[split].to_list() for split in ("validation", "test"))


def test_held_out_problems_have_the_first_style_and_are_never_dropped(tmp_path):
    files = [
        write_jsonl(tmp_path / "a.jsonl", range(100)),
        write_jsonl(tmp_path / "b.jsonl", range(500, 520), wrong=True),
    ]
    splits = load(TrainingData(("equations", "full")), data_files=files)
    assert all(prompt.endswith("\nEquations:") for prompt in splits["validation"]["prompt"])
    assert splits["test"].num_rows == 20
    assert splits["test"][0]["completion"] == f"#### {splits['test'][0]['answer']}"


def test_a_problem_without_true_equations_is_dropped_from_that_style_and_counted(tmp_path):
    good, bad = write_jsonl(tmp_path / "a.jsonl", range(100)), write_jsonl(tmp_path / "b.jsonl", range(500, 507), True)
    splits = load(TrainingData(("full", "equations"), extra_files=(bad,)), data_files=[good])
    assert splits["train"].num_rows == 2 * 80 + 7
    description = splits["train"].info.description
    assert "87 rows in style full, 0 without" in description
    assert "80 rows in style equations, 7 without" in description


def test_copies_join_training_alone_and_leave_the_rest_as_it_was(tmp_path):
    files = [write_jsonl(tmp_path / "a.jsonl", range(20, 120)), write_jsonl(tmp_path / "b.jsonl", range(500, 520))]
    plain, more = load(data_files=files), load(TrainingData(perturbed_copies=2), data_files=files)
    rows = plain["train"].num_rows
    assert more["train"].to_list()[:rows] == plain["train"].to_list()
    assert more["train"].num_rows == 3 * rows
    assert all(more[split].to_list() == plain[split].to_list() for split in ("validation", "test"))
    prompts = [prompt for split in SPLITS for prompt in more[split]["prompt"]]
    assert len(set(prompts)) == len(prompts)


def test_copies_of_a_problem_do_not_depend_on_other_options(tmp_path):
    files = [write_jsonl(tmp_path / "a.jsonl", range(20, 120)), write_jsonl(tmp_path / "b.jsonl", range(500, 520))]
    many = load(TrainingData(("equations", "full"), perturbed_copies=1), data_files=files)
    few = load(TrainingData(perturbed_copies=1), data_files=files, train_size=10)
    assert set(few["train"]["prompt"]) <= set(many["train"]["prompt"])
    other = load(TrainingData(perturbed_copies=1), data_files=files, train_size=10, seed=1)
    assert not set(other["train"]["prompt"][10:]) & set(many["train"]["prompt"])


# --- further files --------------------------------------------------------------------------------


def test_further_files_never_bring_a_held_out_question(tmp_path):
    files = [write_jsonl(tmp_path / "a.jsonl", range(100)), write_jsonl(tmp_path / "b.jsonl", range(500, 520))]
    shouted = write_jsonl(tmp_path / "c.jsonl", range(510, 530))
    Path(shouted).write_text(Path(shouted).read_text().replace("Olga has", " OLGA  has"))
    plain = load(data_files=files)
    splits = load(TrainingData(extra_files=(files[0], files[1], shouted)), data_files=files)
    assert splits["train"].num_rows == plain["train"].num_rows + 10
    assert splits["train"].to_list()[: plain["train"].num_rows] == plain["train"].to_list()


# --- the official files ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> dict[str, datasets.Dataset]:
    if not HAS_DATA:
        pytest.skip("no GSM8K or SVAMP files: set GSM8K_DIR and SVAMP_DIR to their folders")
    files = [str(REAL_DATA / "train.jsonl"), str(REAL_DATA / "test.jsonl")]
    return load(TrainingData(("full", "equations"), 2, (str(SVAMP_FILE),)), data_files=files)


def own_rows(real: dict[str, datasets.Dataset], style: str) -> list[dict[str, str]]:
    return [row for row in real["train"] if row["prompt"].endswith(f"\n{style}:")]


def test_every_official_row_verifies_and_equations_keep_the_answer(real):
    full = {row["prompt"].removesuffix("Answer:"): row["answer"] for row in own_rows(real, "Answer")}
    equations = own_rows(real, "Equations")
    assert len(equations) > 0.9 * len(full)
    for row in equations:
        assert is_right(row["completion"], row["answer"])
        assert full[row["prompt"].removesuffix("Equations:")] == row["answer"]
    assert all(gsm8k.verify(row["completion"], row["answer"]).strict for row in own_rows(real, "Answer"))


def test_every_official_copy_is_right_and_new(real):
    originals = {json.loads(line)["question"] for line in (REAL_DATA / "train.jsonl").open()}
    originals |= {row["cluster"].removesuffix("\nAnswer:") for row in own_rows(real, "Answer")[:6961]}
    copies = [
        row
        for row in own_rows(real, "Answer")[6961:]
        if row["cluster"].endswith("\nAnswer:") and row["prompt"] != row["cluster"]
    ]
    assert len(copies) > 2000
    for row in copies:
        assert row["prompt"].removesuffix("\nAnswer:") not in originals
        assert is_right(row["completion"], row["answer"])
        assert re.sub(r"[0-9,.]+", "#", row["prompt"]) == re.sub(r"[0-9,.]+", "#", row["cluster"])


def test_nothing_held_out_is_trained_on(real):
    questions = {
        split: {" ".join(p.rpartition("\n")[0].casefold().split()) for p in real[split]["prompt"]} for split in SPLITS
    }
    assert not questions["train"] & (questions["validation"] | questions["test"])
    assert not questions["validation"] & questions["test"]
    assert (real["validation"].num_rows, real["test"].num_rows) == (512, 1319)


def test_svamp_as_a_further_file_leaves_its_own_test_split_unseen(real):
    sizes = {"train_size": None, "validation_size": None, "test_size": None, "seed": 3}
    bounds = {"min_operations": 1, "max_operations": 1, "max_number": 20}
    svamp = TASKS["svamp"].load_splits(data_files=[str(SVAMP_FILE)], dataset_name=None, **sizes, **bounds)
    held_out = {*svamp["validation"]["cluster"], *svamp["test"]["cluster"]}
    clusters = set(real["train"]["cluster"])
    assert set(svamp["train"]["cluster"]) <= clusters
    assert not held_out & clusters


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solutions": ["short"]}, "task.solutions=['short']: expected one or more different of full, equations"),
        ({"solutions": []}, "task.solutions=[]: expected one or more"),
        ({"solutions": ["full", "full"]}, "task.solutions=['full', 'full']: expected one or more different"),
        ({"perturbed_copies": -1}, "task.perturbed_copies=-1: expected at least 0"),
    ],
)
def test_an_impossible_option_is_refused_by_the_config(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        TaskArguments(**options)


@pytest.mark.parametrize("task", ["gsm8k", "countdown"])
@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"solutions": ["full"]}, "task.solutions=['full']: "),
        ({"perturbed_copies": 1}, "task.perturbed_copies=1: "),
        ({"extra_files": ["x.jsonl"]}, "task.extra_files=['x.jsonl']: "),
    ],
)
def test_generated_problems_and_countdown_refuse_the_options(task, options, shown):
    with pytest.raises(ConfigError, match=re.escape(shown)) as raised:
        load_task(TaskArguments(task_name=task, **options))
    assert "\n" not in str(raised.value)


def test_a_config_reaches_the_task(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", range(20, 120))
    extra = write_jsonl(tmp_path / "b.jsonl", range(700, 710))
    arguments = TaskArguments(data_files=[file], solutions=["equations"], perturbed_copies=1, extra_files=[extra])
    _, splits = load_task(arguments)
    assert splits["train"].num_rows == 2 * (80 + 10)
    assert all(prompt.endswith("\nEquations:") for prompt in splits["test"]["prompt"])


def test_bad_further_files_are_named(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", range(50))
    for name, content, message in (
        ("gone", None, "gone is not a file; expected a GSM8K jsonl file or an SVAMP.json file"),
        ("empty", "\n", "empty has no rows; expected a GSM8K jsonl file"),
        ("list", "[1]", "list, record 1: expected an object"),
        ("lines", "{}", "lines, line 1: expected an object"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_task(TaskArguments(data_files=[file], extra_files=[str(tmp_path / name)]))
