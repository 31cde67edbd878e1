"""The SVAMP task: records become GSM8K's form, variations of one seed stay in one split, bad input is named."""

import json
import os
import random
import re
from collections import defaultdict
from pathlib import Path

import datasets
import pytest
from paths import DATA

from trainers.tasks import gsm8k, svamp
from trainers.tasks.arithmetic import annotations_of
from trainers.tasks.clustering import cluster
from trainers.tasks.training_data import TrainingData
from trainers.tasks.word_problems.files import to_svamp

REAL_FILE = Path(os.environ.get("SVAMP_DIR", DATA / "svamp")) / "SVAMP.json"
needs_real_file = pytest.mark.skipif(not REAL_FILE.is_file(), reason="no SVAMP.json: set SVAMP_DIR to its folder")
SPLITS = ("train", "validation", "test")

SCENES = ("apples basket Olga", "pencils drawer Henk", "tickets cinema Ravi", "shells beach Nora", "stamps album Igor")


def load(**overrides) -> dict[str, datasets.Dataset]:
    sizes = {"train_size": None, "validation_size": None, "test_size": None}
    bounds = {"seed": 0, "min_operations": 1, "max_operations": 1, "max_number": 20}
    return svamp.load_splits(**({"data_files": None, "dataset_name": None, **sizes, **bounds} | overrides))


def record(scene: str, number: int) -> dict[str, object]:
    """A variation: same things, place and person, another number."""
    things, place, name = scene.split()
    body = f"{name} put {number} {things} into the {place}. Later {name} added 2 more {things}."
    equation = f"( {number}.0 + 2.0 )"
    question = f"How many {things} are in the {place} of {name}?"
    return {"ID": f"x-{number}", "Body": body, "Question": question, "Equation": equation, "Answer": number + 2.0}


def write(path: Path, scenes: tuple[str, ...] = SCENES, numbers: range = range(10, 20)) -> str:
    records = [record(scene, number) for scene in scenes for number in numbers]
    random.Random(0).shuffle(records)
    path.write_text(json.dumps(records))
    return str(path)


def scenes_of(split: datasets.Dataset) -> set[str]:
    return {scene for scene in SCENES if any(scene.split()[2] in prompt for prompt in split["prompt"])}


# --- records --------------------------------------------------------------------------------------


def solution_of(equation: str, answer: float) -> str:
    raw = {"Body": "A body.", "Question": "What?", "Equation": equation, "Answer": answer}
    return to_svamp(raw, "here").solution


@pytest.mark.parametrize(
    ("equation", "answer", "solution"),
    [
        ("( 76.0 - 25.0 )", 51.0, "<<76-25=51>>\n#### 51"),
        ("( ( 4.0 + 13.0 ) * 15.0 )", 255.0, "<<(4+13)*15=255>>\n#### 255"),
        ("( ( 4.0 + 13.0 ) * ( 2.0 + 1.0 ) )", 51.0, "<<(4+13)*(2+1)=51>>\n#### 51"),
        ("( 3.0 / 2.0 )", 1.5, "<<3/2=1.5>>\n#### 1.5"),
        ("( 4.0 - 2.0 )", 1.0, "#### 1"),  # the equation does not give the answer
        ("8.0", 8.0, "#### 8"),  # no operation
        ("( 4.0 ** 2.0 )", 16.0, "#### 16"),
    ],
)
def test_a_solution_is_rebuilt_from_the_equation(equation, answer, solution):
    assert solution_of(equation, answer) == solution


@pytest.mark.parametrize(
    ("body", "question", "text"),
    [
        ("Tom has 3 cats.", "How many cats?", "Tom has 3 cats. How many cats?"),
        ("Tom has 3 cats. If he buys 2", "How many has he?", "Tom has 3 cats. If he buys 2, how many has he?"),
        ("If Tom has 3 cats", "How many has he?", "If Tom has 3 cats, how many has he?"),
        ("Tom has 3 cats. He buys 2", "How many now?", "Tom has 3 cats. He buys 2. How many now?"),
        ("", "How many?", "How many?"),
    ],
)
def test_body_and_question_become_one_text(body, question, text):
    raw = {"Body": body, "Question": question, "Equation": "( 3.0 + 2.0 )", "Answer": 5.0}
    assert to_svamp(raw, "here").question == text


# --- clusters and splits --------------------------------------------------------------------------


def test_variations_share_a_cluster_whatever_their_order():
    problems = [to_svamp(record(scene, n), "here").question for scene in SCENES for n in (3, 40, 500)]
    named = dict(zip(problems, cluster(problems), strict=True))
    groups = defaultdict(set)
    for problem, name in named.items():
        groups[name].add(next(scene for scene in SCENES if scene.split()[2] in problem))
    assert len(groups) == len(SCENES) and all(len(scenes) == 1 for scenes in groups.values())
    random.Random(1).shuffle(problems)
    assert dict(zip(problems, cluster(problems), strict=True)) == named


def test_splits_have_their_sizes_and_share_no_cluster(tmp_path):
    splits = load(data_files=[write(tmp_path / "SVAMP.json")], test_size=12, validation_size=5)
    assert [splits[split].num_rows for split in SPLITS] == [20, 5, 12]  # two scenes for test, one for validation
    clusters = [set(splits[split]["cluster"]) for split in SPLITS]
    assert sum(map(len, clusters)) == len(set.union(*clusters)) == len(SCENES)
    assert splits["test"][0].keys() == {"prompt", "completion", "answer", "cluster"}
    assert splits["test"][0]["prompt"].endswith("?\nAnswer:")


def test_the_split_is_the_same_for_every_seed(tmp_path):
    file = write(tmp_path / "SVAMP.json")
    sizes = {"test_size": 20, "validation_size": 10}
    one, other = load(data_files=[file], **sizes), load(data_files=[file], seed=5, **sizes)
    assert all(one[split].to_list() == other[split].to_list() for split in SPLITS)


def test_fewer_held_out_problems_leave_what_is_trained_on_as_it_is(tmp_path):
    file = write(tmp_path / "SVAMP.json")
    whole, fewer = load(data_files=[file]), load(data_files=[file], test_size=3, validation_size=2)
    assert fewer["train"].to_list() == whole["train"].to_list()
    assert fewer["test"].to_list() == whole["test"].to_list()[:3]
    assert fewer["validation"].to_list() == whole["validation"].to_list()[:2]
    more = TrainingData(extra_files=(write(tmp_path / "more.json", SCENES, range(30, 33)),))
    trained = scenes_of(load(data_files=[file], test_size=3, validation_size=2, training_data=more)["train"])
    assert not trained & (scenes_of(whole["test"]) | scenes_of(whole["validation"]))


def test_a_test_file_keeps_its_clusters_out_of_training(tmp_path):
    files = [write(tmp_path / "a.json"), write(tmp_path / "b.json", SCENES[:2], range(50, 56))]
    splits = load(data_files=files, validation_size=4)
    assert splits["test"].num_rows == 12
    assert scenes_of(splits["test"]) == set(SCENES[:2])
    assert not (scenes_of(splits["train"]) | scenes_of(splits["validation"])) & set(SCENES[:2])


def test_a_problem_whose_equation_is_wrong_is_tested_but_never_trained_on(tmp_path):
    wrong = {"Answer": 1.0}
    records = [record(scene, n) | (wrong if n % 2 else {}) for scene in SCENES for n in range(10, 20)]
    (tmp_path / "SVAMP.json").write_text(json.dumps(records))
    splits = load(data_files=[str(tmp_path / "SVAMP.json")], test_size=10, validation_size=10)
    assert splits["train"].num_rows == 2 * 5 and "1" not in splits["train"]["answer"]
    wrong = [row for split in ("validation", "test") for row in splits[split] if row["answer"] == "1"]
    assert wrong and {row["completion"] for row in wrong} == {"#### 1"}


def test_hub_splits_are_put_together(tmp_path, monkeypatch):
    file = write(tmp_path / "SVAMP.json")
    rows = [raw | {"Answer": str(raw["Answer"])} for raw in json.loads(Path(file).read_text())]
    hub = {"train": datasets.Dataset.from_list(rows[:30]), "test": datasets.Dataset.from_list(rows[30:])}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(hub))
    sizes = {"test_size": 10, "validation_size": 10}
    one, other = load(dataset_name="ChilleD/SVAMP", **sizes), load(data_files=[file], **sizes)
    for split in SPLITS:
        assert sorted(one[split]["prompt"]) == sorted(other[split]["prompt"])


def test_further_files_add_training_problems_of_no_held_out_cluster(tmp_path):
    file = write(tmp_path / "SVAMP.json")
    more = write(tmp_path / "more.json", SCENES, range(30, 33))
    sizes = {"test_size": 10, "validation_size": 10}
    plain = load(data_files=[file], **sizes)
    splits = load(data_files=[file], training_data=TrainingData(extra_files=(more,)), **sizes)
    assert scenes_of(splits["train"]) == scenes_of(plain["train"])
    assert splits["train"].num_rows == plain["train"].num_rows + 3 * len(scenes_of(plain["train"]))
    assert all(splits[split]["prompt"] == plain[split]["prompt"] for split in ("validation", "test"))


def test_as_a_further_file_of_gsm8k_its_own_held_out_problems_stay_unseen(tmp_path):
    file, lines = write(tmp_path / "SVAMP.json"), tmp_path / "train.jsonl"
    rows = [{"question": f"What is {n}?", "answer": f"#### {n}"} for n in range(20)]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bounds = {"seed": 7, "min_operations": 1, "max_operations": 1, "max_number": 20}
    sizes = {"train_size": None, "validation_size": None, "test_size": None}
    extra = TrainingData(extra_files=(file,))
    train = gsm8k.load_splits(data_files=[str(lines)], dataset_name=None, training_data=extra, **sizes, **bounds)[
        "train"
    ]
    own = load(data_files=[file])
    assert scenes_of(train) == scenes_of(own["train"])
    assert not scenes_of(train) & (scenes_of(own["validation"]) | scenes_of(own["test"]))


# --- the official file ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> dict[str, datasets.Dataset]:
    return load(data_files=[str(REAL_FILE)])


@needs_real_file
def test_every_official_completion_verifies_and_its_annotation_is_true():
    records = json.loads(REAL_FILE.read_text())
    problems = [to_svamp(raw, raw["ID"]) for raw in records]
    assert len(problems) == 1000
    for raw, problem in zip(records, problems, strict=True):
        assert float(problem.answer) == raw["Answer"]
        assert svamp.verify(problem.solution, problem.answer).strict
        assert all(annotation.is_true() for annotation in annotations_of(problem.solution) or ())
    without = [raw["ID"] for raw, problem in zip(records, problems, strict=True) if problem.equations() is None]
    assert without == ["chal-555", "chal-680"]  # one has no operation, one gives another answer


@needs_real_file
def test_official_splits_share_no_cluster_and_clusters_are_about_as_many_as_seeds(real):
    assert [real[split].num_rows for split in ("validation", "test")] == [100, 300]
    clusters = [set(real[split]["cluster"]) for split in SPLITS]
    assert sum(map(len, clusters)) == len(set.union(*clusters))
    assert 90 <= len(set.union(*clusters)) <= 110, "the paper has 100 seeds"


# --- bad input ------------------------------------------------------------------------------------

GOOD = record(SCENES[0], 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "is not JSON; expected an SVAMP.json file"),
        ("[" * 100_000, "is not JSON; expected an SVAMP.json file"),
        ('{"Body": "b"}', "is no JSON list of records"),
        ("[]", "is no JSON list of records"),
        ("[1]", "record 1: expected an object with the text keys Body, Question, Equation"),
        (json.dumps([GOOD, GOOD | {"Equation": 3}]), "record 2: expected an object with the text keys"),
        (json.dumps([GOOD | {"Answer": "many"}]), "record 1: Answer = 'many': expected a number"),
        (json.dumps([GOOD | {"Answer": None}]), "record 1: Answer = None: expected a number"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "SVAMP.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        load(data_files=[str(path)])
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_no_source_missing_files_and_impossible_sizes_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"task\.data_files = None: task svamp has no generator"):
        load()
    with pytest.raises(FileNotFoundError, match=r"task\.data_files: .*nowhere\.json is not a file"):
        load(data_files=[str(tmp_path / "nowhere.json")])
    with pytest.raises(ValueError, match=r"task\.test_size = 45 and task\.validation_size = 5 leave nothing to train"):
        load(data_files=[write(tmp_path / "SVAMP.json")], test_size=45, validation_size=5)
    with pytest.raises(ValueError, match=r"task\.test_size = 0: must be at least 1"):
        load(data_files=[str(tmp_path / "SVAMP.json")], test_size=0)
