"""A few steps of the planned run on this machine, beside what was predicted for them.

The machine's peaks are measured beside every step, as in the benchmark, and the plan is made anew with the best of
them. One CPU thread is timed by the seconds that it worked, peaks and steps alike: others may use the processor too.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback

from trainers.benchmarking.roofline import PeakMeter, synchronize
from trainers.benchmarking.shapes import SHAPES, random_policy
from trainers.benchmarking.tables import Spread
from trainers.experiment import build_trainer, load_experiment_policy, load_task
from trainers.models.policy import Policy
from trainers.planning.machines import Machines
from trainers.planning.models import KNOWN, RANDOM
from trainers.planning.phases import AGAIN, BACKWARD, FORWARD, OLD, REFERENCE, ROLLOUT
from trainers.planning.plan import Plan
from trainers.planning.settings import train_tokenizer
from trainers.settings.config import ExperimentConfig
from trainers.settings.options import ConfigError

# what GRPO logs of a step's seconds, and the phases that this is
PARTS = {"rollout": (ROLLOUT,), "scoring": (OLD, REFERENCE, FORWARD), "backward": (BACKWARD, AGAIN)}


class StepClock(TrainerCallback):
    """Seconds of each optimiser step, and the machine's peaks beside them.

    Of one CPU thread they are those that it worked (``meter.clock``), as others may use the processor too; ``wall``
    are those that passed.
    """

    def __init__(self, meter: PeakMeter):
        self.meter = meter
        self.taken: list[float] = []
        self.wall: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Measure the machine's peaks, wait for the device, and start both clocks."""
        self.meter.measure()
        synchronize(self.meter.device)
        self._start, self._began = self.meter.clock(), time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Add the seconds since `on_step_begin`, by the meter's clock and by the wall's, once the device is done."""
        synchronize(self.meter.device)
        self.taken.append(self.meter.clock() - self._start)
        self.wall.append(time.perf_counter() - self._began)


def check(
    config: ExperimentConfig,
    name: str,
    plan: Plan,
    steps: int,
    plan_on: Callable[[Machines], Plan],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run, compare, say so.

    Args:
        config: the run's options.
        name: the model's.
        plan: what was predicted.
        steps: to be timed, after one that is not.
        plan_on: the same plan on machines with other peaks.
        say: prints a line.

    Returns:
        Predicted and measured seconds, for the record.

    Raises:
        ConfigError: the plan is not for this machine alone, or the model has no weights to run.
    """
    _require_here(config, name, plan.machines)
    clock, logs = _run(config, name, steps, plan.dtype)
    best = clock.meter.best
    kind = replace(plan.machines.kind, flops={plan.dtype: best.flops}, bandwidth=best.bandwidth)
    plan = plan_on(replace(plan.machines, kind=kind))
    _say_step(plan, clock, say)
    return {
        "measured": clock.taken[1:],
        "wall": clock.wall[1:],
        "predicted": plan.assumed,
        "best": plan.best,
        "parts": _parts(plan, clock, logs, say),
        "peaks": vars(best),
    }


def _require_here(config: ExperimentConfig, name: str, machines: Machines) -> None:
    if not machines.kind.measured or machines.count != 1:
        raise ConfigError(f"--check: only for one machine that is here, GPUS=measure; got {machines.kind.name}")
    if name.lower() in KNOWN and name.lower() not in (RANDOM, config.model.model_name_or_path):
        raise ConfigError(f"--check: MODEL {name!r} has no weights here; expected tiny, {RANDOM} or a directory")


def _say_step(plan: Plan, clock: StepClock, say: Callable[[str], None]) -> None:
    """Seconds of a whole step, measured after the first, beside what was predicted on these peaks."""
    best = clock.meter.best
    took, wall = Spread.of(clock.taken[1:]), Spread.of(clock.wall[1:])
    ratio = Spread.of([plan.assumed / each for each in clock.taken[1:]])
    kept = "seconds of its one thread" if clock.meter.clock is time.process_time else "seconds"
    say(
        f"measured: {len(clock.taken) - 1} steps on {plan.machines.kind.name}, {torch.get_num_threads()} thread(s), "
        f"peaks {best.flops / 1e9:.0f} GFLOP/s, {best.bandwidth / 1e9:.1f} GB/s; {kept}, median (least-largest)"
    )
    say(f"step: measured {took} (wall {wall}), predicted {plan.assumed:.2g} (at best {plan.best:.2g})")
    say(f"predicted/measured: {ratio}; the step reaches {plan.best / took.median:.0%} of the roofline")


def _parts(
    plan: Plan, clock: StepClock, logs: list[dict[str, Any]], say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Shares of a step that its parts take, measured and predicted; those that were logged."""
    parts = {}
    for part, names in PARTS.items():
        logged = [log[f"time/{part}"] for log in logs if f"time/{part}" in log][1:]
        if logged:
            own = sum(plan.assumed_seconds(phase) for phase in plan.phases if phase.name in names)
            parts[part] = {"measured": sum(logged) / sum(clock.wall[1:]), "predicted": own / plan.assumed}
            say(f"{part}: {parts[part]['measured']:.0%} of the step, predicted {parts[part]['predicted']:.0%}")
    return parts


def _run(config: ExperimentConfig, name: str, steps: int, dtype: str) -> tuple[StepClock, list[dict[str, Any]]]:
    """Steps of the run itself, as scripts/train.py makes it, that leave nothing behind."""
    args = config.training
    with tempfile.TemporaryDirectory() as directory:
        args.output_dir = directory
        args.max_steps, args.logging_steps, args.eval_strategy, args.save_strategy = steps + 1, 1, "no", "no"
        args.report_to, args.disable_tqdm = [], True
        task, splits = load_task(config.task)
        set_seed(args.seed)
        policy = _policy(config, name, splits["train"])
        trainer = build_trainer(config, task, splits, policy)
        device = trainer.accelerator.device
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        time_by = time.process_time if alone else time.perf_counter
        clock = StepClock(PeakMeter(device, getattr(torch, dtype), time_by))
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return clock, trainer.state.log_history


def _policy(config: ExperimentConfig, name: str, train: Dataset) -> Policy:
    if name.lower() != RANDOM:
        model = replace(config.model, model_name_or_path=name)
        return load_experiment_policy(replace(config, model=model), train)
    return random_policy(SHAPES["tiny"], tokenizer=train_tokenizer(train))
