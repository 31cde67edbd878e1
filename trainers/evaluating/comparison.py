"""Two records of the same problems, problem by problem."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainers.evaluating.statistics import (
    Interval,
    change_of_mean,
    change_text,
    clustered_mean,
    gain,
    independent,
    mcnemar,
    mean_of,
    means_of,
)
from trainers.settings.options import ConfigError


@dataclass(frozen=True)
class Paired:
    """One decoding under one parser, in two records.

    Attributes:
        changes: the swept settings that both rows share.
        decoding, parser: what is compared; in place of a parser it may be a reward.
        before, after: accuracies.
        gain: mean of after - before over problems, with its paired interval (clustered where problems are).
        both, only_before, only_after, neither: problems by who solves them; None where a problem has several
            repetitions, and so no one outcome.
        p: McNemar's exact p-value from them; it counts problems as independent.
    """

    changes: dict[str, Any]
    decoding: str
    parser: str
    before: Interval
    after: Interval
    gain: Interval
    both: int | None
    only_before: int | None
    only_after: int | None
    neither: int | None
    p: float | None

    def cells(self) -> list[str]:
        """As text."""
        counts = (self.both, self.only_before, self.only_after, self.neither)
        return [
            *map(str, self.changes.values()),
            f"{self.decoding} {self.parser}",
            str(self.before),
            str(self.after),
            change_text(self.parser, asdict(self.gain)),
            *("-" if count is None else str(count) for count in counts),
            "-" if self.p is None else f"{self.p:.2g}",
        ]


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Paired]:
    """Every decoding that both records have, in every row of the sweep that both have, under both parsers and in all
    rewards.

    Args:
        before, after: records of scripts/evaluate.py.

    Raises:
        ConfigError: other problems, or nothing in common.
    """
    if before["data"] != after["data"]:
        raise ConfigError(
            f"the records are of different problems: {_described(before)} and {_described(after)}; a paired "
            "comparison needs the same ones"
        )
    pairs = [(old, new) for old in before["rows"] for new in after["rows"] if old["changes"] == new["changes"]]
    found = [
        _paired(old, new, decoding, parser, before["clusters"].split())
        for old, new in pairs
        for decoding in old["outcomes"]
        if decoding in new["outcomes"]
        for parser in old["outcomes"][decoding]
        if parser in new["outcomes"][decoding]
    ]
    found += [
        _paired_rewards(old, new, decoding, measure, before["clusters"].split())
        for old, new in pairs
        for decoding, measures in old.get("rewards", {}).items()
        for measure in measures
        if measure in new.get("rewards", {}).get(decoding, {})
    ]
    if not found:
        raise ConfigError(
            f"the records have no row and decoding in common: {_rows(before)} and {_rows(after)}; evaluate both with "
            "the same --sweep and --decodings"
        )
    return found


def notes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What the numbers are, in sentences."""
    found = [
        f"gain: mean over problems of after - before, in points, with its paired 95% interval; accuracies with their "
        f"95% {before['interval']} intervals. p: McNemar's exact test of the problems that only one of them solves."
    ]
    if not any(before["rows"][0]["outcomes"].values()):
        found = ["gain: mean over problems of after - before, in the reward's unit, with its paired 95% interval."]
    elif not independent(before["clusters"].split()):
        found.append(
            f"The {before['problems']} problems are {before['independent_clusters']} independent clusters. McNemar's "
            "test counts every problem as independent and so its p is too small: trust the interval, which does not."
        )
    if before["repeats"] != after["repeats"]:
        found.append(f"Repetitions: {before['repeats']} before, {after['repeats']} after.")
    old, new = (_unswept(record["rows"][0]) for record in (before, after))
    found += [f"{key}: {old.get(key)} before, {new.get(key)} after." for key in new if old.get(key) != new[key]]
    if before["weights"] == after["weights"]:
        found.append("Both records are of the same weights.")
    return found


def describe(found: list[Paired], names: tuple[str, str], said: list[str]) -> dict[str, Any]:
    """JSON-serialisable."""
    return {"before": names[0], "after": names[1], "notes": said, "rows": [asdict(paired) for paired in found]}


def _paired(old: Mapping[str, Any], new: Mapping[str, Any], decoding: str, parser: str, clusters: list[str]) -> Paired:
    runs = [[[int(digit) for digit in run] for run in row["outcomes"][decoding][parser]] for row in (old, new)]
    left, right = ([sum(column) / len(column) for column in zip(*times, strict=True)] for times in runs)
    counts: list[int] | None = None
    if all(len(times) == 1 for times in runs):
        verdicts = list(zip(left, right, strict=True))
        counts = [verdicts.count(pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0))]
    both, only_before, only_after, neither = counts or [None] * 4
    return Paired(
        changes=old["changes"],
        decoding=decoding,
        parser=parser,
        before=clustered_mean(left, clusters),
        after=clustered_mean(right, clusters),
        gain=gain(left, right, clusters),
        both=both,
        only_before=only_before,
        only_after=only_after,
        neither=neither,
        p=mcnemar(counts[1], counts[2]) if counts else None,
    )


def _paired_rewards(
    old: Mapping[str, Any], new: Mapping[str, Any], decoding: str, measure: str, clusters: list[str]
) -> Paired:
    left, right = (means_of(row["rewards"][decoding][measure]) for row in (old, new))
    change = change_of_mean(left, right, clusters)
    means = mean_of(left, clusters), mean_of(right, clusters)
    return Paired(old["changes"], decoding, measure, *means, change, None, None, None, None, None)


def _unswept(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row["settings"].items() if name not in row["changes"]}


def _described(record: Mapping[str, Any]) -> str:
    return f"{record['problems']} of {record['split']} (sha256 {record['data'][:12]})"


def _rows(record: Mapping[str, Any]) -> str:
    return "; ".join(f"{row['changes'] or 'one row'} {'/'.join(row['outcomes'])}" for row in record["rows"])
