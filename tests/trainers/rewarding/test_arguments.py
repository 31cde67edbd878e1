"""A reward function gets what it takes; what it cannot do without is missed before any work."""

import asyncio
from functools import partial

import pytest

from trainers.rewarding.arguments import HANDED, as_list, check_arguments
from trainers.rewarding.guard import guard
from trainers.settings.options import ConfigError

HANDED_ON = {"prompts": ["p"], "completions": ["four"], "completion_ids": [[1]], "answer": ["4"]}


def all_of_it(completions, **kwargs):
    return [float(set(kwargs) == {"prompts", "completion_ids", "answer"})]


def without_kwargs(completions, answer):
    return [float((completions, answer) == (["four"], ["4"]))]


def without_completions(completion_ids):
    return [float(completion_ids == [[1]])]


def with_a_default(completions, scale=3.0):
    return [scale / 3]


class Called:
    def __call__(self, prompts, completions):
        return [float(prompts == ["p"])]


async def awaited(completions, answer):
    await asyncio.sleep(0)
    return [float(answer == ["4"])]


REWARDS = [all_of_it, without_kwargs, without_completions, with_a_default, Called(), partial(with_a_default, scale=3)]


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: getattr(reward, "__name__", type(reward).__name__))
def test_a_reward_gets_what_it_takes(reward):
    check_arguments(reward, ["answer"])
    guarded = guard(reward, 5.0)
    assert guarded(**HANDED_ON) == [1.0] and not guarded.faults
    # and completion by completion, once a call has failed
    assert guarded(**{key: value * 2 for key, value in HANDED_ON.items()})[0] == pytest.approx(1.0)


def test_a_coroutine_function_too():
    check_arguments(awaited, ["answer"])
    assert asyncio.run(guard(awaited, 5.0)(**HANDED_ON)) == [1.0]


def positional(completions, /, answer):
    return [0.0]


@pytest.mark.parametrize(
    ("reward", "columns", "named"),
    [
        (
            without_kwargs,
            ["prompt", "solution"],
            "without_kwargs needs 'answer', which is neither a column of the data",
        ),
        (lambda completion, **kwargs: [0.0], ["prompt", "completion"], "needs 'completion'"),
        (positional, ["answer"], "takes 'completions' by position alone"),
        (Called().__class__, [], None),
    ],
)
def test_what_a_reward_cannot_do_without_is_missed(reward, columns, named):
    if named is None:
        return check_arguments(reward, columns)
    with pytest.raises(ConfigError, match=named):
        check_arguments(reward, columns)


def test_names_and_models_are_left_to_trl():
    for reward in ("a-lab/a-judge",):
        check_arguments(reward, [])
    assert "completions" in HANDED


@pytest.mark.parametrize(
    ("given", "message"),
    [([], "expected at least one"), (None, "None is neither a function"), ([len, 3], "3 is neither a function")],
)
def test_what_is_no_reward_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        as_list(given)
    assert as_list(len) == as_list([len]) == as_list((len,)) == [len]
