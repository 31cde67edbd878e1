"""Held-out problems before and after a run: which were solved, and how the first ones were written."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from trainers.evaluating.evaluation import Evaluation
from trainers.reporting.page.budget import HELD_OUT, PROBLEMS, SHOWN_TEXT, Budget, clipped
from trainers.reporting.page.rollouts import playable
from trainers.tasks.messages import text_of

# (right before, right after) -> what became of a problem
CLASSES = {
    (False, True): "fixed",
    (True, False): "broken",
    (True, True): "still right",
    (False, False): "still wrong",
}
UNJUDGED = "not judged"  # where only rewards say how good a completion is
PLAYED = 8  # problems of a run that are played step by step


def solved_problems(
    problems: Dataset, before: Mapping[str, Evaluation] | None, after: Mapping[str, Evaluation]
) -> dict[str, Any]:
    """What report.html shows of held-out problems, strictly judged.

    Problems that changed come first; those that do not fit into the budget are left out, and counted all the same.

    Args:
        problems: the rows that were asked, with prompt and answer.
        before, after: decoding -> outcome; without a "before" there are right and wrong ones only.

    Returns:
        counts: decoding -> class -> problems; total: how many problems.
        rows: place, prompt, answer, and when -> decoding -> right and text; class by decoding.
        played: place, prompt, and when -> decoding -> what the player needs.
    """
    when: dict[str, Mapping[str, Evaluation]] = {"before": before, "after": after} if before else {"after": after}
    classes = {mode: _classes(before[mode] if before else None, after[mode]) for mode in after}
    budget = Budget(PROBLEMS)
    changed = sorted(range(len(problems)), key=lambda i: not any(_moved(own[i]) for own in classes.values()))
    rows = [row for row in (_row(problems, i, when, classes) for i in changed) if budget.takes(row)]
    return {
        "modes": list(after),
        "counts": {mode: _counted(own) for mode, own in classes.items()},
        "total": len(problems),
        "rows": sorted(rows, key=lambda row: row["place"]),
        "played": _played(problems, when),
    }


def _classes(before: Evaluation | None, after: Evaluation) -> list[str]:
    """What became of every problem."""
    if not after.strict:
        return [UNJUDGED] * len(after.completions)
    if before is None:
        return ["right" if right else "wrong" for right in after.strict]
    return [CLASSES[pair] for pair in zip(before.strict, after.strict, strict=True)]


def _moved(name: str) -> bool:
    return name in ("fixed", "broken")


def _counted(classes: Sequence[str]) -> dict[str, int]:
    kinds = (UNJUDGED,), ("right", "wrong"), tuple(CLASSES.values())
    names = next(kind for kind in kinds if set(classes) <= {*kind})
    return {name: classes.count(name) for name in names}


def _row(
    problems: Dataset, i: int, when: Mapping[str, Mapping[str, Evaluation]], classes: Mapping[str, list[str]]
) -> dict[str, Any]:
    return {
        "place": i,
        "prompt": clipped(text_of(problems[i]["prompt"]), SHOWN_TEXT),
        "answer": clipped(str(problems[i]["answer"]), SHOWN_TEXT),
        "class": {mode: own[i] for mode, own in classes.items()},
        "texts": {
            time: {mode: clipped(found.completions[i], SHOWN_TEXT) for mode, found in outcomes.items()}
            for time, outcomes in when.items()
        },
    }


def _played(problems: Dataset, when: Mapping[str, Mapping[str, Evaluation]]) -> list[dict[str, Any]]:
    """The problems that can be played, within a budget."""
    budget, found = Budget(HELD_OUT), []
    for i in sorted(next(iter(when["after"].values())).playbacks):
        row = {
            "place": i,
            "prompt": clipped(text_of(problems[i]["prompt"]), SHOWN_TEXT),
            "play": {
                time: {mode: playable(vars(one.playbacks[i])) for mode, one in outcomes.items() if i in one.playbacks}
                for time, outcomes in when.items()
            },
        }
        if budget.takes(row):
            found.append(row)
    return found
