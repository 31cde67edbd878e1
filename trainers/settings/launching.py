"""Was this run started as it was meant to be: as many processes as were asked for, and a batch that fits them."""

import os
import shlex
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

from trainers.settings.options import ConfigError, refusal
from trainers.settings.shipped import usable

# what torchrun, mpirun (Intel, Open MPI, MVAPICH) and SLURM's own start-up tell a process of how many there are
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
TOLD_DEEPSPEED = "ACCELERATE_DEEPSPEED_CONFIG_FILE"


def check_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to be the only process where `accelerate launch` was asked for several.

    On CPU it starts one (accelerate 1.15), whatever its --num_processes or file says, unless it is given mpirun's
    hosts. What it leaves behind is an address to meet at, and nobody who could be met.

    Raises:
        ConfigError: with the command that does start several.
    """
    on_cpu = environment.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1", "yes")
    if on_cpu and "MASTER_ADDR" in environment and not any(name in environment for name in SIZES):
        command = shlex.join(["torchrun", "--nproc_per_node", "2", *sys.argv, "--use_cpu", "true"])
        raise ConfigError(
            "accelerate launch was asked for several processes and started one, as it does on CPU; use instead: "
            + command
        )


def settle_deepspeed(values: dict[str, Any], environment: MutableMapping[str, str] = os.environ) -> dict[str, Any]:
    """DeepSpeed's files that come with the package, as paths that can be read from anywhere.

    Args:
        values: field -> value of the run.
        environment: in which `accelerate launch` names the file that its own names; changed if that is not there.

    Returns:
        The values, with `training.deepspeed` to be read.
    """
    if TOLD_DEEPSPEED in environment:
        environment[TOLD_DEEPSPEED] = usable(environment[TOLD_DEEPSPEED])
    named = values.get("deepspeed")
    return values | {"deepspeed": usable(named)} if isinstance(named, str) else values


def processes_of(environment: Mapping[str, str] = os.environ) -> int:
    """Processes of this run, by what its launcher says; 1 without one."""
    return next((int(environment[name]) for name in SIZES if name in environment), 1)


def check_groups(args: Any, processes: int) -> None:
    """Refuse a rollout that cannot be cut into groups of completions of one prompt.

    Args:
        args: GRPO's options, before TRL has filled in what is unset.
        processes: of the run.

    Raises:
        ConfigError: what one rollout is made of, and what it must be a multiple of.
    """
    group, rows = args.num_generations, args.per_device_train_batch_size
    if group is None or args.generation_batch_size is not None:
        return  # TRL's own check has all that there is to say
    steps = args.steps_per_generation or args.gradient_accumulation_steps
    if processes * rows * steps % group:
        name = "steps_per_generation" if args.steps_per_generation else "gradient_accumulation_steps"
        raise refusal(
            args,
            "per_device_train_batch_size",
            f"{processes} processes x {rows} rows x {name}={steps} make {processes * rows * steps} completions a "
            f"rollout: expected a multiple of num_generations={group}",
        )
