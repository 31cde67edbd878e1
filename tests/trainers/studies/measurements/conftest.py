"""A bench on the micro model, with a verifier that random text can please."""

from types import SimpleNamespace

import pytest
from benches import CANVAS, DRAWS, STEPS

from trainers.settings.sft import DiffusionSFTConfig
from trainers.studies.measurements.bench import Bench
from trainers.tasks.verdicts import Verdict


def verify(completion, answer):
    """Something that random text gets right now and then."""
    ok = len(completion) % 2 == 0
    return Verdict(strict=ok, lenient=ok)


@pytest.fixture
def make_args(tmp_path):
    def build(**overrides):
        base = {
            "output_dir": str(tmp_path),
            "max_timesteps": STEPS,
            "max_completion_length": CANVAS,
            "num_draws": DRAWS,
            "p_mask_prompt": 0.2,
            "temperature": 0.8,
            "report_to": "none",
        }
        return DiffusionSFTConfig(**(base | overrides))

    return build


@pytest.fixture
def make_bench(make_args, make_policy, splits):
    def build(policy=None, seed=0, repeats=1, batch_size=128, problems=None, **overrides):
        problems, task = problems or splits["test"], SimpleNamespace(verify=verify)
        return Bench(make_args(**overrides), policy or make_policy(), task, problems, seed, repeats, batch_size)

    return build
