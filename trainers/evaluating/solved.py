"""Training problems that a policy sometimes solves, by a record of scripts/evaluate.py: a group learns from those."""

from pathlib import Path

from datasets import Dataset

from trainers.evaluating.evaluation import SAMPLED
from trainers.evaluating.identity import data_hash
from trainers.evaluating.record import read_record
from trainers.settings.options import ConfigError


def sometimes_solved(train: Dataset, path: Path) -> Dataset:
    """The problems of which some sampled completions were strictly right and some were not.

    Args:
        train: the training split; the record may be of its first problems only (``--limit``).
        path: the record.

    Raises:
        ConfigError: no such record, one of other problems or of single samples, or none of its problems is left.
    """
    named, record = f"task.sometimes_solved={str(path)!r}", read_record(path)
    rows, count = record["rows"], record["problems"]
    if len(rows) != 1 or SAMPLED not in rows[0]["outcomes"] or record["repeats"] < 2:
        raise ConfigError(
            f"{named}: expected a record of one row with sampled completions, at least 2 a problem: "
            "scripts/evaluate.py --split train --repeats 8 --decodings sampled --json FILE"
        )
    if count > len(train) or data_hash(train.select(range(count))) != record["data"]:
        raise ConfigError(
            f"{named}: it is of {count} {record['split']} problems that are not the first of this training split; "
            "evaluate with the same task options and --split train"
        )
    if not rows[0]["outcomes"][SAMPLED]:
        raise ConfigError(f"{named}: it says what rewards its completions got, not which were right")
    times = zip(*rows[0]["outcomes"][SAMPLED]["strict"], strict=True)
    kept = [i for i, verdicts in enumerate(times) if len(set(verdicts)) > 1]
    if not kept:
        raise ConfigError(f"{named}: none of its {count} problems was solved by some samples and missed by others")
    return train.select(kept)
