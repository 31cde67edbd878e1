"""Compare likelihood estimators with exact values.

    python scripts/compare_estimators.py --sampler ancestral --selection random --steps 2 --output DIR

Every estimator against the exact likelihood and the exact policy gradient, on a model small enough for them. Trains a
small denoiser on sums and products for some tens of seconds, enumerates what the sampler in use can write, and
measures bias and spread of every estimator at several numbers of draws. Prints tables; writes estimators.csv, .json
and .png. Expect some minutes on one thread; equal seeds give equal numbers. Canvases beyond 4 tokens (up to 8) have no
exact gradient: only the likelihood is compared.
"""

import argparse
import time
from functools import partial
from pathlib import Path

from rich.console import Console

from trainers.commands import OptionParser, at_least, main_or_one_line
from trainers.settings.declarations import names_in
from trainers.settings.options import ConfigError

FROM_CORE = ("SELECTIONS", "SCHEDULES")
LONGEST_WITH_GRADIENT = 4  # 11^4 canvases; one token more takes 12 times the memory


def options(argv: list[str]) -> argparse.Namespace:
    """The command line, with every estimator that fits the selection rule where none is named."""
    parser, whole = OptionParser(__doc__), partial(at_least, 1)
    add, every = parser.add_argument, names_in("core.likelihoods", "ESTIMATORS")
    samplers, selections, schedules = ("count_matched", "ancestral"), *map(partial(names_in, "core"), FROM_CORE)
    add("--sampler", default="count_matched", choices=samplers, help="How many tokens a step reveals.")
    add("--selection", default="top1", choices=selections, help="Which tokens a step reveals.")
    add("--steps", default=4, type=whole, help="The number T of denoising steps.")
    add("--alpha_schedule", default="cosine", choices=schedules, help="The noise schedule.")
    add("--length", default=4, type=whole, help="Tokens of the canvas.")
    add("--block_length", default=None, type=whole, help="Tokens of a block. Unset: one block.")
    add("--temperature", default=1.0, type=float, help="Of the sampler.")
    add("--estimators", nargs="+", choices=every, help="Unset: all that fit the selection rule.")
    add("--numbers", nargs="+", default=[1, 2, 4], type=whole, help="Numbers of draws, beside the published ones.")
    add("--problems", default=4, type=whole, help="Problems to be solved.")
    add("--completions", default=24, type=whole, help="Completions of each problem, for the likelihood.")
    add("--draws", default=32, type=partial(at_least, 2), help="Repetitions of every estimate.")
    add("--batches", default=128, type=partial(at_least, 16), help="Batches for the gradient.")
    add("--batch_size", default=64, type=whole, help="Rollouts of a batch.")
    add("--train_steps", default=800, type=whole, help="Optimiser steps of the small denoiser.")
    add("--seed", default=0, type=int, help="Equal seeds give equal numbers.")
    add("--output", default=Path("runs/estimators"), type=Path, metavar="FOLDER", help="Where the files go.")
    found, _ = parser.parse(argv)
    if found.batch_size % found.problems:
        raise ConfigError(f"--batch_size {found.batch_size}: expected a multiple of --problems {found.problems}")
    if found.estimators is None:  # selection_replay is the law of one rule
        found.estimators = [n for n in every if n != "selection_replay" or found.selection == "low_confidence"]
    return found


def main(argv: list[str]) -> None:
    """Train the small denoiser, compare the estimators with the exact values, print and write the tables."""
    chosen, console, start = options(argv), Console(), time.perf_counter()

    # only now: these take seconds to import, which a typo does not wait for
    import torch

    from core import DiffusionGenerator, DiffusionMaskingStrategy
    from trainers.saving.environment import environment
    from trainers.studies.estimators.comparison import Comparison
    from trainers.studies.estimators.enumerable import LONGEST, MASK, AnswerDenoiser, build_model, choose_problems, fit
    from trainers.studies.estimators.gradients import compare_gradients, reinforce_row
    from trainers.studies.estimators.report import NOTES, tables, write
    from trainers.studies.estimators.variants import variants

    if chosen.length > LONGEST:
        raise ConfigError(f"--length {chosen.length}: expected at most {LONGEST}, states grow as 2^length")
    torch.set_num_threads(1)  # the same order of additions on every machine
    model = build_model(chosen.seed)
    denoiser = AnswerDenoiser(model, MASK, head=model.lm_head)
    try:
        masking = DiffusionMaskingStrategy(0.0, chosen.steps, chosen.alpha_schedule)
        generator = DiffusionGenerator(
            denoiser,
            masking.schedule,
            masking,
            chosen.length,
            chosen.block_length,
            chosen.sampler,
            chosen.selection,
            chosen.temperature,
        )
        compared = variants(chosen.estimators, chosen.numbers, generator)
        chosen.output.mkdir(parents=True, exist_ok=True)
        with console.status("training"):
            fitted = fit(denoiser, masking, chosen.length, chosen.train_steps, chosen.seed)
        prompts, answers, accuracy = choose_problems(generator, chosen.problems, chosen.seed)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    console.print(f"sampled accuracy {accuracy:.2f} over all problems, bound {fitted.nelbo:.2f} nats after training")

    comparison = Comparison(generator, masking, list(model.parameters()), prompts, answers, chosen.seed)
    with console.status("likelihoods"):
        rows = [comparison.likelihood(variant, chosen.completions, chosen.draws) for variant in compared]
    expected = None
    if chosen.length <= LONGEST_WITH_GRADIENT:
        with console.status("exact gradient"):
            target = comparison.target()
            batches = comparison.batches(target, chosen.batches, chosen.batch_size)
            reinforce, expected = torch.stack([batch.reinforce for batch in batches]), target.expected_rewards.tolist()
        for i, variant in enumerate(compared):
            with console.status(f"gradients of {variant.label}"):
                samples = comparison.gradients(variant, batches)
                rows[i] = compare_gradients(rows[i], samples, reinforce, target.gradient)
        rows = [reinforce_row(batches, target), *rows]

    for table in tables(rows):
        console.print(table)
    for note in NOTES:
        console.print(note, style="dim", markup=False, highlight=False, soft_wrap=True)
    settings = {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(chosen).items()},
        "schedule": masking.schedule.params,
        "training": {"steps": fitted.steps, "nelbo": fitted.nelbo, "sampled_accuracy": accuracy},
        "expected_rewards": expected,
        "environment": environment(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    for path in write(chosen.output, rows, settings):
        console.print(f"written: {path}", soft_wrap=True)


if __name__ == "__main__":
    main_or_one_line(main)
