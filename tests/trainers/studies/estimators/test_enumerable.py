"""The enumerable task: right answers, rewards by place, and a model that learns it."""

import math

import pytest
import torch
from comparing import LENGTH

from trainers.studies.estimators.enumerable import ANSWER_TOKENS, END, encode, problems, rewards


def test_answers_are_right_and_end_on_the_canvas():
    prompts, answers = problems(4)
    assert len(prompts) == 2 * 100 * 10
    at = (prompts == encode(["37*5="])).all(dim=1)
    assert torch.equal(answers[at], encode(["185."]))
    assert bool((answers[:, -1] == END).all()) and bool((answers <= END).all())
    assert len(problems(2)[0]) < len(problems(3)[0]) < len(prompts)
    with pytest.raises(ValueError, match="--length 1"):
        problems(1)


def test_reward_is_for_the_whole_answer_and_a_little_for_its_places():
    answer = encode(["185."])
    assert rewards(encode(["185.", "184.", "0000"]), answer).tolist() == pytest.approx([1.0, 0.15, 0.0])


def test_training_lowers_the_bound_and_only_answer_tokens_can_be_written(bench):
    assert bench.bound < 0.75 * LENGTH * math.log(len(ANSWER_TOKENS))
    _, trajectory = bench.comparison.roll_out(50, "any")
    assert trajectory.ids.max() <= END
