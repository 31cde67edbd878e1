"""Train a model by GRPO, SFT or DPO, as a config says.

    python scripts/train.py configs/trajectory_nelbo_gsm8k.yaml
    python scripts/train.py trajectory_nelbo_gsm8k --loss.alpha_schedule linear --learning_rate 2e-6

Reads top to bottom: config, task, policy, held-out accuracy before, training, accuracy after, report. Writes to
`training.output_dir`: checkpoint-*/ (resume with `--resume_from_checkpoint true`), model/ (the final weights or
adapter, with a model card; scripts/export.py makes plain weights of it), report.md with PNG curves, report.html (the
same to look around in, with rollouts), results.json, and TensorBoard events. SIGTERM, SIGINT or SIGUSR1 during
training saves after the step and exits with status 75; what other faults do is in docs/faults.md.
"""

import time
from dataclasses import replace
from pathlib import Path

import yaml
from rich.console import Console

from trainers.commands import OptionParser, command_line, main_or_one_line
from trainers.settings.launching import check_launch


def main(argv: list[str]) -> None:
    """Train as the config says, evaluate before and after, and write weights, model card and report."""
    started = time.perf_counter()
    own = OptionParser(__doc__)
    own.add_config()
    options, words = own.parse(argv)
    check_launch()
    request = own.read(options.config, words)

    # only now: these take seconds to import, which a typo does not wait for
    from transformers import set_seed

    from trainers.evaluating.first import Outcomes, outcomes_before
    from trainers.evaluating.identity import data_hash, settings
    from trainers.evaluating.together import evaluate_together
    from trainers.experiment import build_evaluator, build_trainer, load_experiment_policy, load_task
    from trainers.reporting.console import closing_progress, counting, use_line_progress
    from trainers.reporting.header import header_lines, run_header
    from trainers.reporting.held_out import held_out_tables, print_held_out, sample_rows
    from trainers.reporting.page.solved import PLAYED, solved_problems
    from trainers.reporting.report import PAGE, write_report
    from trainers.reporting.terminal_table import metrics_table
    from trainers.saving.checkpoints import checkpoint_to_resume
    from trainers.saving.environment import environment
    from trainers.settings.config import build
    from trainers.settings.trackers import check_trackers

    config = build(request)
    args = config.training
    check_trackers(args)
    assert args.output_dir is not None  # transformers has a default
    resume = args.resume_from_checkpoint and checkpoint_to_resume(args.resume_from_checkpoint, args.output_dir)

    task, splits = load_task(config.task)
    set_seed(args.seed)
    policy = load_experiment_policy(config, splits["train"])
    trainer = build_trainer(config, task, splits, policy)
    use_line_progress(trainer)
    output = Path(args.output_dir)
    console = Console(quiet=not trainer.accelerator.is_main_process)
    if trainer.accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(yaml.safe_dump(config.describe(), sort_keys=False))

    console.print(run_header(header_lines(config, trainer, splits, resume or None)))
    evaluator = replace(build_evaluator(config, task, splits["test"]), played=PLAYED)

    def measure() -> Outcomes:
        with counting("held-out completions", quiet=console.quiet) as say:
            return evaluate_together(trainer, evaluator, say)

    # fresh weights know nothing
    wanted = args.eval_before and not config.model.from_scratch
    identity = {"data": data_hash(splits["test"]), **settings(config, policy.format)}
    before = outcomes_before(trainer, output, identity, bool(resume), measure if wanted else None)
    if before:
        print_held_out(console, before, None)

    with closing_progress(trainer):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainer.save_model(str(output / "model"))
    after = measure()
    if not trainer.accelerator.is_main_process:
        return

    print_held_out(console, before, after)
    console.print(metrics_table(trainer.state.log_history))
    tables = held_out_tables(before, after)
    trainer.describe_saved(output / "model", held_out=tables)
    report = write_report(
        output,
        title=f"{config.trainer} on {config.task.label}, {args.alpha_schedule} schedule, seed {args.seed}",
        command=command_line(),
        settings=config.describe(),
        environment=environment(),
        log_history=trainer.state.log_history,
        held_out=tables,
        samples=sample_rows(splits["test"], before, after),
        solved=solved_problems(splits["test"], before, after),
        seconds={"total": time.perf_counter() - started},
        notes=[
            f"prompts: {policy.format.told(policy.tokenizer)}",
            f"{len(splits['test'])} held-out problems, {len(set(splits['test']['cluster']))} independent clusters",
        ],
    )
    console.print(f"report: {report}")
    console.print(f"page:   {output / PAGE}")


if __name__ == "__main__":
    main_or_one_line(main)
