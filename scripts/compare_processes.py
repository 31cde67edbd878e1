"""Time the steps of one process against those of several.

    python scripts/compare_processes.py configs/trajectory_nelbo_gsm8k.yaml --processes 1 2 --steps 20 --repeats 3

The global batch is the same for all.

Runs scripts/train.py by torchrun, one after another and in turn, with `per_device_train_batch_size` shared out, and
reads the seconds of each step from its log (the first tenth is left out: processes warm up). A process has one thread
for its arithmetic unless OMP_NUM_THREADS says more. Only the ratio means something, and only on a quiet machine.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from trainers.commands import OptionParser, at_least, main_or_one_line
from trainers.settings.options import ConfigError

TRAIN = Path(__file__).parent / "train.py"


def main(argv: list[str]) -> None:
    """Time short runs at each number of processes by turns, and print the ratios to the first number."""
    parser = OptionParser(__doc__)
    parser.add_config()
    parser.add_argument(
        "--processes", type=partial(at_least, 1), nargs="+", default=[1, 2],
        help="Numbers of processes; the others are compared with the first.",
    )  # fmt: skip
    parser.add_argument("--steps", type=partial(at_least, 10), default=20, help="Steps of each run.")
    parser.add_argument("--repeats", type=partial(at_least, 1), default=3, help="Runs of each number, by turns.")
    options, settings = parser.parse(argv)
    request = parser.read(options.config, settings)
    rest = [options.config, *settings]

    # only now: these take seconds to import, which a typo does not wait for
    from trainers.settings.config import build

    rows = build(request).training.per_device_train_batch_size
    uneven = [count for count in options.processes if rows % count]
    if uneven:
        raise ConfigError(f"--processes {uneven[0]}: expected a divisor of per_device_train_batch_size={rows}")
    times: dict[int, list[float]] = {count: [] for count in options.processes}
    for _ in range(options.repeats):
        for count in options.processes:
            times[count].append(step_seconds(rest, count, rows // count, options.steps))
            print(f"{count} processes: {times[count][-1]:.4g} s a step", flush=True)
    first = options.processes[0]
    for count in options.processes[1:]:
        ratios = [alone / together for alone, together in zip(times[first], times[count], strict=True)]
        print(
            f"{count} processes make {statistics.median(ratios):.2f} times the steps of {first} "
            f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} repeats)"
        )


def step_seconds(rest: list[str], processes: int, rows: int, steps: int) -> float:
    """Median seconds of a step of a short run."""
    with tempfile.TemporaryDirectory() as directory:
        overrides = {
            "per_device_train_batch_size": rows,
            "max_steps": steps,
            "logging_steps": 1,
            "save_strategy": "no",
            "eval_strategy": "no",
            "report_to": "none",
            "disable_tqdm": "true",
            "task.test_size": processes,
            "output_dir": directory,
        }
        given = [word for name, value in overrides.items() for word in (f"--{name}", str(value))]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        environment = {"OMP_NUM_THREADS": "1"} | dict(os.environ)
        run = subprocess.run(
            [*launcher, str(TRAIN), *without(rest, overrides), *given], env=environment, capture_output=True, text=True
        )
        if run.returncode:
            said = [line.strip() for line in run.stderr.splitlines() if "rror:" in line]
            raise ConfigError(f"{processes} processes: {said[0] if said else run.stderr[-500:]}")
        log = json.loads((Path(directory) / "results.json").read_text())["log_history"]
    seconds = [entry["step_time"] for entry in log if "step_time" in entry]
    return statistics.median(seconds[len(seconds) // 10 :])


def without(words: Sequence[str], names: Collection[str]) -> list[str]:
    """A command line less the options of these names, which may not be given twice."""
    last, kept, dropped = {name.rpartition(".")[2] for name in names}, [], False
    for word in words:
        if word.startswith("--"):
            dropped = word[2:].partition("=")[0].rpartition(".")[2] in last
        if not dropped:
            kept.append(word)
    return kept


if __name__ == "__main__":
    main_or_one_line(main)
