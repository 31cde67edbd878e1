"""Ways of spreading a run over processes, and the options that each of them refuses.

Asked by the trainers before anything is trained, and by scripts/plan.py, which recommends nothing that they refuse.
"""

from typing import Any

from trainers.settings.options import require

DDP, ZERO2, ZERO3, FSDP2, ONE = "ddp", "zero2", "zero3", "fsdp2", "one process"
IN_PARTS = (FSDP2, ZERO3)  # weights lie in parts while a run trains
PARTS = "FSDP and DeepSpeed ZeRO-3, where every process must make the same forwards"


def check_spread(args: Any, strategy: str) -> None:
    """Refuse what would make processes wait for forwards that others never make, or was never tried.

    Args:
        args: the trainer's options.
        strategy: one of the above.

    Raises:
        ConfigError: an option that cannot go with the strategy.
    """
    if strategy == ZERO2:
        own = "unset under DeepSpeed: set loss.states_per_forward"
        require(args, "memory_budget_gib", args.memory_budget_gib is None, own)
    if strategy not in IN_PARTS:
        return
    for name in ("states_per_forward", "memory_budget_gib"):
        require(args, name, getattr(args, name) is None, f"unset under {PARTS}")
    for name in ("compile_rollouts", "torch_compile"):
        require(args, name, not getattr(args, name), f"false under {PARTS}")
    if hasattr(args, "ds3_gather_for_generation"):  # GRPO's own
        require(args, "ds3_gather_for_generation", args.ds3_gather_for_generation, f"true under {PARTS}")
        synced = args.beta != 0.0 and args.sync_ref_model
        require(args, "sync_ref_model", not synced, f"false under {PARTS}")
    elif strategy == ZERO3 and args.scheduled_sampling_active:
        walks = "0 under DeepSpeed ZeRO-3, where walks of different lengths would wait for one another; FSDP2 has them"
        require(args, "scheduled_sampling_max_step_offset", False, walks)
