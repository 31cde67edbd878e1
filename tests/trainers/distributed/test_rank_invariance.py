"""One, two and four processes do the same: equal completions and states to the bit, equal losses and weights."""

import pytest
from processes import PLAIN, agree, train_and_save

from core.flow.path import gaussian
from trainers.distributed.randomness import generator_at
from trainers.rollouts import balanced

WALKS = {"num_draws": 2, "scheduled_sampling_max_step_offset": 5, "scheduled_sampling_probability": 0.5}


@pytest.mark.parametrize(
    ("processes", "options"),
    [
        ((1, 2, 4), {"nelbo_replay": "all", "sampler": "confidence", "threshold": 0.3, "num_iterations": 2}),
        ((1, 4), {"nelbo_source": "forward", **WALKS}),
    ],
    ids=["replay of all steps", "walks"],
)
def test_grpo_does_not_depend_on_the_number_of_processes(make_grpo, tmp_path, processes, options):
    def make(rows):
        return make_grpo(per_device_train_batch_size=rows, p_mask_prompt=None, **(PLAIN | options))

    one, *more = (train_and_save(make, count, tmp_path) for count in processes)
    rollout = sorted(one[0]["rollout"])
    # fresh masks hide prompts too, or this shows less
    assert any(any(map(any, prompts)) for *_, prompts in rollout) is ("nelbo_source" in options)
    for ranks in more:
        agree(one[0], ranks)
        assert sorted(row for rank in ranks for row in rank["rollout"]) == rollout  # TRL shuffles rows


@pytest.mark.parametrize("options", [WALKS, {"attention_annealing_steps": 6}], ids=["walks", "annealed attention"])
def test_sft_does_not_depend_on_the_number_of_processes(make_sft, tmp_path, options):
    def make(rows):
        return make_sft(per_device_train_batch_size=rows, p_mask_prompt=0.3, **(PLAIN | options))

    one, two = (train_and_save(make, processes, tmp_path) for processes in (1, 2))
    agree(one[0], two, ("loss", "grad_norm"))  # what else SFT logs is of the main process's rows


# ---- prompts dealt out by length ------------------------------------------------------------------------------------

CANVAS = 64


def synthetic(groups, group, seed):
    """Prompts with lengths spread as in word problems (log-normal), each repeated."""
    spread = gaussian(groups, generator=generator_at("lengths", seed), device="cpu")
    lengths = (60 * (0.5 * spread).exp()).long().clamp(min=1).tolist()
    return [[i] * length for i, length in enumerate(lengths) for _ in range(group)]


def imbalance(prompts, dealt):
    """Positions of the busiest process over those of the mean one: how long the others wait."""
    loads = [sum(len(prompts[place]) + CANVAS for place in places) for places in dealt]
    return max(loads) * len(loads) / sum(loads)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("processes", [2, 4, 8])
def test_balanced_prompts_are_each_dealt_once_and_keep_processes_equally_busy(processes, seed):
    prompts = synthetic(groups=4 * processes, group=8, seed=seed)
    dealt = balanced(prompts, processes, CANVAS)
    assert sorted(place for places in dealt for place in places) == list(range(len(prompts)))
    rows = len(prompts) // processes
    in_order = [range(rank * rows, (rank + 1) * rows) for rank in range(processes)]
    assert imbalance(prompts, dealt) < 4 / 3  # Graham's bound on the longest against the best
    assert imbalance(prompts, dealt) < imbalance(prompts, in_order)
    for places in dealt:  # repetitions share their first evaluation
        assert all(set(range(place - place % 8, place - place % 8 + 8)) <= set(places) for place in places)


@pytest.mark.parametrize(("groups", "group", "processes"), [(1, 8, 8), (2, 8, 4), (3, 4, 6)])
def test_no_process_is_without_prompts(groups, group, processes):
    dealt = balanced(synthetic(groups, group, seed=0), processes, CANVAS)
    assert all(dealt) and sum(map(len, dealt)) == groups * group
