"""The data sets of a trainer: which are taken, and what their rows say in the formats that TRL documents.

A text stands by itself (TRL's standard format) or as messages (its conversational one):

    GRPO   prompt
    SFT    prompt and completion; or messages (`conversations` of from and value too), of which the last is learned
    DPO    prompt, chosen and rejected; or chosen and rejected alone, which begin with one and the same prompt
"""

from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from trl.data_utils import maybe_convert_to_chatml, maybe_extract_prompt

from trainers.settings.options import ConfigError
from trainers.tasks.messages import Prompt, flaw_of

Row = dict[str, Any]
TRAIN, EVAL = "train_dataset", "eval_dataset"

# Columns of which one set has to be there, by trainer; the first one is what a message asks for.
COLUMNS = {
    "grpo": (("prompt",),),
    "sft": (("prompt", "completion"), ("messages",), ("conversations",)),
    "dpo": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
}
# Columns that TRL reads and a trainer here would leave out.
UNREAD = {
    "images": "a diffusion model of text sees no images",
    "image": "a diffusion model of text sees no images",
    "tools": "a diffusion sampler fills one canvas; there are no tool-calling turns",
}


# ---- data sets ------------------------------------------------------------------------------------------------------


def check_datasets(trainer: str, train: Any, held_out: Any) -> None:
    """Raise ConfigError for a data set that a trainer cannot take, before a model is loaded.

    Args:
        trainer: a key of `COLUMNS`.
        train: `train_dataset`.
        held_out: `eval_dataset`, or several by name, or None.
    """
    if train is None:
        raise ConfigError(f"{TRAIN} is missing: expected a datasets.Dataset with {_wanted(trainer)}")
    _check(trainer, train, TRAIN)
    for name, rows in named(held_out).items():
        _check(trainer, rows, name)


def named(held_out: Any) -> dict[str, Any]:
    """Evaluation sets by what messages call them; none of None."""
    if held_out is None:
        return {}
    if isinstance(held_out, Mapping):
        return {f"{EVAL}[{name!r}]": rows for name, rows in held_out.items()}
    return {EVAL: held_out}


def data_name(trl: str) -> str:
    """What messages call a data set that TRL calls train, eval or by its name among several."""
    return {"train": TRAIN, "eval": EVAL}.get(trl, f"{EVAL}[{trl!r}]")


def _check(trainer: str, rows: Any, name: str) -> None:
    if isinstance(rows, IterableDataset | IterableDatasetDict):
        raise ConfigError(
            f"{name} is an IterableDataset, which cannot be shuffled and resumed as a run needs it: load it without "
            "streaming, or keep its first rows: Dataset.from_list(list(rows.take(1000)))"
        )
    if isinstance(rows, DatasetDict):
        raise ConfigError(f"{name} is a DatasetDict: expected one of its splits, {', '.join(map(repr, rows))}")
    if not isinstance(rows, Dataset):
        hint = "; Dataset.from_list makes one of a list of rows" if isinstance(rows, list) else ""
        raise ConfigError(f"{name} is a {type(rows).__name__}: expected a datasets.Dataset{hint}")
    found = set(rows.column_names)
    if not any(found.issuperset(columns) for columns in COLUMNS[trainer]):
        why = _instead(trainer, found)
        raise ConfigError(f"{name} has the columns {', '.join(rows.column_names)}: expected {_wanted(trainer)}{why}")
    for column in UNREAD.keys() & found:
        raise ConfigError(f"{name} has a column {column}: not supported: {UNREAD[column]}")
    if len(rows) == 0:
        raise ConfigError(f"{name} is empty")


def _wanted(trainer: str) -> str:
    return ", or ".join(" and ".join(columns) for columns in COLUMNS[trainer])


def _instead(trainer: str, found: set[str]) -> str:
    if trainer == "sft" and "text" in found:
        return ". A text alone does not say where the completion begins, which is what this loss learns"
    if trainer == "sft" and "input_ids" in found:
        return ". Texts are tokenised by the trainer, in the model's own format"
    return ""


# ---- rows -----------------------------------------------------------------------------------------------------------


def check_prompts(rows: Dataset, name: str, render: Callable[[Prompt], str]) -> None:
    """Raise ConfigError for a prompt that is none, or that the model cannot be asked.

    Args:
        rows: of GRPO, which asks later.
        name: of the data set, for messages.
        render: makes the text of a prompt, or raises ConfigError.
    """
    for place, prompt in enumerate(rows["prompt"]):
        _refuse(flaw_of(prompt), name, place)
        render(prompt)


def prompt_and_completion(row: Row, name: str, place: int) -> tuple[Prompt, str]:
    """What a row of SFT asks and answers.

    Args:
        row: in any of the formats above.
        name, place: of the data set and in it, for messages.

    Raises:
        ConfigError: it says neither.
    """
    row = maybe_convert_to_chatml(row)
    if "prompt" not in row:
        *asked, answer = row["messages"] or [None]
        _refuse(None if asked else "messages: expected a question and its answer", name, place)
        row = {"prompt": asked, "completion": [answer]}
    _refuse(flaw_of(row["prompt"]), name, place)
    return row["prompt"], _answer(row["completion"], "completion", name, place)


def prompt_and_pair(row: Row, name: str, place: int) -> tuple[Prompt, str, str]:
    """What a row of DPO asks, the preferred answer and the rejected one; otherwise as `prompt_and_completion`."""
    row = maybe_convert_to_chatml({key: row[key] for key in ("prompt", "chosen", "rejected") if key in row})
    whole = "prompt" not in row or (isinstance(row["chosen"], list) and len(row["chosen"]) > 1)
    if whole:
        there = all(isinstance(row[text], str | list) and row[text] for text in ("chosen", "rejected"))
        _refuse(None if there else "chosen or rejected is empty", name, place)
        row = maybe_extract_prompt(row)
    _refuse(flaw_of(row["prompt"]), name, place)
    chosen, rejected = (_answer(row[text], text, name, place) for text in ("chosen", "rejected"))
    return row["prompt"], chosen, rejected


def _answer(answer: Any, column: str, name: str, place: int) -> str:
    """The text of an answer, which may be one message of the assistant's."""
    if isinstance(answer, list):
        one = answer[0] if len(answer) == 1 and isinstance(answer[0], dict) else {}
        right = one.get("role") == "assistant"
        _refuse(None if right else f"{column}: expected one message of the assistant's", name, place)
        answer = one.get("content")
    _refuse(None if isinstance(answer, str) else f"{column} is {answer!r}: expected a text", name, place)
    return answer


def _refuse(flaw: str | None, name: str, place: int) -> None:
    if flaw is not None:
        raise ConfigError(f"{name}, row {place}: {flaw}")
