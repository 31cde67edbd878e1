"""Accuracy and cost of sampling, by number of steps and by solver."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from statistics import fmean

from core.flow import ODE_SOLVERS
from core.generator import DiffusionGenerator
from core.sampling import SOLVERS
from trainers.evaluating.evaluation import Evaluator
from trainers.evaluating.statistics import clustered_mean
from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.objects import build_generator, build_synced
from trainers.settings.options import require
from trainers.studies.measurements.bench import Bench
from trainers.studies.measurements.options import sampling_arguments
from trainers.studies.measurements.rows import Decoding, Measurement, SolverRow, StepsRow
from trainers.studies.measurements.steps import FULL

Counts = Mapping[str, int | None]  # what was asked for -> number of steps; None where no number of steps does it


def measure_steps(bench: Bench, counts: Counts) -> Measurement:
    """Accuracy and cost by number of steps: of count-matched sampling, or of a flow with its own solver."""
    method = f"ODE with {bench.args.solver}" if bench.flows else f"count-matched sampling by {bench.args.selection}"
    rows, notes = [], []
    for label, steps in counts.items():
        if steps is None:
            notes.append(f"{label} is left out: {_why_never(bench)}")
            continue
        args = _counted(bench, steps)
        sampled, greedy = _decode(bench, args, bench.args.temperature, bench.repeats), _decode(bench, args, 0.0, 1)
        rows.append(StepsRow(label, steps, sampled, greedy))
    return Measurement(f"accuracy by number of steps: {method}", rows, notes)


def measure_solvers(bench: Bench, counts: Counts) -> Measurement:
    """Accuracy and cost of every solver at several numbers of steps, cheap ones first."""
    rows = [
        SolverRow(solver, steps, _decode(bench, _solved(bench, steps, solver), bench.args.temperature, bench.repeats))
        for steps in sorted({steps for steps in counts.values() if steps is not None})
        for solver in (ODE_SOLVERS if bench.flows else SOLVERS)
    ]
    rows.sort(key=lambda row: row.sampled.forwards)
    method = "ODE" if bench.flows else "ancestral sampling"
    return Measurement(f"accuracy by forwards: {method} with each solver", rows)


def step_counts(bench: Bench, asked: Iterable[int | str]) -> Counts:
    """The numbers of steps behind the values of --steps.

    Raises:
        ConfigError: a number of steps that the generation section does not admit.
    """
    counts = {str(steps): _full(bench) if steps == FULL else int(steps) for steps in asked}
    for steps in counts.values():
        if steps is not None:
            _counted(bench, steps)
    return counts


def _full(bench: Bench) -> int | None:
    """The fewest steps, of (number of blocks) * 2^n, at which no count-matched transition reveals two tokens."""
    if bench.flows or bench.args.counts != "schedule":
        return None
    length = bench.args.max_completion_length
    steps = length // (bench.args.block_length or length)
    while True:
        revealed = _revealed(bench, steps)
        if max(revealed) <= 1:
            return steps
        if max(revealed[0], revealed[-1]) > 1:  # the closing transitions are the same at every number of steps
            return None
        steps *= 2


def _revealed(bench: Bench, steps: int) -> list[int]:
    """Tokens that each transition of a block reveals in count-matched sampling."""
    args = _counted(bench, steps)
    loss, masking = build_synced(args)
    policy = bench.policy
    sampler = build_generator(args, policy.denoiser(), loss.schedule, masking, policy.eos_ids)
    assert isinstance(sampler, DiffusionGenerator)
    left = [sampler.masked_at(t) for t in sampler.grid()]
    return [before - after for before, after in pairwise(left)]


def _why_never(bench: Bench) -> str:
    if bench.flows:
        return "a flow moves all tokens at once"
    if bench.args.counts != "schedule":
        return f"generation.counts={bench.args.counts} leaves several tokens to the last step"
    ends = f"alpha_min={bench.args.alpha_min}, alpha_max={bench.args.alpha_max}"
    return f"with {ends} the closing steps reveal several tokens at once, however many steps there are"


def _counted(bench: Bench, steps: int) -> DiffusionArguments:
    """Count-matched sampling in so many steps; a flow keeps its solver."""
    changes = {} if bench.flows else {"sampler": "count_matched", "solver": "euler"}
    return sampling_arguments(bench.args, max_timesteps=steps, **changes)


def _solved(bench: Bench, steps: int, solver: str) -> DiffusionArguments:
    """Ancestral sampling, or the flow, with a solver in so many steps."""
    timed = bench.args.masking_strategy_type == "diffusion"
    require(bench.args, "masking_strategy_type", timed, "'diffusion' for the solvers: they step by timestep")
    changes = {} if bench.flows else {"sampler": "ancestral", "counts": "schedule"}
    return sampling_arguments(bench.args, max_timesteps=steps, solver=solver, **changes)


def _decode(bench: Bench, args: DiffusionArguments, temperature: float, repeats: int) -> Decoding:
    """Sample and judge every problem, with other noise in every repetition."""
    loss, masking = build_synced(args)
    runs = []
    for repeat in range(repeats):
        seed = bench.seed + repeat
        evaluator = Evaluator(args, loss.schedule, masking, bench.task, bench.problems, seed, bench.batch_size)
        runs.append(evaluator.run(bench.policy, temperature))
    right = [fmean(verdicts) for verdicts in zip(*(run.strict for run in runs), strict=True)]  # (problems,)
    return Decoding(
        accuracy=clustered_mean(right, runs[0].clusters),
        forwards=fmean(run.forwards for run in runs),
        seconds=fmean(run.seconds for run in runs),
    )
