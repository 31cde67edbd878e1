"""Annealed attention (`core.denoisers.attention.annealed`): a causal model is shown more of the future every step."""

import torch

from core.denoisers import AnnealedDenoiser, Denoiser
from core.denoisers.attention import annealed
from trainers.models.caching import RULES
from trainers.models.policy import Policy
from trainers.settings.options import require
from trainers.settings.sft import DiffusionSFTConfig
from trainers.sft.objective import MicroStep


class Annealing:
    """Who sees whom at each step; everybody, where nothing is annealed and in evaluation.

    Raises:
        ConfigError: a model that cannot be told who sees whom at random.
    """

    def __init__(self, args: DiffusionSFTConfig, policy: Policy):
        self.steps = args.attention_annealing_steps
        if self.steps > 0:
            _check(args, policy)

    def __call__(self, at: MicroStep, length: int, device: torch.device) -> tuple[Denoiser, dict[str, float]]:
        """The denoiser at this step's share of the future, and that share for the log.

        Args:
            at: the micro-step.
            length: tokens of prompt and canvas.
            device: where they are.
        """
        if at.step is None or self.steps == 0:
            return at.denoiser, {}
        visible = min(at.step / self.steps, 1.0)
        metrics = {"future_visible": visible}
        if visible == 1:
            return at.denoiser, metrics
        longest = at.share.largest(length)
        rule = annealed(longest, visible, at.generator(0, "attention_annealing"))
        return AnnealedDenoiser(at.denoiser, rule[-length:, -length:].to(device)), metrics


def _check(args: DiffusionSFTConfig, policy: Policy) -> None:
    kernel, calling = policy.calling.attention or policy.kernel, policy.calling
    for holds, expected in (
        (policy.block_length is None, "0 for model.attention=block_causal, a rule of its own"),
        (kernel in RULES, f"0 for model.attn_implementation={kernel!r}, or one of {', '.join(RULES)}"),
        (calling.padding != "none", "0 for a model that ignores attention masks"),
        (not calling.counts_padding, "0 for a model with absolute positions, which padding moves"),
    ):
        require(args, "attention_annealing_steps", holds, expected)
