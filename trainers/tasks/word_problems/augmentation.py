"""What a task of word problems trains on: further files, copies with other numbers, and the styles of solutions.

Convention: all of it concerns the training split alone, on problems read from files or the hub; generated problems
have a generator to ask for more. Held-out problems are never dropped and never trained on.
"""

import random

import datasets

from trainers.tasks.training_data import PLAIN, TrainingData
from trainers.tasks.word_problems.numbers import ANSWER_MARK
from trainers.tasks.word_problems.perturbation import perturbed
from trainers.tasks.word_problems.problems import WordProblem
from trainers.tasks.word_problems.tracing import Untraceable


def build_splits(
    problems: dict[str, list[WordProblem]], extra: list[WordProblem], data: TrainingData, seed: int
) -> dict[str, datasets.Dataset]:
    """Make data sets of carved problems; the description of train counts what was added and left out.

    Args:
        problems: of the splits train, validation and test.
        extra: further training problems. Those that repeat one, or whose question is held out, are not taken.
        data: the options.
        seed: of the perturbation.
    """
    held_out = [*problems["validation"], *problems["test"]]
    train = [*problems["train"]]
    taken = {problem.key for problem in [*held_out, *train]}
    train += _new(extra, taken)
    copies = [
        copy
        for problem in (train if data.perturbed_copies else ())
        for copy in _copies(problem, data.perturbed_copies, taken, seed)
    ]
    notes = [f"{len(train)} training problems"]
    notes += [f"{len(train) - len(problems['train'])} of them from extra files"] if data.extra_files else []
    notes += [f"{len(copies)} perturbed copies"] if data.perturbed_copies else []
    rows = []
    for style in data.styles:
        texts = [(problem, _completion(problem, style)) for problem in [*train, *copies]]
        styled = [problem.to_row(style, text) for problem, text in texts if text is not None]
        notes.append(f"{len(styled)} rows in style {style}, {len(texts) - len(styled)} without such a solution")
        rows += styled
    splits = {"train": datasets.Dataset.from_list(rows)}
    splits["train"].info.description = ", ".join(notes)
    style = data.styles[0]
    for split in ("validation", "test"):
        splits[split] = datasets.Dataset.from_list(
            [p.to_row(style, _completion(p, style) or f"{ANSWER_MARK} {p.answer}") for p in problems[split]]
        )
    return splits


def _completion(problem: WordProblem, style: str) -> str | None:
    return problem.solution if style == PLAIN else problem.equations()


def _new(problems: list[WordProblem], taken: set[str]) -> list[WordProblem]:
    """The problems whose question is not taken yet; they take it."""
    new = []
    for problem in problems:
        if problem.key not in taken:
            taken.add(problem.key)
            new.append(problem)
    return new


def _copies(problem: WordProblem, most: int, taken: set[str], seed: int) -> list[WordProblem]:
    """Copies of one problem; its stream of numbers depends on its question and the seed alone."""
    copies: list[WordProblem] = []
    try:
        for copy in perturbed(problem, random.Random(f"{seed}-perturbed-{problem.question}")):
            copies += _new([copy], taken)
            if len(copies) == most:
                break
    except Untraceable:
        pass
    return copies
