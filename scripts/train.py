"""Train a masked diffusion language model, by GRPO, SFT or DPO as the config says.

    python scripts/train.py configs/trajectory_nelbo_gsm8k.yaml [--loss.alpha_schedule linear] [--learning_rate 2e-6]
    ...

Reads top to bottom: config, task, policy, held-out accuracy before, training, accuracy after, report. Writes to
`training.output_dir`: checkpoint-*/ (resume with `--resume_from_checkpoint true`), model/ (the final weights or
adapter, with a model card; scripts/export.py makes plain weights of it), report.md with PNG curves, report.html (the
same to look around in, with rollouts), results.json, and TensorBoard events. SIGTERM, SIGINT or SIGUSR1 during
training saves after the step and exits with status 75; what other faults do is in docs/faults.md.
"""

import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import yaml
from rich.console import Console
from rich.text import Text

from trainers.commands import main_or_one_line
from trainers.settings.launching import check_launch
from trainers.settings.parser import read


def main(argv: list[str]) -> None:
    """Train as the config says, evaluate before and after, and write weights, model card and report."""
    started = time.perf_counter()
    check_launch()
    request = read(argv)

    # only now: these take seconds to import, which a typo does not wait for
    from datasets import Dataset
    from transformers import set_seed

    from trainers.evaluating.together import evaluate_together
    from trainers.experiment import build_evaluator, build_trainer, load_experiment_policy, load_task
    from trainers.reporting.console import closing_progress, use_line_progress
    from trainers.reporting.held_out import held_out_line, held_out_tables, sample_rows
    from trainers.reporting.page.solved import PLAYED, solved_problems
    from trainers.reporting.report import PAGE, write_report
    from trainers.reporting.terminal_table import metrics_table
    from trainers.saving.checkpoints import checkpoint_to_resume
    from trainers.saving.environment import environment
    from trainers.settings.config import build

    config = build(request)
    args = config.training
    assert args.output_dir is not None  # transformers has a default
    resume = args.resume_from_checkpoint and checkpoint_to_resume(args.resume_from_checkpoint, args.output_dir)

    task, splits = load_task(config.task)
    set_seed(args.seed)
    policy = load_experiment_policy(config, splits["train"])
    trainer = build_trainer(config, task, splits, policy)
    use_line_progress(trainer)
    output = Path(args.output_dir)
    console = Console(quiet=not trainer.accelerator.is_main_process)
    assert isinstance(trainer.train_dataset, Dataset)
    if trainer.train_dataset.info.description:
        console.print(f"train: {trainer.train_dataset.info.description}", style="dim", soft_wrap=True)
    if trainer.accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(yaml.safe_dump(config.describe(), sort_keys=False))

    asked = f"prompts: {policy.format.told(policy.tokenizer)}"
    console.print(Text(asked, style="dim"), soft_wrap=True)
    evaluator = replace(build_evaluator(config, task, splits["test"]), played=PLAYED)
    # Fresh weights know nothing, and a resumed run's "before" was the run's that it resumes.
    before = None if config.model.from_scratch else evaluate_together(trainer, evaluator)
    if before:
        console.print(held_out_line("before", before), soft_wrap=True)

    with closing_progress(trainer):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainer.save_model(str(output / "model"))
    after = evaluate_together(trainer, evaluator)
    if not trainer.accelerator.is_main_process:
        return

    console.print(held_out_line("after", after), soft_wrap=True)
    console.print(metrics_table(trainer.state.log_history))
    tables = held_out_tables(before, after)
    trainer.describe_saved(output / "model", held_out=tables)
    report = write_report(
        output,
        title=f"{config.trainer} on {config.task.label}, {args.alpha_schedule} schedule, seed {args.seed}",
        command=shlex.join(["python", *sys.argv]),
        settings=config.describe(),
        environment=environment(),
        log_history=trainer.state.log_history,
        held_out=tables,
        samples=sample_rows(splits["test"], before, after),
        solved=solved_problems(splits["test"], before, after),
        seconds={"total": time.perf_counter() - started},
        notes=[
            asked,
            f"{len(splits['test'])} held-out problems, {len(set(splits['test']['cluster']))} independent clusters",
        ],
    )
    console.print(f"report: {report}")
    console.print(f"page:   {output / PAGE}")


if __name__ == "__main__":
    main_or_one_line(main)
