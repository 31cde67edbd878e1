"""The checkpoint under examination, with the options of the small runs that are made with it."""

from dataclasses import dataclass, replace
from typing import Any

from core.alpha_schedule import AlphaSchedule
from core.generator import DiffusionGenerator
from core.masking_strategy import DiffusionMaskingStrategy
from core.trajectory import Trajectory
from trainers.distributed.randomness import generator_at
from trainers.doctor.small import canvas_of, written
from trainers.models.loading import load_policy
from trainers.models.policy import Policy
from trainers.models.probes.looking import Examiner, Margin
from trainers.models.probes.probing import probed
from trainers.models.told import block_length_of
from trainers.rollouts import padded
from trainers.settings.config import ExperimentConfig, parse
from trainers.settings.model import ModelArguments
from trainers.settings.parser import Request, read

PROMPTS = (
    "Tom has 12 apples and buys 7 more at the shop. How many apples does Tom have now?\nAnswer:",
    "Ann has 8 books and gives 3 of them to Ben. How many books does Ann have left?\nAnswer:",
    "Sam has 3 boxes with 4 pens in each box. How many pens does Sam have in total?\nAnswer:",
    "Eva has 5 cups.",
)
ANSWERS = (" 19", " 5", " 12", " 5")


@dataclass(frozen=True)
class Patient:
    """A loaded checkpoint.

    Attributes:
        name: as the user gave it.
        arguments: the model section that it was loaded with.
        policy: what it was loaded as.
        margins: what the probes measured, see `trainers.models.probes`; empty with model.probe=false.
        words: the user's options, as on a command line.
        asked: what the user's config and these options ask for; None: there is no config.
    """

    name: str
    arguments: ModelArguments
    policy: Policy
    margins: tuple[Margin, ...]
    words: tuple[str, ...]
    asked: Request | None = None

    @property
    def canvas(self) -> int:
        """L of the small runs, tokens."""
        return canvas_of(self.policy.block_length)

    def config(self, trainer: str, **training: Any) -> ExperimentConfig:
        """Options of a run of a few steps on a tiny canvas, by a key of `TRAINERS`; the user's own override them.

        Raises:
            ConfigError: options of the user that do not fit.
        """
        with written(self.name, self.policy.block_length, trainer, self.asked, **training) as path:
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


def admit(name: str, words: tuple[str, ...], asked: Request | None = None) -> Patient:
    """Load a checkpoint as scripts/train.py would.

    Args:
        name: of the checkpoint, as model.name_or_path has it.
        words: the user's options, as on a command line.
        asked: what the user's config and these options ask for; None: there is no config.

    Raises:
        ConfigError: bad options, or a checkpoint that cannot be loaded or is not what it is said to be.
    """
    with written(name, None, asked=asked) as path:
        values = read([path, *words]).values
        block_length = values.get("block_length") or block_length_of(name, values.get("attention"))
    with written(name, block_length, asked=asked) as path:
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
    return Patient(name, arguments, policy, tuple(examiner.margins.values()), words, asked)
