"""A cell belongs to one process at a time, and to the settings that it was recorded with."""

import multiprocessing
import os
import time

import pytest
from boards import fake_cell, silent

from trainers.settings.options import ConfigError
from trainers.studies.leaderboard import running
from trainers.studies.leaderboard.board import read_leaderboard
from trainers.studies.leaderboard.cells import claimed, finished


def test_a_cell_of_another_process_is_left_alone_until_that_process_dies(tmp_path):
    path = tmp_path / "entry" / "seed0.json"
    fork = multiprocessing.get_context("fork")
    held = fork.Event()

    def hold():
        with claimed(path):
            held.set()
            time.sleep(60)

    worker = fork.Process(target=hold)
    worker.start()
    assert held.wait(10)
    with claimed(path) as mine:
        assert not mine
    assert path.with_suffix(".lock").read_text() == f"{worker.pid}\n"
    worker.kill()
    worker.join()
    with claimed(path) as mine:
        assert mine and path.with_suffix(".lock").read_text() == f"{os.getpid()}\n"


def test_a_cell_of_other_settings_is_refused_by_name(write, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "run_cell", fake_cell(tmp_path / "log"))
    board = read_leaderboard(write())
    running.run_board(board, board.names, [0], silent)
    changed = read_leaderboard(write(entries={"two draws": {}, "four draws": {"loss.num_draws": 5}}))
    with pytest.raises(ConfigError, match=r"four_draws/seed0.json.*num_draws was 4 and is 5.*delete it"):
        running.run_board(changed, ["start", "four draws"], [0], silent)
    longer = read_leaderboard(write(forwards=201))
    with pytest.raises(ConfigError, match=r"two_draws/seed0.json.*forwards was 200 and is 201"):
        finished(longer)
