"""Run tasks of lm-evaluation-harness on a checkpoint.

    pip install 'trajectory-nelbo[harness]'
    python scripts/harness.py configs/sft_gsm8k.yaml --tasks gsm8k arc_easy [--limit 100] [--include_path DIR]

Accuracies and likelihood bounds, in the harness's own table. The config says how completions are generated. See
`trainers.evaluating.harness` for what the numbers are.
"""

import argparse
import json
from functools import partial

from rich.console import Console

from trainers.commands import OptionParser, at_least, main_or_one_line
from trainers.settings.options import ConfigError
from trainers.settings.parser import Request


def parse(argv: list[str]) -> tuple[argparse.Namespace, Request]:
    """The command's own options, and what the config and its settings ask for."""
    parser, whole = OptionParser(__doc__), partial(at_least, 1)
    parser.add_config()
    parser.add_argument("--tasks", nargs="+", required=True, help="Names of tasks, or paths of their YAML files.")
    parser.add_argument("--include_path", default=None, metavar="FOLDER", help="A folder of further tasks.")
    parser.add_argument(
        "--num_fewshot",
        default=None,
        type=partial(at_least, 0),
        help="Solved examples a prompt. Unset: the task's.",
    )
    parser.add_argument("--limit", default=None, type=whole, help="Only the first so many documents of a task.")
    parser.add_argument("--draws", default=32, type=whole, help="Maskings that a likelihood is averaged over.")
    parser.add_json("the results")
    chosen, settings = parser.parse(argv)
    return chosen, parser.read(chosen.config, settings)


def main(argv: list[str]) -> None:
    """Run the harness's tasks on the config's policy, print the harness's table, and write the record if asked to."""
    chosen, request = parse(argv)

    # only now: these take seconds to import, which a typo does not wait for

    from trainers.evaluating.identity import settings, weights_hash
    from trainers.experiment import load_experiment_policy
    from trainers.saving.environment import environment
    from trainers.saving.files import replace_file
    from trainers.settings.config import build

    config = build(request)
    # an optional package: not before the settings are known to be good, and where its absence is one line
    from trainers.evaluating.harness import DiffusionLM, evaluate

    if config.model.from_scratch:
        raise ConfigError("model.from_scratch=True: expected trained weights")
    policy = load_experiment_policy(config)
    policy.move_to(config.training.device)
    batch_size = config.training.rollout_batch_size or DiffusionLM.default_batch_size
    model = DiffusionLM(config.training, policy, config.training.seed, chosen.draws, batch_size)
    results, table = evaluate(model, chosen.tasks, chosen.include_path, chosen.num_fewshot, chosen.limit)
    Console().print(table, markup=False, highlight=False)
    if chosen.json:
        record = {
            "config": config.describe(),
            "settings": settings(config, policy.format),
            "weights": weights_hash(policy.model),
            "draws": chosen.draws,
            "environment": environment(),
            "harness": results,
        }
        replace_file(chosen.json, json.dumps(record, indent=2, default=str).encode())


if __name__ == "__main__":
    main_or_one_line(main)
