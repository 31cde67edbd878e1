"""What the generators are prompted with: random tokens, or questions of a file in GSM8K's format."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainers.models.policy import Policy
from trainers.settings.options import ConfigError
from trainers.tasks.sources import read_jsonl
from trainers.tasks.word_problems.problems import build_prompt

PICKS = ("closest", "first")


def read_problems(path: Path) -> list[tuple[str, str]]:
    """(prompt, answer) of each line {"question": ..., "answer": ...}.

    Raises:
        ConfigError: the file cannot be read, or a line is something else.
    """
    try:
        return read_jsonl(str(path), _to_problem, 'lines {"question": ..., "answer": ...}', "--data")
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _to_problem(row: object, where: str) -> tuple[str, str]:
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("question", "answer")):
        raise ValueError(f'{where}: expected {{"question": ..., "answer": ...}}')
    return build_prompt(row["question"]), row["answer"]


def random_prompts(policy: Policy, num_prompts: int, length: int, seed: int) -> Tensor:
    """Tokens drawn uniformly from the vocabulary but for the special ones, (num_prompts, length)."""
    allowed = torch.ones(policy.model.config.vocab_size)
    allowed[policy.tokenizer.all_special_ids] = 0
    noise = torch.Generator().manual_seed(seed)
    return torch.multinomial(allowed.expand(num_prompts, -1), length, replacement=True, generator=noise)


def real_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], num_prompts: int, length: int, pick: str
) -> Tensor:
    """Prompts as (num_prompts, length) ids: longer ones lose their beginning, shorter ones are padded on the left.

    Args:
        tokenizer: theirs.
        prompts: texts to choose from.
        num_prompts, length: of the result.
        pick: ``first``, or ``closest``: those whose length is closest to ``length``, so that little is padding.

    Raises:
        ConfigError: fewer prompts than asked for.
    """
    if len(prompts) < num_prompts:
        raise ConfigError(f"--data: expected at least {num_prompts} lines, got {len(prompts)}")
    encoded = tokenizer(prompts)["input_ids"]
    if pick == "closest":
        encoded.sort(key=lambda ids: abs(len(ids) - length))
    rows = [[tokenizer.pad_token_id] * (length - len(ids)) + ids[-length:] for ids in encoded[:num_prompts]]
    return torch.tensor(rows)
