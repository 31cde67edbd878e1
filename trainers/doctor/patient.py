"""The checkpoint under examination, with the options of the small runs that are made with it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from core.alpha_schedule import AlphaSchedule
from core.generator import DiffusionGenerator
from core.masking_strategy import DiffusionMaskingStrategy
from core.trajectory import Trajectory
from trainers.distributed.randomness import generator_at
from trainers.models.loading import load_policy
from trainers.models.policy import Policy
from trainers.models.probes.looking import Examiner, Margin
from trainers.models.probes.probing import probed
from trainers.models.told import block_length_of
from trainers.rollouts import padded
from trainers.settings.config import ExperimentConfig, parse
from trainers.settings.model import ModelArguments
from trainers.settings.parser import read

CANVAS = 16  # tokens of a bidirectional model's canvas; a block-causal one gets two blocks or more
PROMPTS = (
    "Tom has 12 apples and buys 7 more at the shop. How many apples does Tom have now?\nAnswer:",
    "Ann has 8 books and gives 3 of them to Ben. How many books does Ann have left?\nAnswer:",
    "Sam has 3 boxes with 4 pens in each box. How many pens does Sam have in total?\nAnswer:",
    "Eva has 5 cups.",
)
ANSWERS = (" 19", " 5", " 12", " 5")
# of the runs that a check-up makes; the user's own options come after them
SMALL_TRAINING = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-4,
    "logging_steps": 1,
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


@dataclass(frozen=True)
class Patient:
    """A loaded checkpoint.

    Attributes:
        name: as the user gave it.
        arguments: the model section that it was loaded with.
        policy: what it was loaded as.
        margins: what the probes measured, see `trainers.models.probes`; empty with model.probe=false.
        words: the user's options, as on a command line.
    """

    name: str
    arguments: ModelArguments
    policy: Policy
    margins: tuple[Margin, ...]
    words: tuple[str, ...]

    @property
    def canvas(self) -> int:
        """L of the small runs, tokens."""
        return canvas_of(self.policy.block_length)

    def config(self, trainer: str, **training: Any) -> ExperimentConfig:
        """Options of a run of a few steps on a tiny canvas, by a key of `TRAINERS`; the user's own override them.

        Raises:
            ConfigError: options of the user that do not fit.
        """
        with written(self.name, self.policy.block_length, trainer, training) as path:
            return parse([path, *self.words])

    def write(self, prompts: list[list[int]], length: int, schedule: AlphaSchedule, **options: Any) -> Trajectory:
        """Greedy completions of token prompts, on a canvas of ``length`` tokens and any schedule."""
        policy = self.policy
        masking = DiffusionMaskingStrategy(
            0.0, schedule.max_timesteps, schedule.name, schedule.alpha_min, schedule.alpha_max
        )
        sampler = DiffusionGenerator(
            policy.denoiser(),
            schedule,
            masking,
            length,
            block_length=policy.block_length,
            temperature=0.0,
            eos_id=None,
            **options,
        )
        device = policy.model.device
        noise = generator_at(0, "generate", device=device)
        with policy.denoiser().evaluating():
            return sampler.generate(*padded(prompts, policy.pad_id, device), noise)

    def prompts(self) -> list[list[int]]:
        """Token ids of `PROMPTS`."""
        return self.policy.tokenizer(list(PROMPTS))["input_ids"]


def canvas_of(block_length: int | None) -> int:
    """`CANVAS`, or the whole number of blocks, at least two, that is nearest below it."""
    return CANVAS if block_length is None else block_length * max(2, CANVAS // block_length)


@contextmanager
def written(name: str, block_length: int | None, trainer: str, training: dict[str, Any]) -> Iterator[str]:
    """A config file of a small run, for as long as it is read; its path."""
    canvas = canvas_of(block_length)
    document = {
        "trainer": trainer,
        "model": {"name_or_path": name},
        "generation": {"max_completion_length": canvas, "steps": canvas, "block_length": block_length},
        "training": SMALL_TRAINING | training,
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "doctor.yaml"
        path.write_text(yaml.safe_dump(document))
        yield str(path)


def admit(name: str, words: tuple[str, ...]) -> Patient:
    """Load a checkpoint as scripts/train.py would.

    Args:
        name: of the checkpoint, as model.name_or_path has it.
        words: the user's options, as on a command line.

    Raises:
        ConfigError: bad options, or a checkpoint that cannot be loaded or is not what it is said to be.
    """
    with written(name, None, "sft", {}) as path:
        values = read([path, *words]).values
        block_length = values.get("block_length") or block_length_of(name, values.get("attention"))
    with written(name, block_length, "sft", {}) as path:
        config = parse([path, *words])
    arguments, task, examiner = config.model, config.task, Examiner(name)
    policy = load_policy(
        replace(arguments, probe=False),
        block_length=block_length,
        chat_template=task.chat_template,
        system_prompt=task.system_prompt,
    )
    if arguments.probe:
        policy = probed(policy, examiner)
    return Patient(name, arguments, policy, tuple(examiner.margins.values()), words)
