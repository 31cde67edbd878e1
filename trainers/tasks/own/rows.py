"""One record of the user's data, read into one row: prompt, completion and answer, and every other column as it is.

A record has a column `prompt` (a text, or messages of a chat) and may have `completion` (a text to learn from; unset:
the answer) and `answer` (what rewards compare with); or a column `messages`, a whole chat, whose last message, of the
assistant, is completion and answer, and whose messages before it are the prompt. Columns of other names are mapped by
`task.columns`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainers.tasks.messages import flaw_of

Row = dict[str, Any]

COLUMNS = ("prompt", "completion", "answer", "messages")
# arguments that TRL gives to a reward beside the columns, and columns that it takes for pictures and tools
RESERVED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
RESERVED += ("image", "images", "tools")


@dataclass(frozen=True)
class Reader:
    """Makes rows of records.

    Args:
        columns: name here -> name in the data, for the columns that are called otherwise there.
    """

    columns: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, record: object, where: str) -> Row:
        """A row with prompt, with completion and answer where the record has them, and with all other columns.

        Args:
            record: column -> value.
            where: words that say where it stands.

        Raises:
            ValueError: a column is missing or has no value, or a prompt is none.
        """
        if not isinstance(record, dict):
            raise ValueError(f"{where}: expected an object with columns such as prompt and answer")
        row = record | {ours: self._taken(record, theirs, where) for ours, theirs in self.columns.items()}
        if "messages" in row and ("prompt" not in row or "messages" in self.columns):
            row = _of_messages(row.pop("messages"), where) | row
        if "prompt" not in row:
            raise ValueError(
                f"{where}: no column 'prompt' or 'messages'; found {_names(record)}. Name yours: "
                '--task.columns \'{"prompt": "...", "answer": "..."}\''
            )
        row["prompt"] = _prompt_of(row["prompt"], where)
        if "answer" in row and _is_missing(row["answer"]):
            raise ValueError(f"{where}: answer is {row['answer']!r}; expected a value")
        if "completion" in row:
            row["completion"] = _completion_of(row["completion"], where)
        elif isinstance(row.get("answer"), str | int | float):
            row["completion"] = str(row["answer"])
        reserved = [name for name in row if name in RESERVED]
        if reserved:
            raise ValueError(f"{where}: a column {reserved[0]!r} has a meaning of its own to TRL; rename it")
        return row

    def _taken(self, record: Row, name: str, where: str) -> Any:
        if name not in record:
            raise ValueError(f"{where}: no column {name!r}, which task.columns asks for; found {_names(record)}")
        return record[name]


def _names(record: Row) -> str:
    return ", ".join(map(str, record)) or "none"


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))  # a hole in a table of numbers


def _prompt_of(value: Any, where: str) -> Any:
    """A text, or messages with nothing but role and content."""
    flaw = flaw_of(value)
    if flaw:
        raise ValueError(f"{where}: {flaw}")
    return value if isinstance(value, str) else [_bare(message) for message in value]


def _bare(message: Row) -> dict[str, str]:
    return {"role": message["role"], "content": message["content"]}


def _completion_of(value: Any, where: str) -> str:
    """The text of a completion, plain or as one message of the assistant."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    if isinstance(value, bool) or not isinstance(value, str | int | float) or _is_missing(value):
        raise ValueError(f"{where}: completion is {value!r}; expected a text")
    return str(value)


def _of_messages(messages: Any, where: str) -> Row:
    """The prompt of a chat and, if it ends with the assistant, the completion, which is the answer, too."""
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise ValueError(f"{where}: messages is not a list of messages, or empty")
    if messages[-1].get("role") != "assistant":
        return {"prompt": messages}
    if len(messages) == 1:
        raise ValueError(f"{where}: messages has no message in front of the assistant's")
    return {"prompt": messages[:-1]} | dict.fromkeys(("completion", "answer"), _completion_of(messages[-1:], where))
