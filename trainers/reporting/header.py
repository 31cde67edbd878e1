"""What stands above a run's first step: model, data, batches, sampler, likelihood, where it is saved, what it starts
from. Two columns of text, which fold at any width and mean the same in a file."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.table import Table
from rich.text import Text
from torch import nn

from core.nelbo import TrajectoryNELBOLoss
from core.scoring import Likelihood
from trainers.models.families import FAMILIES
from trainers.models.suggestions import Suggestion
from trainers.reporting.batches import batch_lines
from trainers.settings.config import ExperimentConfig
from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.dpo import DiffusionDPOConfig
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.options import dotted
from trainers.settings.sft import DiffusionSFTConfig

Line = tuple[str, str]  # what, and the text beside it
TrainerArguments = ImprovedDiffuGRPOConfig | DiffusionSFTConfig | DiffusionDPOConfig


def run_header(lines: list[Line]) -> Table:
    """The lines as a table without frames."""
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    before = ""
    for what, text in lines:
        shown.add_row(Text("" if what == before else what), Text(text))
        before = what
    return shown


def header_lines(
    config: ExperimentConfig, trainer: Any, splits: dict[str, Dataset], resume: Path | None
) -> list[Line]:
    """What is to be said of a run before its first step.

    Args:
        config: the run's options.
        trainer: made from them.
        splits: the task's problems.
        resume: the checkpoint that the run goes on from.
    """
    args, policy = config.training, trainer.policy
    return [
        ("run", f"{config.trainer} on {config.task.label}, seed {args.seed}"),
        ("model", _model(config, trainer.model, policy.family)),
        ("device", _device(config, trainer)),
        ("prompts", policy.format.told(policy.tokenizer)),
        *(("data", line) for line in [trainer.train_dataset.info.description] if line),
        *(("batch", line) for line in batch_lines(trainer)),
        ("sampler", _sampler(args)),
        ("likelihood", _likelihood(args, trainer)),
        ("schedule", f"{args.alpha_schedule}, alpha from {args.alpha_max:g} down to {args.alpha_min:g}"),
        *(("rewards", line) for line in _rewards(trainer)),
        ("optimiser", f"{_plain(args.optim)}, learning rate {args.learning_rate:g}, {_plain(args.lr_scheduler_type)}"),
        ("measured", _measured(args, splits)),
        ("saved", _saved(args)),
        ("starts", f"from {resume}" if resume else "at step 0; once stopped, add --resume_from_checkpoint auto"),
        *(("suggested", line) for line in suggested_lines(config, policy.family)),
    ]


def suggested_lines(config: ExperimentConfig, family: str) -> list[str]:
    """Values of published runs with models of this family that this run does not have, a line a source."""
    fitting = [
        one
        for one in FAMILIES[family].suggested
        if one.trainer == config.trainer and one.adapter in (None, config.model.use_peft)
    ]
    return [line for one in fitting for line in _differing(config, family, one)]


def _differing(config: ExperimentConfig, family: str, suggestion: Suggestion) -> Iterator[str]:
    here = {dotted(f): getattr(part, f.name) for part in (config.model, config.training) for f in fields(part)}
    other = [
        f"{name} {_number(value)} (here {_number(here[name])})"
        for name, value in suggestion.values.items()
        if here[name] != value
    ]
    if other:
        yield f"for {family}: {', '.join(other)} [{suggestion.source}]"


def _number(value: Any) -> str:
    return "unset" if value is None else f"{value:g}"


def _model(config: ExperimentConfig, model: nn.Module, family: str) -> str:
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]  # ZeRO-3 has its own
    whole, trained = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    share = "all trained" if trained == whole else f"{trained:,} trained ({trained / whole:.2%})"
    fresh = ", fresh weights" if config.model.from_scratch else ""
    return f"{config.model.model_name_or_path} (family {family}){fresh}: {whole:,} parameters, {share}"


def _device(config: ExperimentConfig, trainer: Any) -> str:
    accelerator = trainer.accelerator
    count = accelerator.num_processes
    kind = next(trainer.model.parameters()).dtype
    mixed = accelerator.mixed_precision
    computed = f", computed in {mixed}" if mixed not in ("no", None) else ""
    processes = f"{count} processes ({_plain(accelerator.distributed_type)})" if count > 1 else "1 process"
    return f"{accelerator.device.type}, {processes}; weights in {str(kind).removeprefix('torch.')}{computed}"


def _sampler(args: DiffusionArguments) -> str:
    if args.prediction_type == "flow_matching":
        how = f"flow, solver {args.solver}"
    else:
        how = f"{args.sampler}, selection {args.selection}"
    blocks = "one block" if args.block_length is None else f"blocks of {args.block_length}"
    canvas = f"canvas of {args.max_completion_length} tokens, {blocks}, {args.max_timesteps} steps"
    return f"{how}; {canvas}; temperature {args.temperature:g}"


def _likelihood(args: DiffusionArguments, trainer: Any) -> str:
    if args.prediction_type == "flow_matching":
        return "flow matching of token embeddings"
    scored: Likelihood = trainer.nelbo_loss if trainer.trainer_name == "sft" else trainer.likelihood
    if isinstance(scored, TrajectoryNELBOLoss) and scored.source == "rollout":
        merged = f"merged to {scored.num_draws}" if args.counts_draws else f"merged, {args.shrinkage} to one"
        replayed = {"segments": merged, "drawn": f"{scored.num_draws} drawn of them", "all": "all of them"}
        states = f"steps of the rollout, {replayed[scored.replay]}"
    else:
        states = f"fresh masks, {scored.num_draws} a text"
    rate = trainer.masking_strategy.p_mask_prompt
    return f"{args.likelihood} on {states}; {f'{rate:.0%} of a prompt masked' if rate else 'prompts stay visible'}"


def _rewards(trainer: Any) -> Iterator[str]:
    names = getattr(trainer, "reward_func_names", None)
    if names:
        weights = trainer.args.reward_weights or [1.0] * len(names)
        yield " + ".join(f"{weight:g} x {name}" for weight, name in zip(weights, names, strict=True))


def _measured(args: TrainerArguments, splits: dict[str, Dataset]) -> str:
    when = "before and after" if args.eval_before else "after the run"
    held_out = f"{len(splits['test'])} held-out problems {when}, sampled and greedy"
    if _plain(args.eval_strategy) == "no":
        return held_out
    every = "each epoch" if _plain(args.eval_strategy) == "epoch" else f"every {args.eval_steps:g} steps"
    return f"{held_out}; {len(splits['validation'])} validation problems {every}"


def _saved(args: TrainerArguments) -> str:
    strategy = _plain(args.save_strategy)
    often = {"no": "no checkpoints", "steps": f"checkpoint every {args.save_steps:g} steps"}
    kept = f", the last {args.save_total_limit} kept" if args.save_total_limit else ""
    where = f"{args.output_dir}: {often.get(strategy, f'checkpoint by {strategy}')}{kept}; report and model at the end"
    logs = [name for name in args.report_to if name != "none"] if isinstance(args.report_to, list) else []
    return where + (f"; logs to {', '.join(logs)}" if logs else "")


def _plain(name: Any) -> str:
    """The text of a name that may be one of an enumeration."""
    return str(getattr(name, "value", name))
