"""A playback says of a completion what its trajectory says."""

import math

import pytest
import torch

from core.trajectory import NEVER
from trainers.evaluating.playback import NOT_REVEALED, playbacks


@pytest.fixture
def trajectory(make_grpo, splits):
    trainer = make_grpo(block_length=2)  # a row stops in the middle of its canvas
    prompts = trainer.policy.encode(splits["train"]["prompt"][:24])
    with trainer.roller.sampling() as denoiser:
        return trainer.roller.complete(denoiser, prompts, trainer.position())


def test_it_holds_tokens_steps_and_log_probabilities_of_the_rows_asked_for(trajectory, tokenizer):
    early = int((trajectory.step_map == NEVER).any(dim=1).nonzero()[0])
    for row, played in zip((early, 1), playbacks(tokenizer, trajectory, [early, 1]), strict=True):
        assert played.tokens == [tokenizer.decode([i]) for i in trajectory.ids[row].tolist()]
        steps = trajectory.step_map[row].tolist()
        assert played.steps == [NOT_REVEALED if step == NEVER else step for step in steps]
        assert played.logps == pytest.approx(trajectory.commit_logps[row].tolist(), abs=1e-4)
        assert played.length == int(trajectory.lengths[row])
        assert played.finish == trajectory.finish_reason[row]
        assert played.text == tokenizer.decode(trajectory.completions()[row], skip_special_tokens=True)


def test_no_rows_and_no_numbers(trajectory, tokenizer):
    assert playbacks(tokenizer, trajectory, []) == []
    trajectory.commit_logps[0, :2] = torch.tensor([math.nan, -math.inf])
    assert playbacks(tokenizer, trajectory, [0])[0].logps[:2] == [None, None]
