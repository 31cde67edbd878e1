"""The run's own options for a number of processes that is not here, and the lengths of its texts."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase, TrainingArguments

from trainers.experiment import load_task
from trainers.models.embedded import EMBEDDED, place_of
from trainers.models.families import AUTOREGRESSIVE, FAMILIES, family_of, nature_of
from trainers.models.formats import PromptFormat, declared_ends, settle_format
from trainers.models.tiny import build_tokenizer
from trainers.planning.models import RANDOM
from trainers.planning.work import Lengths
from trainers.settings import grpo as options
from trainers.settings.config import ExperimentConfig, parse
from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.options import ConfigError
from trainers.tasks.messages import text_of

PROMPT = 200  # tokens, where no task says: that of scripts/benchmark.py
PROMPTS = 1000  # of the task that are read


@contextmanager
def as_on(processes: int) -> Iterator[None]:
    """Options are checked as on so many processes, over which batches are shared out: TRL's own checks ask the class
    of its arguments how many there are, ours the launcher."""
    asked: Any = TrainingArguments  # a property of it is exchanged, for which its type has no setter
    own, launched = asked.world_size, options.processes_of
    asked.world_size, options.processes_of = property(lambda _: processes), lambda: processes
    try:
        yield
    finally:
        asked.world_size, options.processes_of = own, launched


def read_config(path: str | None, overrides: list[str], processes: int) -> ExperimentConfig:
    """The normal parser's result.

    Args:
        path: of a YAML; None: defaults alone.
        overrides: options as for scripts/train.py.
        processes: that will share the run.

    Raises:
        ConfigError: see `trainers.settings.config.parse`.
    """
    with as_on(processes):
        if path is not None:
            return parse([path, *overrides])
        with tempfile.TemporaryDirectory() as directory:
            empty = Path(directory) / "defaults.yaml"
            empty.write_text("trainer: grpo\n")
            return parse([str(empty), *overrides])


def find_lengths(
    config: ExperimentConfig, model: str, prompt: int | None, completion: int | None, measured: bool
) -> tuple[Lengths, str]:
    """Lengths of the texts, and where they come from.

    Args:
        config: the run's options.
        model: its name, for the tokenizer.
        prompt, completion: tokens, as given; None: measured, or an assumption.
        measured: whether the config names a task on purpose, whose prompts then count.

    Raises:
        ConfigError: a completion that is longer than the canvas, a task that cannot be loaded.
    """
    args = config.training
    canvas = args.max_completion_length
    if completion is not None and completion > canvas:
        raise ConfigError(f"--mean_length {completion}: expected at most generation.max_completion_length={canvas}")
    longest, source = prompt, "as given"
    counts = _prompt_lengths(config, model) if prompt is None and measured else []
    if counts:
        prompt, longest = round(sum(counts) / len(counts)), max(counts)
        source = f"measured on {len(counts)} training prompts of task {config.task.label}"
    elif prompt is None:
        prompt = longest = PROMPT
        source = "assumed"
    assert longest is not None
    text = f"completions of {completion} tokens on average"
    if completion is None:
        completion = canvas
        text = f"completions of {canvas} tokens: no text ends early, the most that a run can cost"
    return Lengths(prompt, longest, completion), f"prompts of {prompt} tokens ({source}; longest {longest}); {text}"


def _prompt_lengths(config: ExperimentConfig, model: str) -> list[int]:
    """Tokens of the task's first training prompts; none where the model has no tokenizer here."""
    here = model in EMBEDDED or model.lower() == RANDOM or (Path(model) / "tokenizer_config.json").is_file()
    if not here:
        return []
    _, splits = load_task(config.task)
    prompts, path = list(splits["train"]["prompt"][:PROMPTS]), place_of(model)
    if model.lower() == RANDOM:
        tokenizer = train_tokenizer(splits["train"])
    else:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=config.model.trust_remote_code)
    return [len(ids) for ids in _format(config, model, path, tokenizer).encode(tokenizer, prompts)]


def _format(config: ExperimentConfig, model: str, path: str, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
    """The format in which the model would be asked, as far as its config says."""
    file, form = Path(path) / "config.json", (config.task.chat_template, config.task.system_prompt)
    entries = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    sizes = PretrainedConfig(**entries)
    family = family_of(sizes)[1] if entries else FAMILIES[AUTOREGRESSIVE]
    return settle_format(tokenizer, nature_of(sizes, family), family, declared_ends(sizes), *form, model)


def train_tokenizer(train: Dataset) -> PreTrainedTokenizerBase:
    """For a shape that has none."""
    return build_tokenizer(
        text_of(prompt) + text for prompt, text in zip(train["prompt"], train["completion"], strict=True)
    )


def whole_evaluations(args: DiffusionArguments, evaluations: int | None) -> int | None:
    """Evaluations that can be shared out over the blocks; raises ConfigError where they cannot."""
    if evaluations is None:
        return None
    blocks = args.max_completion_length // (args.block_length or args.max_completion_length)
    if evaluations % blocks:
        raise ConfigError(f"--evaluations {evaluations}: expected a multiple of the number of blocks, {blocks}")
    return evaluations
