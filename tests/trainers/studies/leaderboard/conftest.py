"""A board in YAML on the micro model, and one in memory."""

import pytest
import yaml
from boards import BASE, digits

from trainers.studies.leaderboard.board import Leaderboard
from trainers.tasks import gsm8k


@pytest.fixture
def write(tmp_path, model_dir, monkeypatch):
    """Writes the YAML of a board on the micro model with a budget of two steps; keywords replace its keys."""
    monkeypatch.setitem(gsm8k.REWARDS, "digits", digits)
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump(BASE | {"model": {"name_or_path": str(model_dir)}}))

    def build(**changes):
        document = {
            "base": str(base),
            "output_dir": str(tmp_path / "board"),
            "seeds": [0],
            "forwards": 200,
            "seconds": 1e-6,
            "validate_every": 0.5,
            "entries": {"two draws": {}, "four draws": {"loss.num_draws": 4}},
        }
        path = tmp_path / "board.yaml"
        path.write_text(yaml.safe_dump(document | changes, sort_keys=False))
        return path

    return build


@pytest.fixture
def board(tmp_path):
    return Leaderboard("base.yaml", str(tmp_path), [0, 1], 100, 10.0, {"first": {}, "second": {}})
