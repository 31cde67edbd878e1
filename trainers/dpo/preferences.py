"""Preference pairs: from files, from the hub, or made of the policy's own completions of training problems.

A pair is a prompt with a chosen and a rejected text. Own completions: every problem is completed several times by the
policy as it is before training; the first completion that the task's verifier calls right (strictly) is paired with
the first that it does not, the second with the second, and no text is in two pairs. A problem whose completions are
all right or all wrong gives none. Only the training split is asked (for validation pairs the validation split), so no
held-out problem is trained on; pairs from elsewhere whose prompt is held out are left out.

Own pairs are written to `training.output_dir`/preferences/, with a record of all that they depend on: a resumed run
reads them back. The jsonl there is a file for `preferences.data_files` like any other.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from trainers.distributed.processes import Processes
from trainers.evaluating.evaluation import Answer, Evaluator
from trainers.evaluating.identity import data_hash, settings, weights_hash
from trainers.evaluating.together import tally
from trainers.models.policy import Policy
from trainers.reporting.console import counting
from trainers.saving.files import replace_file
from trainers.settings.config import ExperimentConfig
from trainers.settings.dpo import DiffusionDPOConfig
from trainers.settings.options import ConfigError
from trainers.tasks.messages import Prompt, flaw_of
from trainers.tasks.sources import read_jsonl

COLUMNS = ("prompt", "chosen", "rejected")
FOLDER = "preferences"  # of the output directory
HELD_OUT = ("validation", "test")
BROKEN = "\ufffd"  # what a tokenizer writes for bytes that are no character

Pair = dict[str, Any]


def preference_pairs(
    config: ExperimentConfig, splits: dict[str, Dataset], policy: Policy, evaluator: Evaluator
) -> dict[str, Dataset]:
    """The pairs to train on and, if the run wants them, to validate with; `info.description` counts them.

    Args:
        config: an experiment of trainer dpo.
        splits: its problems.
        policy: before training.
        evaluator: how it completes and judges problems.

    Raises:
        ConfigError: no pairs, a malformed file, or no validation pairs where they are wanted.
    """
    args = config.training
    assert isinstance(args, DiffusionDPOConfig)
    found = _from_elsewhere(args)
    if found is None:
        wanted = ["train", *(["validation"] if args.evaluates else [])]
        return {name: own_pairs(config, name, splits[name], policy, evaluator) for name in wanted}
    held_out = {_key(prompt) for name in HELD_OUT for prompt in splits[name]["prompt"]}
    args.check_validation("validation" in found)
    return {name: _without(held_out, pairs) if name == "train" else pairs for name, pairs in found.items()}


# ---- from elsewhere -------------------------------------------------------------------------------------------------


def _from_elsewhere(args: DiffusionDPOConfig) -> dict[str, Dataset] | None:
    """The pairs of files or of the hub; None: the run makes its own."""
    if args.preference_files is not None:
        names = ("train", "validation")  # the second file may be missing
        return {name: read_pairs(Path(file)) for name, file in zip(names, args.preference_files, strict=False)}
    return None if args.preference_dataset is None else read_hub(args.preference_dataset)


def read_pairs(path: Path) -> Dataset:
    """The pairs of a jsonl file; columns other than prompt, chosen and rejected are left out.

    Raises:
        ConfigError: the file, or a line of it, is not such a thing.
    """
    wanted = f"a JSON object with {', '.join(COLUMNS)}"

    def to_pair(row: object, where: str) -> Pair:
        if not isinstance(row, dict) or not set(COLUMNS) <= row.keys():
            raise ValueError(f"{where}: expected {wanted}")
        pair = {name: row[name] for name in COLUMNS}
        flaw = _flaw_of(pair)
        if flaw:
            raise ValueError(f"{where}: {flaw}")
        return pair

    option = "preferences.data_files"
    try:
        return Dataset.from_list(read_jsonl(str(path), to_pair, f"lines that are {wanted}", option))
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _flaw_of(pair: Pair) -> str | None:
    """What is wrong with a pair; None: nothing."""
    for name in ("chosen", "rejected"):
        if not isinstance(pair[name], str):
            return f"{name} is {pair[name]!r}; expected the text of an answer"
    return "chosen and rejected are equal" if pair["chosen"] == pair["rejected"] else flaw_of(pair["prompt"])


def read_hub(name: str) -> dict[str, Dataset]:
    """The training pairs of a hub dataset and, if it has such a split, its validation pairs.

    Raises:
        ConfigError: it cannot be loaded, has no such columns, or a row is no pair.
    """
    try:
        found = datasets.load_dataset(name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"preferences.dataset_name={name!r}: {' '.join(str(error).split())[:200]}") from error
    kept = {split: found[split] for split in ("train", "validation") if split in found}
    missing = [column for column in COLUMNS if "train" in kept and column not in kept["train"].column_names]
    if "train" not in kept or missing:
        raise ConfigError(f"preferences.dataset_name={name!r}: expected a split train with {', '.join(COLUMNS)}")
    for split, pairs in kept.items():
        for number, pair in enumerate(pairs):
            flaw = _flaw_of(dict(pair))
            if flaw:
                raise ConfigError(f"preferences.dataset_name={name!r}, {split}, row {number}: {flaw}")
    return {split: pairs.select_columns(list(COLUMNS)) for split, pairs in kept.items()}


def _key(prompt: Prompt) -> str:
    """What tells one prompt from another, whatever it is made of."""
    return json.dumps(prompt, sort_keys=True)


def _without(held_out: set[str], pairs: Dataset) -> Dataset:
    """The pairs whose prompts are not held out."""
    kept = pairs.select([i for i, prompt in enumerate(pairs["prompt"]) if _key(prompt) not in held_out])
    if len(kept) == 0:
        raise ConfigError("preferences: the prompts of all training pairs are held-out problems of the task")
    kept.info.description = f"{len(kept)} preference pairs, {len(pairs) - len(kept)} left out as held-out prompts"
    return kept


# ---- own completions ------------------------------------------------------------------------------------------------


def own_pairs(
    config: ExperimentConfig, split: str, problems: Dataset, policy: Policy, evaluator: Evaluator
) -> Dataset:
    """Pairs of the policy's own completions of some problems; read back if they were made before.

    Every process completes a share of the problems and has all pairs in the end.
    """
    args, processes = config.training, Processes.current()
    assert isinstance(args, DiffusionDPOConfig) and args.output_dir is not None
    problems = problems.select(range(min(args.preference_problems or len(problems), len(problems))))
    if not policy.quantised:  # which are where they belong
        policy.move_to(args.device)
    folder = Path(args.output_dir) / FOLDER
    depends_on = {
        "weights": weights_hash(policy.model),
        "problems": data_hash(problems),
        "samples": args.preference_samples,
        "pairs_per_problem": args.pairs_per_problem,
        "settings": settings(config, policy.format),
    }
    found = processes.from_first(lambda: _read_back(folder, split, depends_on))
    if found is None:
        found = _make(args, policy, replace(evaluator, problems=problems), processes)
        if processes.first:
            _write(folder, split, depends_on, *found)
    pairs, counts = found
    if not pairs:
        raise ConfigError(
            f"preferences: no {split} problem has completions of both kinds ({_told(counts)}); expected another "
            f"preferences.samples than {args.preference_samples}, or other problems"
        )
    dataset = Dataset.from_list(pairs)
    dataset.info.description = f"{len(pairs)} preference pairs: {_told(counts)}"
    return dataset


def _make(
    args: DiffusionDPOConfig, policy: Policy, evaluator: Evaluator, processes: Processes
) -> tuple[list[Pair], dict[str, int]]:
    """All pairs in the order of the problems, and what became of the problems."""
    prompts = list(evaluator.problems["prompt"])
    places = list(range(processes.rank, len(prompts), processes.count))
    rounds = range(args.preference_samples if places else 0)
    with counting("completions for preferences", quiet=not processes.first) as say:
        count = tally(say, len(places) * len(rounds))
        answers = [evaluator.answer(policy, args.temperature, places, repetition, count) for repetition in rounds]
    mine = [(place, list(of_one)) for place, *of_one in zip(places, *answers, strict=True)]

    def fits(place: int, answer: Answer) -> bool:
        """A text may be tokenised otherwise than it was written: longer, or with a sign for half a character."""
        _, ids = policy.format.join(policy.tokenizer, prompts[place], answer.completion)
        return BROKEN not in answer.completion and len(ids) - 1 <= args.max_completion_length  # its end may be cut

    pairs, counts = [], {"problems": len(prompts), "with a pair": 0, "all right": 0, "all wrong": 0}
    for place, of_one in sorted(chain(*processes.gather(mine)), key=lambda answered: answered[0]):
        kept = [answer for answer in of_one if fits(place, answer)]
        right = sum(answer.strict for answer in kept)
        counts["all wrong" if right == 0 else "all right" if right == len(kept) else "with a pair"] += 1
        found = pair_up(kept, args.pairs_per_problem)
        pairs += [{"prompt": prompts[place], "chosen": chosen, "rejected": rejected} for chosen, rejected in found]
    return pairs, counts


def pair_up(answers: Sequence[Answer], most: int) -> list[tuple[str, str]]:
    """Right texts with wrong ones, in the order in which they were drawn, each text once."""
    right, wrong = (
        list(dict.fromkeys(answer.completion for answer in answers if answer.strict is verdict))
        for verdict in (True, False)
    )
    return list(zip(right, wrong, strict=False))[:most]


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def _paths(folder: Path, split: str) -> tuple[Path, Path]:
    return folder / f"{split}.jsonl", folder / f"{split}.json"


def _write(folder: Path, split: str, depends_on: dict[str, Any], pairs: list[Pair], counts: dict[str, int]) -> None:
    """The pairs and, last, their record: without one that fits, they are made again."""
    file, record = _paths(folder, split)
    text = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    replace_file(file, text.encode())
    known = {"depends_on": depends_on, "counts": counts, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    replace_file(record, (json.dumps(known, indent=2) + "\n").encode())


def _read_back(folder: Path, split: str, depends_on: dict[str, Any]) -> tuple[list[Pair], dict[str, int]] | None:
    """What `_write` left; None if it is of another run, or not whole."""
    file, record = _paths(folder, split)
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    whole = known["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    if not whole or known["depends_on"] != json.loads(json.dumps(depends_on)):
        return None
    # not splitlines(), which also ends a line at a U+2028 inside a text
    return [json.loads(line) for line in text.split("\n") if line], known["counts"]
