"""What measurements are made on: a policy, held-out problems, and how the policy's experiment samples."""

from dataclasses import dataclass

from datasets import Dataset

from trainers.models.policy import Policy
from trainers.settings.diffusion import DiffusionArguments
from trainers.task_loading import Task


@dataclass(frozen=True)
class Bench:
    """A policy, the problems it is measured on, and how its experiment samples.

    Args:
        args: generation, loss, masking and scheduled_sampling options.
        policy: the model.
        task: has the verifier.
        problems: rows with prompt, completion, answer and cluster.
        seed: of masks and sampling noise.
        repeats: how often whatever is drawn is drawn anew.
        batch_size: problems at a time.
    """

    args: DiffusionArguments
    policy: Policy
    task: Task
    problems: Dataset
    seed: int
    repeats: int = 1
    batch_size: int = 128

    @property
    def flows(self) -> bool:
        """Whether completions come from an ODE over embeddings."""
        return self.args.prediction_type == "flow_matching"
