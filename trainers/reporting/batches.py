"""How a run's batches come about, in numbers that multiply out: prompts, completions, rollouts, updates."""

from typing import Any

from trainers.settings.grpo import ImprovedDiffuGRPOConfig


def batch_lines(trainer: Any) -> list[str]:
    """One statement a line, for people."""
    args, processes = trainer.args, trainer.accelerator.num_processes
    size, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    grpo = isinstance(args, ImprovedDiffuGRPOConfig)
    what = "completions" if grpo else "pairs" if trainer.trainer_name == "dpo" else "texts"
    update = size * accumulated * processes
    factors = f"{size} a step x {accumulated} accumulated x {processes} {_plural(processes, 'process')}"
    lines = [f"{factors} = {update} {what} an update"]
    if grpo:
        lines.insert(0, _rollout(args, processes))
    return [*lines, _length(trainer, update)]


def _rollout(args: ImprovedDiffuGRPOConfig, processes: int) -> str:
    """Prompts, completions and updates of one rollout."""
    completions, group = args.generation_batch_size, args.num_generations
    assert completions and group and args.steps_per_generation  # TRL's options settle them
    updates = args.steps_per_generation * args.num_iterations / args.gradient_accumulation_steps
    each = f"1 update in {1 / updates:g} rollouts" if updates < 1 else f"{updates:g} {_plural(updates, 'update')} each"
    passes = f", {args.num_iterations} passes over it" if args.num_iterations > 1 else ""
    return f"{completions // group} prompts x {group} = {completions} completions a rollout; {each}{passes}"


def _length(trainer: Any, update: int) -> str:
    """Updates, and how often they go over the data."""
    args, rows = trainer.args, len(trainer.train_dataset)
    if args.max_steps <= 0:
        return f"{args.num_train_epochs:g} {_plural(args.num_train_epochs, 'epoch')} of {rows:,} training rows"
    group, iterations = getattr(args, "num_generations", None) or 1, getattr(args, "num_iterations", 1)
    seen = args.max_steps * update / group / iterations
    often = f" ({seen / rows:.3g} epochs)" if seen > rows else ""
    return f"{args.max_steps:,} updates on {seen:,.0f} of {rows:,} training rows{often}"


def _plural(count: float, word: str) -> str:
    return word if count == 1 else f"{word}{'es' if word.endswith('s') else 's'}"
