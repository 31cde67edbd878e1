"""The reference policy of the KL penalty: TRL is told of none, and then handed `frozen_copy` of the model in hand."""

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from trl.models.utils import prepare_deepspeed, prepare_fsdp
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.grpo_trainer import GRPOTrainer

from trainers.settings.grpo import ImprovedDiffuGRPOConfig


@contextmanager
def untold(args: ImprovedDiffuGRPOConfig, reference: nn.Module | None) -> Iterator[None]:
    """Meanwhile the options ask for no reference where there is one already, so that TRL loads no other."""
    beta, sync = args.beta, args.sync_ref_model
    if reference is not None:
        args.beta, args.sync_ref_model = 0.0, False
    try:
        yield
    finally:
        args.beta, args.sync_ref_model = beta, sync


def adopt(trainer: GRPOTrainer, args: ImprovedDiffuGRPOConfig, reference: nn.Module) -> None:
    """What TRL does with a reference model that it loaded itself, by options that tell of it again."""
    trainer.beta, trainer.ref_model = args.beta, prepared(reference, trainer.accelerator)
    if args.sync_ref_model:
        trainer.add_callback(SyncRefModelCallback(ref_model=trainer.ref_model, accelerator=trainer.accelerator))


def prepared(reference: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The reference as TRL prepares one that it loaded itself."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return prepare_deepspeed(reference, accelerator)
    if accelerator.distributed_type == DistributedType.FSDP:
        sharded = prepare_fsdp(reference, accelerator)
        assert isinstance(sharded, nn.Module)  # FSDP2 adds a class to the model's own
        return sharded
    return accelerator.prepare_model(reference, evaluation_mode=True)
