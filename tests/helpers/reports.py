"""Logs of runs as trainers leave them, the report written from them, and what a test reads back from it."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from trainers.reporting.report import write_report

NAMES = ("sampled strict", "sampled lenient", "greedy strict", "greedy lenient")
SUMMARY = {"train_runtime": 51.5, "train_loss": 0.02, "total_flos": 0.0, "epoch": 1.0, "step": 200}
ROLLED_OUT = {
    "scheduled_sampling/probability": 0.25,
    "scheduled_sampling/accuracy": 0.375,
    "scheduled_sampling/exposure_bias": 4.5,
    "scheduled_sampling/nelbo_rolled_out": 120.0,
    "scheduled_sampling/forwards": 5.0,
}
FLOW = {"nelbo": None, "cross_entropy": 2.125}


def grpo_log(**overrides) -> list[dict]:
    """20 rows of a GRPO run, an evaluation, the summary."""
    rows = [
        {
            "step": 10 * i,
            "epoch": i / 20,
            "loss": 0.011,
            "reward": 0.3 + i / 40,
            "rewards/correctness/mean": 0.2 + i / 40,
            "rewards/correctness/std": 0.4,
            "nelbo": 40.0 - i,
            "nelbo_standard_error": 1.5,
            "ratio_log_std": 0.02,
            "entropy": 0.31,
            "completions/mean_length": 51.25,
            "rollout/forwards_per_completion": 64.0,
            "rollout/tokens_per_second": 1843.0,
            "loss/tokens_per_second": 911.0,
            "step_time": 2.5,
            "time/rollout": 1.25,
            "time/scoring": 0.5,
            "time/backward": 0.625,
            **overrides,
        }
        for i in range(1, 21)
    ]
    return [*rows, {"step": 200, "eval_reward": 0.77}, SUMMARY]


def sft_log(**metrics) -> list[dict]:
    """10 rows of an SFT run with further metrics, two evaluations, the summary; None leaves a metric out."""
    rows = [
        {"step": s, "loss": 3.0 - s / 100, "nelbo": 150.0 - s / 2, "grad_norm": 1.0, **metrics}
        for s in range(10, 110, 10)
    ]
    rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
    return [*rows, {"step": 50, "eval_loss": 2.75}, {"step": 100, "eval_loss": 2.25}, {**SUMMARY, "step": 100}]


def entry(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def held_out() -> dict:
    return {
        "before": {name: entry(0.4 + i / 100, 0.375, 0.466) for i, name in enumerate(NAMES)},
        "after": {name: entry(0.6 + i / 100, 0.575, 0.666) for i, name in enumerate(NAMES)},
        "difference": {name: entry(0.2, 0.155, 0.245) for name in NAMES},
    }


def write(directory: Path, **overrides) -> str:
    arguments = {
        "title": "grpo on gsm8k",
        "command": "python scripts/train.py configs/x.yaml --seed 3",
        "settings": {"trainer": "grpo", "loss": {"alpha_schedule": "linear"}},
        "environment": {"device": "TestCPU", "torch": "9.8.7"},
        "log_history": grpo_log(),
        "held_out": held_out(),
        "samples": [{"prompt": "Tom has 4", "before": "5", "after": "7"}],
        "seconds": {"training": 333.0},
        "notes": ["seen once"],
    }
    return write_report(directory, **(arguments | overrides)).read_text()


def cells(report: str, first: str) -> list[str]:
    """Cells of the table row that starts with ``first``."""
    [row] = [line for line in report.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def ink(path: Path) -> tuple[tuple[int, int], int]:
    """Size of an image, and the number of its pixels that are not white."""
    with Image.open(path) as image:
        image.load()
        pixels = np.asarray(image.convert("L"))
        return image.size, int((pixels < 250).sum())
