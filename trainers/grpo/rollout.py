"""Rollouts: the denoising loop on the policy in hand, in batches and on all processes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from core.alpha_schedule import AlphaSchedule
from core.denoisers import EmbeddingDenoiser
from core.masking_strategy import MaskingStrategy
from core.sampling import draw_keys
from core.scoring.share import Share
from core.trajectory import Trajectory
from trainers.grpo.position import Position
from trainers.models.policy import Policy
from trainers.rollouts import balanced, compiled_body, exchanged, roll_out
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.objects import build_generator


class Roller:
    """Completes prompts with the policy, in eval mode.

    Args:
        args: the sampler's options, and how many prompts are denoised at once.
        policy: the model's tokenizer, and how it is called.
        schedule, masking: the run's one schedule, and what hides tokens by it.
        share: several processes share the prompts out by their lengths.
        whole_weights: the model beneath its wrappers, on gathered weights, for as long as a rollout takes.
        device: where the model is.
    """

    def __init__(
        self,
        args: ImprovedDiffuGRPOConfig,
        policy: Policy,
        schedule: AlphaSchedule,
        masking: MaskingStrategy,
        share: Share,
        whole_weights: Callable[[], AbstractContextManager[PreTrainedModel]],
        device: torch.device,
    ):
        self.args, self.policy, self.schedule, self.masking = args, policy, schedule, masking
        self.share, self.whole_weights, self.device = share, whole_weights, device

    @contextmanager
    def sampling(self) -> Iterator[EmbeddingDenoiser]:
        """The policy as a sampler calls it."""
        with self.whole_weights() as model, compiled_body(model, self.args.compile_rollouts):
            yield self.policy.denoiser(model, self.args.compile_rollouts)

    def complete(self, denoiser: EmbeddingDenoiser, prompt_ids: list[list[int]], at: Position) -> Trajectory:
        """One completion a prompt. Its noise is that of its place in the global batch, so that neither batches nor
        processes show in it."""
        keys = draw_keys(len(prompt_ids) * self.share.processes, at.generator("rollout"))
        size = self.args.rollout_batch_size or self.args.per_device_train_batch_size
        sampler = build_generator(self.args, denoiser, self.schedule, self.masking, self.policy.eos_ids)
        rest = self.policy.pad_id, size, self.device
        with denoiser.evaluating():
            if self.share.processes == 1:
                return roll_out(sampler, prompt_ids, keys, *rest)
            prompt_ids = gather_object(prompt_ids)
            dealt = balanced(prompt_ids, self.share.processes, self.args.max_completion_length)
            own = dealt[self.share.rank]
            part = roll_out(sampler, [prompt_ids[place] for place in own], keys[own], *rest)
            return exchanged(part, dealt, self.share)
