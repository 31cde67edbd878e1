"""Trainers whose weights lie in parts on several processes: FSDP2 and DeepSpeed ZeRO-3.

A forward of a sharded model is a collective: every process must make as many as the others. Scoring does, one forward
a micro-batch. Samplers do not (rows end at their EOS, adaptive samplers take what they need), so completions, walks
and held-out evaluation run on whole weights, gathered once and given up afterwards. A process then holds the model's
weights in full for that time, but neither gradients nor optimizer states. What would make different numbers of
forwards while weights lie in parts is refused by name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from trl.models.utils import unwrap_model_for_generation

from core.scoring import Share
from trainers.faults.behind import TrainerBehind
from trainers.models.experts import trains_separate_experts
from trainers.models.policy import Policy
from trainers.settings.options import ConfigError
from trainers.settings.spreading import DDP, FSDP2, IN_PARTS, ONE, PARTS, ZERO2, ZERO3, check_spread


@contextmanager
def whole(model: nn.Module, resharded: bool = True) -> Iterator[None]:
    """Meanwhile every process has all weights of an FSDP2 model, and no forward of it is a collective.

    Args:
        model: what `torch.distributed.fsdp.fully_shard` was applied to; any other model is left as it is.
        resharded: whether the weights are given up at the end; if not, by the backward pass that is to follow.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    groups = [group for part in parts for group in part._get_fsdp_state()._fsdp_param_groups]
    after_forward = [group.post_forward_mesh_info for group in groups]  # torch lets it be set, but not be asked for
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for group, kept in zip(groups, after_forward, strict=True):
            group.post_forward_mesh_info = kept
        for part in parts if resharded else []:
            part.reshard()


def share_of(accelerator: Accelerator) -> Share:
    """The part of a global batch that this process has."""

    def gather(values: Tensor) -> Tensor:
        gathered = accelerator.gather(values.to(accelerator.device))
        assert isinstance(gathered, Tensor)  # as a tensor was given
        return gathered

    return Share(accelerator.process_index, accelerator.num_processes, gather)


class ShardedTrainer(TrainerBehind):
    """Mixin in front of a trainer of TRL: whole weights where they are needed, and refusals where they would be.

    accelerate 1.15 knows FSDP on accelerators alone and on CPU trains with DDP, without a word. Here FSDP2 is what it
    is on a GPU, on gloo: to try out, on any machine, what will run on many.
    """

    args: Any
    model: nn.Module
    policy: Policy

    @property
    def share(self) -> Share:
        """The part of a global batch that this process has."""
        return share_of(self.accelerator)

    def create_accelerator_and_postprocess(self) -> None:
        """transformers' accelerator, with FSDP2 also on CPU, and DDP that expects a gradient of every weight, but for
        experts that may get no token.

        Raises:
            ConfigError: an option that sharded weights cannot go with.
        """
        if self.args.ddp_find_unused_parameters is None:  # transformers would look for them, in every step
            self.args.ddp_find_unused_parameters = trains_separate_experts(self.policy.model)
        super().create_accelerator_and_postprocess()
        if self.accelerator.distributed_type == DistributedType.MULTI_CPU and self._wants_fsdp():
            state = self.accelerator.state
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**(self.args.fsdp_plugin_args or {}))
            state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
            self.is_fsdp_enabled = True
        self.check_sharded()

    @property
    def strategy(self) -> str:
        """How weights, gradients and moments are spread over the processes, by its name in `trainers.settings`."""
        deepspeed = self.accelerator.state.deepspeed_plugin
        if self.is_fsdp_enabled:
            return FSDP2
        if deepspeed is not None:
            return ZERO3 if deepspeed.zero_stage == 3 else ZERO2
        return DDP if self.accelerator.num_processes > 1 else ONE

    @property
    def shards_weights(self) -> bool:
        """Whether a process has but a part of the weights while it trains."""
        return self.strategy in IN_PARTS

    @contextmanager
    def whole_weights(self) -> Iterator[PreTrainedModel]:
        """The model beneath its wrappers, with all its weights on every process; without gradients.

        All processes enter and leave it, and may make any number of forwards in between.
        """
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model, whole(model):
            yield model

    def _wants_fsdp(self) -> bool:
        """By training.fsdp, or by what `accelerate launch` makes of a file of configs/accelerate."""
        return self.args.fsdp_plugin_args is not None or parse_flag_from_env("ACCELERATE_USE_FSDP")

    def check_sharded(self) -> None:
        """Refuse what cannot go with the way in which the run is spread: `check_spread`, and what the policy says."""
        check_spread(self.args, self.strategy)
        if not self.shards_weights:
            return
        fsdp = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if fsdp is not None and fsdp.fsdp_version != 2:
            raise ConfigError("training.fsdp_config={'version': 1}: expected version 2, the first is deprecated")
        policy = self.policy
        name = policy.name or type(policy.model).__name__
        if policy.calling.padding == "none":
            raise ConfigError(
                f"model.name_or_path={name!r}: it ignores attention masks and is run once for every length of a "
                f"prompt; expected another model under {PARTS}, or DDP or ZeRO-2, with LoRA if need be"
            )
        if policy.quantised:
            raise ConfigError(f"model.name_or_path={name!r}: expected weights that are not quantised under {PARTS}")
