"""A guarded reward ends with one value a completion, whatever the reward does."""

import asyncio
import re
import signal
import threading
import time
from collections import UserList

import pytest
import torch
from torch import nn
from trl.trainer.utils import get_callable_name, is_async_callable

from trainers.rewarding.guard import SHOWN, UNKNOWN, Fault, guard, read_values, shown
from trainers.rewarding.time_limit import TimeUp, within
from trainers.tasks.word_problems.numbers import format_reward

LIMIT = 0.2  # seconds
POISON = "poison"
TEXTS = ["a", "bb", POISON, "dddd"]


def length_of(completions, **kwargs):
    return [float(len(text)) for text in completions]


class Unreadable:
    def __repr__(self):
        raise RuntimeError


def kinds(reward):
    return {row: fault.kind for row, fault in reward.faults.items()}


# --- values -------------------------------------------------------------------------------------------------------


def test_good_rewards_pass_as_numbers_and_keep_their_name():
    reward = guard(lambda completions, answer: [1, 0.5, None, torch.tensor(2.0)], LIMIT)
    assert reward(completions=["a"] * 4, answer=["1"] * 4) == [1.0, 0.5, None, 2.0]
    assert reward.faults == {} and reward.repeated is None
    assert get_callable_name(guard(format_reward, LIMIT)) == "format_reward"


@pytest.mark.parametrize(
    "value, kind",
    [
        (float("nan"), "not finite"),
        (float("-inf"), "not finite"),
        (1e39, "not finite"),  # in float32
        (10**400, "not finite"),  # float() overflows
        (10**5000, "not finite"),  # Python refuses to print it
        (torch.tensor(float("nan")), "not finite"),
        ("1.0", "wrong type"),
        (torch.ones(2), "wrong type"),
        (1j, "wrong type"),
        (Unreadable(), "wrong type"),
    ],
    ids=lambda value: shown(value)[:20],
)
def test_a_value_that_is_no_finite_number_is_its_completions_fault_alone(value, kind):
    reward = guard(lambda completions: [0.25, value, 0.75], LIMIT)
    assert reward(completions=["a", "b", "c"]) == [0.25, UNKNOWN, 0.75]
    assert kinds(reward) == {1: kind} and "allowed: a finite number, or None" in reward.faults[1].message


@pytest.mark.parametrize("returned", [None, 1.0, "four", {"a": 1.0}, {1.0, 2.0}, (float(i) for i in range(4))])
def test_what_is_no_list_is_a_fault_of_every_completion(returned):
    reward = guard(lambda completions: returned, LIMIT)
    assert reward(completions=TEXTS) == [UNKNOWN] * 4
    assert kinds(reward) == dict.fromkeys(range(4), "wrong type")


def test_any_sequence_of_the_right_length_is_a_list():
    for values in ([1.0, 2.0], (1.0, 2.0), torch.tensor([1.0, 2.0]), UserList([1.0, 2.0])):
        assert read_values(values, 2) == [1.0, 2.0]


def test_messages_are_one_short_line():
    fault_text = shown("two\nlines " + "x" * 1000)
    assert "\n" not in fault_text and len(fault_text) == SHOWN
    assert shown(Unreadable()) == "<Unreadable>"


# --- one poisonous completion -------------------------------------------------------------------------------------


def raises(text):
    raise ZeroDivisionError("no digits\nin this text")


def exits(text):
    raise SystemExit(3)


def cancels(text):
    raise asyncio.CancelledError


def sleeps(text):
    time.sleep(60)


def spins(text):
    """The usual reward code: whatever goes wrong is worth nothing."""
    try:
        while True:
            pass
    except Exception:
        return 0.0


def backtracks(text):
    re.match(r"(a+)+$", "a" * 50 + "b")


def swallows(text):
    """What even hides the alarm; its value then comes from nowhere."""
    try:
        time.sleep(60)
    except BaseException:
        return 0.0


def raises_in_place(text):
    """What raises something else on the way out."""
    try:
        time.sleep(60)
    finally:
        raise KeyError(text)


def waits_again(text):
    """A thread pool waits for its threads before it lets an exception through."""
    try:
        time.sleep(60)
    finally:
        time.sleep(60)


POISONS = {
    raises: "raised ZeroDivisionError",
    exits: "raised SystemExit",
    cancels: "raised CancelledError",
    sleeps: "timed out",
    spins: "timed out",
    backtracks: "timed out",
    swallows: "timed out",
    raises_in_place: "timed out",
    waits_again: "timed out",
}


@pytest.fixture(autouse=True)
def ring_again_soon(monkeypatch):
    monkeypatch.setattr("trainers.rewarding.time_limit.AGAIN", 0.05)


@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.__name__)
def test_one_poisonous_completion_costs_only_itself(poison):
    def reward(completions, answer, width, **kwargs):
        assert len(answer) == len(completions) and width == [1, 2, 3]  # columns are cut, other lists are not
        return [
            poison(text) if text == POISON else float(right) for text, right in zip(completions, answer, strict=True)
        ]

    reward = guard(reward, LIMIT)
    assert reward(completions=TEXTS, answer=["1", "2", "3", "4"], width=[1, 2, 3]) == [1.0, 2.0, UNKNOWN, 4.0]
    assert kinds(reward) == {2: POISONS[poison]} and reward.repeated.kind == POISONS[poison]
    assert reward(completions=["a"], answer=["5"], width=[1, 2, 3]) == [5.0]
    assert reward.faults == {} and reward.repeated is None


def test_of_a_reward_that_drops_a_completion_the_others_are_known():
    reward = guard(lambda completions: [1.0 for text in completions if text != POISON], LIMIT)
    assert reward(completions=TEXTS) == [1.0, 1.0, UNKNOWN, 1.0]
    assert reward.faults[2] == Fault("wrong length", "returned 0 values for 1 completions")


def test_a_repeated_call_logs_nothing_a_second_time():
    logged = []

    def reward(completions, log_extra, log_metric):
        log_extra("length", [len(text) for text in completions])
        log_metric("calls", 1.0)
        return raises(POISON) if POISON in completions else [1.0]

    def log(*entry):
        logged.append(entry)

    guard(reward, LIMIT)(completions=TEXTS, log_extra=log, log_metric=log)
    assert logged == [("length", [1, 2, 6, 4]), ("calls", 1.0)]


def test_where_all_hang_the_repetition_has_the_limit_once_more(monkeypatch):
    allowed, clock = [], [0.0]

    def hangs(seconds, call):
        allowed.append(seconds)
        clock[0] += seconds
        raise TimeUp

    monkeypatch.setattr("trainers.rewarding.guard.within", hangs)
    monkeypatch.setattr("trainers.rewarding.guard.time.monotonic", lambda: clock[0])
    reward = guard(length_of, LIMIT)
    assert reward(completions=TEXTS) == [UNKNOWN] * 4
    assert allowed == pytest.approx([LIMIT, *[LIMIT / 4] * 4])


def test_the_users_own_interrupt_passes():
    def interrupted(completions):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guard(interrupted, LIMIT)(completions=TEXTS)


# --- the time limit -----------------------------------------------------------------------------------------------


def test_a_limit_leaves_handler_and_timer_as_they_were():
    def rings(number, frame):
        rung.append(number)

    rung, before = [], signal.signal(signal.SIGALRM, rings)
    try:
        signal.setitimer(signal.ITIMER_REAL, 100.0)
        with pytest.raises(TimeUp):
            within(0.05, lambda: time.sleep(60))
        assert within(5.0, lambda: 3) == 3
        with pytest.raises(KeyError):
            within(5.0, lambda: {}["missing"])
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 50 < left < 100 and interval == 0
        assert signal.getsignal(signal.SIGALRM) is rings and rung == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_the_alarm_is_no_exception_that_code_takes_for_its_own():
    caught = []

    def call():
        try:
            time.sleep(60)
        except Exception as error:
            caught.append(error)

    with pytest.raises(TimeUp):
        within(0.05, call)
    assert caught == []


def test_an_outer_limit_ends_what_an_inner_one_lets_go_on():
    with pytest.raises(TimeUp):
        within(0.2, lambda: [within(60.0, lambda: time.sleep(0.01)) for _ in range(6000)])


def test_off_the_main_thread_a_call_runs_unlimited():
    values = []
    thread = threading.Thread(target=lambda: values.append(within(0.01, lambda: time.sleep(0.1) or 7)))
    thread.start()
    thread.join()
    assert values == [7]


# --- async --------------------------------------------------------------------------------------------------------


async def sleeps_async(text):
    await asyncio.sleep(60)


async def exits_async(text):
    raise SystemExit(3)


async def swallows_async(text):
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if RELEASE.is_set():
                raise


RELEASE = threading.Event()


@pytest.mark.parametrize(
    "poison, kind",
    [(sleeps_async, "timed out"), (swallows_async, "timed out"), (exits_async, "raised SystemExit")],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_of_an_async_reward_one_poisonous_completion_costs_only_itself(poison, kind):
    async def reward(completions, answer):
        return [
            await poison(text) if text == POISON else float(right)
            for text, right in zip(completions, answer, strict=True)
        ]

    async def main():
        RELEASE.clear()
        values = await reward(completions=TEXTS, answer=["1", "2", "3", "4"])
        RELEASE.set()  # asyncio.run waits for the tasks that are left
        return values

    reward = guard(reward, LIMIT)
    assert is_async_callable(reward) and get_callable_name(reward) == "reward"
    assert asyncio.run(main()) == [1.0, 2.0, UNKNOWN, 4.0]
    assert kinds(reward) == {2: kind} and reward.repeated.kind == kind


def test_reward_models_pass_untouched():
    model = nn.Linear(1, 1)
    assert guard(model, LIMIT) is model and guard("some/model", LIMIT) == "some/model"
