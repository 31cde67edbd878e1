"""A model is looked at where this process will train it, if there is room, and goes back if it may yet be sharded."""

import pytest
import torch

from trainers.models.policy import Policy
from trainers.models.probes import looking

CUDA = torch.device("cuda")


@pytest.fixture
def moves(monkeypatch, make_policy):
    """A policy on a machine that seems to have accelerators of a GiB each; where it was moved to."""
    found = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: CUDA)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda place: (2**30, 2**30))
    monkeypatch.setattr(Policy, "move_to", lambda self, place: found.append(place))
    return make_policy(), found


@pytest.mark.parametrize(
    "processes, expected",
    [({}, ["cuda:0"]), ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, ["cuda:1", "cpu"])],
    ids=["alone", "with others"],
)
def test_a_model_is_looked_at_on_the_accelerator_of_its_process(monkeypatch, moves, processes, expected):
    policy, found = moves
    for name, value in processes.items():
        monkeypatch.setenv(name, value)
    with looking.at_rest(policy):
        assert found == [torch.device(expected[0])] and not policy.model.training
    assert found == [torch.device(place) for place in expected]


def test_it_goes_back_when_it_is_refused(monkeypatch, moves):
    policy, found = moves
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="refused"), looking.at_rest(policy):
        raise ValueError("refused")
    assert found[-1] == torch.device("cpu")


def test_a_model_that_does_not_fit_stays(monkeypatch, moves):
    policy, found = moves
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda place: (1000, 2**30))
    with looking.at_rest(policy):
        assert found == []


def test_an_accelerator_that_does_not_say_its_memory_is_taken_to_have_it(monkeypatch, moves):
    policy, found = moves

    def silent(place):
        raise RuntimeError("not supported")

    monkeypatch.setattr(torch.accelerator, "get_memory_info", silent)
    with looking.at_rest(policy):
        assert found == [torch.device("cuda:0")]
