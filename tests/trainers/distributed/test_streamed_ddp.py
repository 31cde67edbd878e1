"""Two processes that score their halves in groups have the gradient of one process that scores all at once."""

import pytest
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, debug_launcher
from accelerate.state import AcceleratorState, GradientState

from core.likelihoods import ESTIMATORS
from core.masking_strategy import DiffusionMaskingStrategy
from trainers.distributed.randomness import generator_at

ROWS, PROMPT, LENGTH = 6, 5, 8


def loss_of(policy, model, ids, draws, group):
    likelihood = ESTIMATORS["monte_carlo"]()
    likelihood.states_per_forward = group
    prompt_ids = ids[:, :PROMPT]
    found = likelihood.score(policy.denoiser(model), prompt_ids, torch.ones_like(prompt_ids), ids, draws)
    return (found.per_token_logps * found.token_weight).sum(), found.sequence_bound.detach()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "gradient checkpointing"])
@pytest.mark.parametrize("find_unused", [False, True], ids=["", "find unused"])
@pytest.mark.parametrize("groups", [(None, None), (3, 3), (2, 5)], ids=str)
def test_streamed_gradient_of_two_processes_is_that_of_one(make_policy, tmp_path, groups, find_unused, checkpointing):
    ids = torch.randint(5, 50, (ROWS, LENGTH), generator=generator_at("ids"))
    likelihood, masking = ESTIMATORS["monte_carlo"](), DiffusionMaskingStrategy(0.0)
    draws = likelihood.draw(masking, ROWS, LENGTH, PROMPT, generator_at("draws"))

    def score():
        AcceleratorState._reset_state(reset_partial_state=True)  # the parent's says: one process
        GradientState._reset_state()
        options = DistributedDataParallelKwargs(find_unused_parameters=find_unused)
        accelerator = Accelerator(cpu=True, kwargs_handlers=[options])
        policy = make_policy(layers=2)
        if checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        model = accelerator.prepare(policy.model.train())
        rank = accelerator.process_index
        rows = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)
        for _ in range(2):  # the second step finds what the first left in the reducer
            model.zero_grad()
            loss, bound = loss_of(policy, model, ids[rows], draws.rows(rows), groups[rank])
            accelerator.backward(loss)
        gradients = {name: p.grad for name, p in accelerator.unwrap_model(model).named_parameters()}
        torch.save({"gradients": gradients, "bound": bound}, tmp_path / f"{rank}.pt")

    debug_launcher(score, num_processes=2)
    policy = make_policy(layers=2)
    loss, bound = loss_of(policy, policy.model, ids, draws, None)
    loss.backward()
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.allclose(torch.cat([rank["bound"] for rank in ranks]), bound, rtol=1e-5)
    for name, parameter in policy.model.named_parameters():
        scale = parameter.grad.abs().max().item()
        assert scale > 0
        for rank in ranks:  # DDP takes the mean over processes
            assert torch.allclose(2 * rank["gradients"][name], parameter.grad, atol=1e-5 * scale, rtol=1e-5), name
