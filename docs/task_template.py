"""A task of your own: copy this file, change what it says, and train with `--task.path my_task.py` (docs/tasks.md).

This one sorts letters: "Sort: d b a c\\nAnswer:" -> "a b c d".
"""

import random
import string
from dataclasses import dataclass

from datasets import Dataset

from trainers.tasks.sources import carve, check_sources, read_jsonl

LETTERS = string.ascii_lowercase
SIZES = {"train": 2048, "validation": 64, "test": 128}


def build_prompt(question: str) -> str:
    """The one prompt of this task; the completion starts right after it."""
    return f"{question}\nAnswer:"


@dataclass(frozen=True)
class Verdict:
    """Whether a completion is right: as it should be written (strict), and as a patient reader would take it."""

    strict: bool
    lenient: bool


def verify(completion: str, answer: str) -> Verdict:
    """Is it right? Called for every held-out completion. It must not raise, whatever the model wrote."""
    return Verdict(strict=completion.strip() == answer, lenient=completion.split() == answer.split())


def correctness(completions: list[str], answer: list[str], **kwargs) -> list[float]:
    """A reward as TRL calls it: one number a completion, or None for "does not apply".

    Every column of the dataset comes as a list beside `completions`: here `answer`.
    """
    return [float(verify(c, a).strict) for c, a in zip(completions, answer, strict=True)]


def in_place(completions: list[str], answer: list[str], **kwargs) -> list[float]:
    """Share of the letters that stand where they should: a reward that is rarely 0 for everybody."""
    pairs = [(c.split(), a.split()) for c, a in zip(completions, answer, strict=True)]
    return [sum(x == y for x, y in zip(c, a, strict=False)) / max(len(c), len(a)) for c, a in pairs]


REWARDS = {"correctness": correctness, "in_place": in_place}  # task.rewards chooses among them


def load_splits(
    *,
    data_files: list[str] | None,
    dataset_name: str | None,
    train_size: int | None,
    validation_size: int | None,
    test_size: int | None,
    seed: int,
    letters: int = 4,  # an option of this task alone: task.options.letters
) -> dict[str, Dataset]:
    """Train, validation and test, with the text columns prompt, completion (what SFT learns), answer (what `verify`
    reads) and cluster (what no two splits may share; intervals count clusters).

    Raises:
        ValueError: with a message that names the option, its value, and what is allowed.
    """
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    check_sources(data_files, dataset_name, sizes)
    if dataset_name is not None:
        raise ValueError(f"task.dataset_name = {dataset_name!r}: this task reads local files or draws its problems")
    if not 2 <= letters <= len(LETTERS):
        raise ValueError(f"task.options: letters = {letters}: must be in 2..{len(LETTERS)}")
    if data_files is None:
        rng = random.Random(seed)
        sizes = {split: sizes[split] or SIZES[split] for split in sizes}
        source = [tuple(rng.sample(LETTERS, letters)) for _ in range(2 * sum(sizes.values()))]
        test = None
    else:  # lines such as {"letters": ["d", "b"]}
        files = [read_jsonl(path, _to_problem, "a file of letters") for path in data_files]
        source, test = files[0], files[1] if len(files) == 2 else None
    # what two splits must not share is the set of letters: its order is the question, the set is the answer
    split = carve(source, test, key=_cluster, sizes=sizes, seed=seed, noun="sets of letters")
    return {name: Dataset.from_list([_to_row(problem) for problem in rows]) for name, rows in split.items()}


def _cluster(problem: tuple[str, ...]) -> str:
    return " ".join(sorted(problem))


def _to_problem(raw: object, where: str) -> tuple[str, ...]:
    letters = raw.get("letters") if isinstance(raw, dict) else None
    if not isinstance(letters, list) or not all(isinstance(letter, str) for letter in letters):
        raise ValueError(f'{where}: expected {{"letters": ["d", "b", "a", "c"]}}')
    return tuple(letters)


def _to_row(problem: tuple[str, ...]) -> dict[str, str]:
    answer = _cluster(problem)
    question = f"Sort: {' '.join(problem)}"
    return {"prompt": build_prompt(question), "completion": answer, "answer": answer, "cluster": answer}
