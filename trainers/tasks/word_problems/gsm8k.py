r"""GSM8K: grade-school word problems whose answer is one number (Cobbe et al. 2021, arXiv:2110.14168).

Convention: a completion ends with the line "#### <number>". Before it, a generated completion holds only GSM8K's
calculator annotations, "<<12+7=19>>\n#### 19"; a real one holds the human solution, or what `TrainingData` asks for.
Three sources give the same columns (prompt, completion, answer; cluster, which problems with equal template and
numbers share): an embedded seeded generator, local GSM8K jsonl files, and a dataset of the hub.
"""

import datasets

from trainers.tasks.sources import TEST_SIZE, VALIDATION_SIZE, carve, check_generator, check_sources
from trainers.tasks.training_data import UNCHANGED, TrainingData
from trainers.tasks.word_problems.augmentation import build_splits
from trainers.tasks.word_problems.files import read_extra, read_gsm8k, to_gsm8k
from trainers.tasks.word_problems.generator import MAX_MAX_NUMBER, MAX_OPERATIONS, MIN_MAX_NUMBER, Problem, generate
from trainers.tasks.word_problems.numbers import (
    REWARDS as REWARDS,  # a task offers its verifier and rewards by these names
)
from trainers.tasks.word_problems.numbers import verify as verify
from trainers.tasks.word_problems.problems import WordProblem
from trainers.tasks.word_problems.problems import build_prompt as build_prompt
from trainers.tasks.word_problems.splitting import carve_clusters, clustered

NAME = "gsm8k"

TRAIN_SIZE = 8192  # embedded problems; a real training file is used whole


def load_splits(
    *,
    data_files: list[str] | None,
    dataset_name: str | None,
    train_size: int | None,
    validation_size: int | None,
    test_size: int | None,
    seed: int,
    min_operations: int,
    max_operations: int,
    max_number: int,
    training_data: TrainingData = UNCHANGED,
) -> dict[str, datasets.Dataset]:
    """Load the disjoint splits train, validation and test with the text columns prompt, completion, answer and
    cluster.

    Args:
        data_files: GSM8K jsonl files [train] or [train, test]; None with `dataset_name` None means embedded problems.
        dataset_name: a hub dataset with GSM8K's columns, such as "openai/gsm8k" (its configuration "main").
        train_size: rows of train; for real data a cap. None: `TRAIN_SIZE` embedded problems, or all real rows.
        validation_size: rows of validation. None: `VALIDATION_SIZE`, of real data at most a tenth.
        test_size: rows of test; for a real test source a cap. None: `TEST_SIZE`, or all rows of a real test source.
        seed: seed of the generator, or of the carving of real rows.
        min_operations: fewest steps of an embedded problem, 1 to 3.
        max_operations: most steps of an embedded problem, 1 to 3.
        max_number: bound on every number of an embedded problem, see `_right_operands`.
        training_data: styles, copies and further files of the training split; needs real data. `train_size` is without
            what they add.

    Raises:
        ValueError: a value is out of range, a size cannot be reached, or a record is malformed.
        FileNotFoundError: a data file does not exist.
    """
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    check_sources(data_files, dataset_name, sizes)
    numbers = range(MIN_MAX_NUMBER, MAX_MAX_NUMBER + 1)
    check_generator(min_operations, max_operations, max_number, most_operations=MAX_OPERATIONS, numbers=numbers)
    if data_files is None and dataset_name is None:
        training_data.refuse(
            "needs problems of task.data_files or task.dataset_name; generated ones have their own size"
        )
        bounds = {"min_operations": min_operations, "max_operations": max_operations, "max_number": max_number}
        defaults = {"train": TRAIN_SIZE, "validation": VALIDATION_SIZE, "test": TEST_SIZE}
        return {
            split: datasets.Dataset.from_list(
                _problem_rows(generate(split, sizes[split] or default, seed=seed, **bounds))
            )
            for split, default in defaults.items()
        }
    sources = _read_hub(dataset_name) if dataset_name is not None else [read_gsm8k(path) for path in data_files or ()]
    test = sources[1] if len(sources) == 2 else None
    problems = carve(sources[0], test, lambda problem: problem.question, sizes, seed, "questions")
    return build_splits(problems, _read_extra(training_data.extra_files), training_data, seed)


def _problem_rows(pairs: list[tuple[str, Problem]]) -> list[dict[str, str]]:
    return [
        {
            "prompt": build_prompt(question),
            "completion": p.completion(),
            "answer": str(p.steps()[-1][-1]),
            "cluster": "|".join(map(str, p.instance)),
        }
        for question, p in pairs
    ]


def _read_hub(dataset_name: str) -> list[list[WordProblem]]:
    """Return the problems of the train and the test split."""
    splits = datasets.load_dataset(dataset_name, "main")
    if not {"train", "test"} <= set(splits):
        raise ValueError(f"task.dataset_name = {dataset_name!r}: expected splits train and test, got {list(splits)}")
    return [
        [to_gsm8k(raw, f"{dataset_name} {split}, row {i}") for i, raw in enumerate(splits[split])]
        for split in ("train", "test")
    ]


def _read_extra(paths: tuple[str, ...]) -> list[WordProblem]:
    """Further training problems; of SVAMP those that the task svamp trains on, so that its test split stays unseen."""
    gsm8k, svamp = read_extra(paths)
    if svamp:
        splits, _ = carve_clusters(clustered(svamp)[0], None, dict.fromkeys(("train", "validation", "test")))
        gsm8k += splits["train"]
    return gsm8k
