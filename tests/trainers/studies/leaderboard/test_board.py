"""A board says what is wrong with it, and entries override the options of all."""

import pytest

from trainers.settings.options import ConfigError
from trainers.studies.leaderboard.board import read_leaderboard


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"forward": 3}, "unknown key 'forward': did you mean 'forwards'?"),
        ({"base": None}, "base is missing"),
        ({"seeds": [0, 0]}, "each seed once"),
        ({"seconds": 0}, "seconds=0: expected a number above 0"),
        ({"validate_every": 2}, "validate_every=2"),
        ({"entries": {"a b": {}, "a-b": {}}}, "different file names"),
        ({"entries": {"start": {}}}, "expected another name"),
    ],
)
def test_a_bad_board_is_one_clear_error(write, changes, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        read_leaderboard(write(**changes))


def test_a_bad_option_of_an_entry_names_the_entry(write):
    board = read_leaderboard(write(entries={"odd": {"loss.num_draw": 2}}))
    with pytest.raises(ConfigError, match=r"entry 'odd': unknown setting 'loss\.num_draw'"):
        board.config("odd", 0)


def test_a_learning_rate_that_depends_on_the_number_of_steps_is_refused(write):
    board = read_leaderboard(write(overrides={"lr_scheduler_type": "linear"}))
    with pytest.raises(ConfigError, match="lr_scheduler_type='linear'"):
        board.config("two draws", 0)


def test_options_of_an_entry_override_those_of_all(write):
    board = read_leaderboard(write(overrides={"loss.num_draws": 3, "beta": 0.1}))
    assert board.config("two draws", 5).training.num_draws == 3
    training = board.config("four draws", 5).describe()["training"]
    assert (training["beta"], training["seed"], training["save_strategy"]) == (0.1, 5, "no")
    assert board.config("four draws", 5).training.num_draws == 4
