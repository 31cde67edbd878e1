"""Training data of word problems: styles keep the answer, copies are right, nothing held out is trained on."""

import json
import os
import re
from pathlib import Path

import datasets
import pytest
from paths import DATA
from traceable import is_right

from trainers.experiment import load_task
from trainers.settings.options import ConfigError
from trainers.settings.task import TaskArguments
from trainers.tasks import TASKS, gsm8k
from trainers.tasks.training_data import TrainingData

REAL_DATA = Path(os.environ.get("GSM8K_DIR", DATA / "gsm8k"))
SVAMP_FILE = Path(os.environ.get("SVAMP_DIR", DATA / "svamp")) / "SVAMP.json"
HAS_DATA = (REAL_DATA / "test.jsonl").is_file() and SVAMP_FILE.is_file()
SPLITS = ("train", "validation", "test")


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


# --- copies ---------------------------------------------------------------------------------------


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
    options = {"data_files": [file], "solutions": ["equations"], "perturbed_copies": 1, "extra_files": [extra]}
    arguments = TaskArguments(task_name="gsm8k", **options)
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
            load_task(TaskArguments(task_name="gsm8k", data_files=[file], extra_files=[str(tmp_path / name)]))
