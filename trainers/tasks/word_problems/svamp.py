r"""SVAMP: one-step and two-step word problems that were rewritten so that surface cues mislead (Patel et al. 2021,
arXiv:2103.07191), with the prompt, verifier and rewards of GSM8K.

A completion is the problem's equation as a calculator annotation, then the answer line,
"<<(4+13)*15=255>>\n#### 255". The columns are prompt, completion, answer and cluster. Most problems are variations of
one another, so the clusters (see `trainers.tasks.clustering`) are what splits are disjoint in, and what intervals must
count. The split is the same for every seed, so that another task can train on the training part of SVAMP and leave
the rest unseen.
"""

import datasets

from trainers.tasks.sources import check_sources
from trainers.tasks.training_data import UNCHANGED, TrainingData
from trainers.tasks.word_problems.augmentation import build_splits
from trainers.tasks.word_problems.files import read_extra, read_svamp, to_svamp
from trainers.tasks.word_problems.numbers import (
    REWARDS as REWARDS,  # a task offers its verifier and rewards by these names
)
from trainers.tasks.word_problems.numbers import verify as verify
from trainers.tasks.word_problems.problems import WordProblem
from trainers.tasks.word_problems.problems import build_prompt as build_prompt
from trainers.tasks.word_problems.splitting import carve_clusters, clustered

NAME = "svamp"


def _read_hub(dataset_name: str) -> list[WordProblem]:
    """Return the problems of all splits; which of them hold out what is decided by cluster."""
    splits = datasets.load_dataset(dataset_name)
    return [
        to_svamp(raw, f"{dataset_name} {split}, row {i}") for split in splits for i, raw in enumerate(splits[split])
    ]


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
    """Load the splits train, validation and test, disjoint in clusters.

    Args:
        data_files: [SVAMP.json], or [train, test] in its format.
        dataset_name: a hub dataset with SVAMP's columns, such as "ChilleD/SVAMP"; its splits are put together.
        train_size: a cap on the training problems.
        validation_size: problems of validation. None: `splitting.VALIDATION_SIZE`, of a small file a tenth. Fewer are
            a cap: what is trained on stays the same.
        test_size: the same of test. None: `splitting.TEST_SIZE`, of a small file a third; of a test file a cap.
        seed: of the perturbed copies; the split does not depend on it.
        min_operations, max_operations, max_number: bounds of a generator, which this task does not have.
        training_data: styles, copies and further files of the training split. Both styles have the same completion.

    Raises:
        ValueError: no source, a value out of range, sizes that leave nothing to train on, or a malformed record.
        FileNotFoundError: a data file does not exist.
    """
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    check_sources(data_files, dataset_name, sizes)
    if dataset_name is not None:
        sources = [_read_hub(dataset_name)]
    elif data_files is not None:
        sources = [read_svamp(path) for path in data_files]
    else:
        raise ValueError(f"task.data_files = None: task {NAME} has no generator; expected [SVAMP.json]")
    gsm8k, svamp = read_extra(training_data.extra_files)
    *sources, svamp = clustered(*sources, svamp)
    problems, held_out = carve_clusters(sources[0], sources[1] if len(sources) == 2 else None, sizes)
    extra = [p for p in svamp if p.equations() and p.cluster not in held_out]
    return build_splits(problems, [*gsm8k, *extra], training_data, seed)
