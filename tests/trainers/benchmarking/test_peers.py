"""The published samplers as they are restated, and ours under their law."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from core.denoisers import ModelDenoiser
from core.generator import DiffusionGenerator
from core.masking_strategy import DiffusionMaskingStrategy
from trainers.benchmarking.contenders import contender
from trainers.benchmarking.peers import d1, llada, transfer_counts
from trainers.benchmarking.rollouts import same_text


@pytest.mark.parametrize(
    ("tokens", "steps", "expected"), [(8, 4, [2, 2, 2, 2]), (8, 3, [3, 3, 2]), (3, 5, [1, 1, 1, 0, 0]), (5, 1, [5])]
)
def test_the_remainder_goes_to_the_first_steps(tokens, steps, expected):
    assert transfer_counts(tokens, steps) == expected


class Fixed(torch.nn.Module):
    """The same logits at every position, whatever is asked; keeps the states that it saw."""

    def __init__(self, logits, dtype=torch.float32):
        super().__init__()
        self.logits, self.dtype, self.seen = torch.tensor(logits, dtype=dtype), dtype, []

    def forward(self, input_ids, attention_mask=None):
        self.seen.append(input_ids.clone())
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


@pytest.mark.parametrize("generate", [llada, d1])
def test_baselines_sample_from_the_tempered_softmax(generate, config):
    logits, rows = [1.0, 0.0, -1.0, 0.5, -9.0], 20_000
    one = replace(config, canvas_length=1, block_length=1, steps=1, temperature=0.5, mask_id=4, pad_id=-1)
    ids = generate(Fixed(logits), torch.zeros(rows, 1, dtype=torch.int64), one)
    share = torch.bincount(ids.flatten(), minlength=5) / rows
    expected = torch.softmax(torch.tensor(logits) / 0.5, dim=0)
    assert bool(((share - expected).abs() <= 4 * (expected * (1 - expected) / rows).sqrt() + 1e-6).all())


def test_baseline_walks_block_by_block_over_the_whole_canvas(config, policy):
    model = Fixed([0.0, 1.0, 0.0, 0.0, -9.0])
    small = replace(config, canvas_length=6, block_length=3, steps=4, mask_id=4, eos_id=1, pad_id=-1)
    ids = llada(model, torch.zeros(1, 2, dtype=torch.int64), small)
    left = [(seen[:, 2:].view(2, 3) == 4).sum(dim=1).tolist() for seen in model.seen]
    assert left == [[3, 3], [1, 3], [0, 3], [0, 1]]  # no early stop, though every token is EOS
    assert bool((ids == 1).all())


@pytest.mark.parametrize("generate", [llada, d1])
@pytest.mark.parametrize(("block_length", "steps"), [(12, 12), (12, 4), (4, 6), (4, 12), (3, 12), (4, 24)])
def test_ours_writes_the_baselines_greedy_text(generate, block_length, steps, policy, prompts, config):
    config = replace(config, block_length=block_length, steps=steps)
    expected = generate(policy.model, prompts, config)
    ids = contender("ours", policy, config).run(prompts)
    assert same_text(expected, ids, config.eos_id) == 1
    assert len({tuple(row) for row in expected.tolist()}) == 4  # four prompts, four texts


@pytest.mark.parametrize(("block_length", "steps"), [(32, 32), (32, 64), (64, 16), (32, 128), (16, 32)])
def test_ours_commits_as_many_tokens_a_step_as_the_baseline(block_length, steps, policy):
    """In every step that commits any; 16 steps for each block of 32 are the published setting."""
    canvas, blocks = 64, 64 // block_length
    masking = DiffusionMaskingStrategy(0.0, steps, "linear", 0.0, 1.0)
    denoiser = ModelDenoiser(Fixed([0.0, 1.0, 0.5, -9.0]), mask_id=3)
    generator = DiffusionGenerator(
        denoiser, masking.schedule, masking, canvas, block_length, selection="low_confidence", temperature=0.0
    )
    prompt = torch.zeros(1, 1, dtype=torch.int64)
    trajectory = generator.generate(prompt, torch.ones_like(prompt), torch.Generator().manual_seed(0))
    counts = torch.bincount(trajectory.step_map.flatten()).tolist()
    assert counts == [count for count in transfer_counts(block_length, steps // blocks) if count] * blocks
