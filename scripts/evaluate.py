"""Measure the held-out accuracy of a checkpoint.

Sampled and greedy, strict and lenient, with 95% intervals.

    python scripts/evaluate.py configs/trajectory_nelbo_gsm8k.yaml --model.name_or_path runs/.../model --split test
    torchrun --nproc_per_node 4 scripts/evaluate.py CONFIG --json runs/test.json --repeats 16 --pass_at 1 4 16
    python scripts/evaluate.py CONFIG --sweep generation.steps 32 64 --sweep generation.selection top1 entropy

The config says how completions are generated and where the problems come from; every setting can be overridden.
--limit takes the first problems only, --sweep every combination of the values given, --repeats several samples a
problem. With --json NAME.json finished problems are kept in NAME.jsonl, and the same command goes on where it was
killed; more --repeats continue it too. `trainers.evaluating.record` says what is in the JSON; scripts/compare.py
compares two of them. Neither batch size nor the number of processes shows in the scores.
"""

from functools import partial

from rich.console import Console

from trainers.commands import OptionParser, at_least, main_or_one_line
from trainers.settings.declarations import names_in
from trainers.settings.options import ConfigError

DECODINGS = names_in("trainers.evaluating.work", "DECODINGS")


def main(argv: list[str]) -> None:
    """Score the problems of a split in every row of the sweep, shared among processes; print and write the scores."""
    own, whole = OptionParser(__doc__), partial(at_least, 1)
    own.add_config()
    own.add_argument(
        "--sweep", nargs="+", action="append", default=[],
        help="A setting and the values to try; may be given several times. Every combination is a row.",
    )  # fmt: skip
    own.add_argument("--decodings", nargs="+", default=DECODINGS, choices=DECODINGS, help="How tokens are chosen.")
    own.add_argument("--repeats", default=1, type=whole, help="Sampled completions of each problem.")
    own.add_argument("--pass_at", nargs="+", default=[], type=whole, help="Print pass@k for these k, from --repeats.")
    own.add_argument("--limit", default=None, type=whole, help="Only the first so many problems.")
    own.add_argument("--texts", action="store_true", help="Write the completions to the JSON file too.")
    own.add_split()
    own.add_json("the numbers")
    options, overrides = own.parse(argv)
    if max(options.pass_at, default=1) > options.repeats:
        raise ConfigError(f"--pass_at {max(options.pass_at)}: expected at most --repeats {options.repeats}")
    own.read(options.config, overrides)

    # only now: these take seconds to import, which a typo does not wait for
    import torch.distributed as dist
    from transformers import set_seed

    from trainers.distributed.processes import Processes
    from trainers.evaluating.identity import data_hash, settings, weights_hash
    from trainers.evaluating.journal import Journal, journal_path
    from trainers.evaluating.record import Found, write_record
    from trainers.evaluating.sweeps import rows
    from trainers.evaluating.work import Work
    from trainers.experiment import build_evaluator, load_experiment_policy, load_task
    from trainers.reporting.console import counting
    from trainers.reporting.terminal_table import print_table
    from trainers.saving.environment import VERSIONS, environment

    swept = rows([options.config, *overrides], options.sweep)
    config = swept[0].config
    processes = Processes.current()

    task, splits = load_task(config.task)
    problems = splits[options.split]
    problems = problems.select(range(min(options.limit or len(problems), len(problems))))
    set_seed(config.training.seed)  # fresh weights are then the same on every process
    policy = load_experiment_policy(config, splits["train"])
    policy.move_to(config.training.device)
    evaluators = [build_evaluator(row.config, task, problems) for row in swept]
    work = Work(evaluators, policy, list(dict.fromkeys(options.decodings)), options.repeats)
    work.check()
    if options.pass_at and task.verify is None:
        raise ConfigError(f"--pass_at {max(options.pass_at)}: only rewards judge here, and none says what is right")
    data, weights = data_hash(problems), weights_hash(policy.model)
    if len(set(processes.gather(weights))) > 1:
        raise ConfigError(
            f"model.name_or_path={config.model.model_name_or_path!r}: processes loaded different weights"
        )

    identity = {
        "data": data,
        "weights": weights,
        "rows": {str(number): settings(row.config, policy.format) for number, row in enumerate(swept)},
        "versions": {name: environment()[name] for name in VERSIONS},
    }
    journal = Journal(journal_path(options.json), identity) if options.json else None
    with counting("batches", quiet=not processes.first) as say:
        answers = work.do(journal, processes, say)
    if processes.first:
        found = Found.of(swept, work, answers, sorted(set(options.pass_at)), options.split)
        print_table(Console(), found.table(), keys=len(swept[0].changes) + 1)
        if options.json:
            write_record(options.json, found.describe(data, weights, options.texts))
    if processes.count > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main_or_one_line(main)
