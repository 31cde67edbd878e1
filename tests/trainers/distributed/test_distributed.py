"""Two processes and one do the same: equal losses, equal metrics, equal weights on the same global batch."""

import math

import pytest
import torch
from processes import train_and_save


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "dr_grpo", "num_generations": 4, "beta": 0.1, "num_iterations": 2},
        {"loss_type": "dapo", "num_generations": 8},  # one group across both processes
        {"loss_type": "grpo", "nelbo_source": "forward", "num_iterations": 2},
        # weights are a softmax over a group that lies across both processes
        {"loss_type": "dapo", "num_generations": 8, "advantage_weighting": "wd1", "likelihood": "complementary"},
    ],
    ids=str,
)
def test_two_processes_train_as_one(make_grpo, make_policy, tmp_path, options):
    start = make_policy().model.state_dict()

    def make(batch):
        # plain gradient descent: Adam divides rounding errors by their own size
        return make_grpo(per_device_train_batch_size=batch, max_steps=4, optim="sgd", learning_rate=0.1, **options)

    (one,) = train_and_save(make, 1, tmp_path)
    two = train_and_save(make, 2, tmp_path)
    for rank in two:
        for expected, found in zip(one["logs"], rank["logs"], strict=True):
            assert found == pytest.approx(expected, abs=2e-5, rel=1e-4)
        for name, value in one["weights"].items():
            assert torch.allclose(rank["weights"][name], value, atol=2e-6), name
    assert not torch.equal(one["weights"]["lm_head.weight"], start["lm_head.weight"])
    assert all(math.isfinite(value) for entry in one["logs"] for value in entry.values())
    # the two parts' states, one below the other and in any order (trl shuffles rows), are those of the whole
    assert sorted(row for rank in two for row in rank["rollout"]) == sorted(one["rollout"])


ROLLED_OUT = {"scheduled_sampling_max_step_offset": 5, "scheduled_sampling_probability": 0.5}


def test_two_processes_share_rolled_out_states_between_their_policies(make_grpo, tmp_path):
    """Old, reference and current policy are scored on the same walks: every ratio is 1 where nothing is learned."""

    def make(batch):
        options = {"nelbo_source": "forward", "num_iterations": 2, "beta": 0.1, **ROLLED_OUT}
        return make_grpo(per_device_train_batch_size=batch, max_steps=2, learning_rate=0.0, **options)

    ranks = train_and_save(make, 2, tmp_path)
    assert len(ranks[0]["logs"]) == 2 and ranks[0]["logs"] == ranks[1]["logs"]
    assert all(entry["kl"] == entry["ratio_log_max"] == 0.0 for entry in ranks[0]["logs"])
    shown = [[row[2] for row in rank["rollout"]] for rank in ranks]
    assert shown[0] != shown[1], "each has its own rows"


@pytest.mark.parametrize(
    "options",
    [
        {"scheduled_sampling_reflexflow": True, "scheduled_sampling_visible_loss": 0.5},
        {"prediction_type": "flow_matching"},
    ],
    ids=["masked", "flow matching"],
)
def test_two_processes_whose_walks_differ_in_length_keep_equal_weights(make_sft, make_policy, tmp_path, options):
    start = make_policy().model.state_dict()

    def make(batch):
        return make_sft(per_device_train_batch_size=batch, max_steps=4, **ROLLED_OUT, **options)

    one, two = train_and_save(make, 2, tmp_path)
    for name, value in one["weights"].items():
        assert torch.equal(two["weights"][name], value), name
        assert value.isfinite().all()
    assert not torch.equal(one["weights"]["lm_head.weight"], start["lm_head.weight"])
