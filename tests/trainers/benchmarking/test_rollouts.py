"""Baselines follow their published law, ours writes their text, and every contender is asked and counted as told."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from core.denoisers.denoiser import ModelDenoiser
from core.generator import DiffusionGenerator
from core.masking_strategy import DiffusionMaskingStrategy
from trainers.benchmarking.contenders import Contender, contender
from trainers.benchmarking.peers import RolloutConfig, d1, llada, transfer_counts
from trainers.benchmarking.prompts import random_prompts, read_problems, real_prompts
from trainers.benchmarking.rollouts import compare_rollouts, same_text
from trainers.benchmarking.roofline import PeakMeter, Peaks
from trainers.settings.options import ConfigError

PROMPT = 5


class KnownPeaks(PeakMeter):
    """A machine of 1 GFLOP/s and 1 GB/s."""

    def measure(self):
        self.best = Peaks(1e9, 1e9)


@pytest.fixture
def policy(make_policy):
    return make_policy(seed=1, layers=2)


@pytest.fixture
def config(policy):
    tokenizer = policy.tokenizer
    return RolloutConfig(
        canvas_length=12,
        block_length=4,
        steps=6,
        temperature=0.0,
        mask_id=policy.mask_id,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        seed=0,
    )


@pytest.fixture
def prompts(policy):
    """Four prompts, two of them padded."""
    ids = random_prompts(policy, 4, PROMPT, seed=0)
    ids[1, :2] = ids[2, :1] = policy.tokenizer.pad_token_id
    return ids


def compare(policy, names, prompts, config, **overrides):
    contenders = [contender(name, policy, config) if isinstance(name, str) else name for name in names]
    settings = {"peaks": KnownPeaks(torch.device("cpu"), torch.float32), "repeats": 1, "memory": False} | overrides
    return compare_rollouts(policy, contenders, prompts, config, **settings)


# ---- the published law ----------------------------------------------------------------------------------------------


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


# ---- contenders -----------------------------------------------------------------------------------------------------


def first_token(model, prompt_ids, config):
    """A peer from outside: repeats the prompt's first token, prompt in front as LLaDA's own returns it."""
    with torch.no_grad():
        model(input_ids=prompt_ids)
    return torch.cat([prompt_ids, prompt_ids[:, :1].expand(-1, config.canvas_length)], dim=1)


def test_a_function_of_a_module_runs_on_the_same_weights(policy, prompts, config):
    name = f"{__name__}:first_token"
    row = compare(policy, ["llada", f"{name}:canvas_length=3"], prompts, config)[1]
    assert (row.generator, row.canvas_tokens, row.same_text) == (f"{name}:canvas_length=3", 4 * 3, 0)
    assert (row.calls.forwards, row.calls.positions, row.calls.head_rows) == (1, 4 * PROMPT, 4 * PROMPT)


def test_settings_reach_our_generator(policy, prompts, config):
    whole = contender("ours:block_length=12,steps=12", policy, config).run(prompts)
    assert torch.equal(whole, contender("ours", policy, replace(config, block_length=12, steps=12)).run(prompts))
    assert not torch.equal(whole, contender("ours", policy, config).run(prompts))
    cosine = contender("ours:alpha_schedule=cosine,temperature=1.0,selection=random", policy, config)
    assert cosine.run(prompts).shape == (4, 12)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ours:colour=red", "unknown 'colour'; known: alpha_max, "),
        ("ours:selection=best", "'best' is unknown; known: "),
        ("ours:steps=7", "generation.steps=7 must be a multiple"),
        ("ours:attention=upwards", "attention='upwards': expected one of "),
        ("llada:selection=top1", "unknown 'selection'; known: canvas_length"),
        ("dream", "expected ours, llada, d1 or module:function"),
        ("no.such.module:generate", "expected ours, llada, d1 or module:function"),
        ("json:generate", "expected ours, llada, d1 or module:function"),
    ],
)
def test_a_contender_that_cannot_run_is_one_clear_error(spec, message, policy, config):
    with pytest.raises(ConfigError, match=f"--generators {spec}: .*{message}"):
        contender(spec, policy, config)


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_the_row_of_a_full_canvas_generator_is_known_in_closed_form(policy, prompts, config):
    row = compare(policy, ["llada"], prompts, config, memory=True)[0]
    positions = 4 * (PROMPT + 12) * 6  # rows x sequence x steps
    assert (row.calls.forwards, row.calls.row_forwards) == (6, 4 * 6)
    assert row.calls.positions == row.calls.head_rows == positions
    flop = positions * (
        row.costs.flop_per_position + row.costs.attention_flop(PROMPT + 12) + row.costs.flop_per_head_row
    )
    assert row.mfu == pytest.approx(flop / row.seconds[0] / 1e9)
    assert row.mfu <= row.roofline * (1 + 1e-12)
    assert row.canvas_tokens == 48 and row.tokens <= 48 and row.masks_left == 0
    # at least the logits and their float64 softmax; far below the hundred times that a leak over steps would take
    softmax = 4 * (PROMPT + 12) * policy.model.config.vocab_size * (4 + 8)
    assert softmax <= row.peak_bytes <= 4 * softmax
    assert len(row.cells()) == len(row.HEADINGS)
    assert json.loads(json.dumps(row.describe()))["positions"] == positions


def test_tokens_are_counted_to_the_first_eos_and_texts_compared_up_to_it(config, policy):
    eos, mask = config.eos_id, config.mask_id
    expected = torch.tensor([[7, eos, 9, 9], [7, 8, 9, 9]])
    other = torch.tensor([[7, eos, 8, mask], [7, 8, 9, mask]])
    contenders = [Contender("a", lambda prompts: (first_token(policy.model, prompts, config), expected)[1])]
    contenders.append(Contender("b", lambda prompts: (first_token(policy.model, prompts, config), other)[1]))
    rows = compare(policy, contenders, random_prompts(policy, 2, 3, 0), config)
    assert [row.tokens for row in rows] == [6, 6]
    assert [row.same_text for row in rows] == [1, 0.5]
    assert [row.masks_left for row in rows] == [0, 1]  # what follows EOS is no text


def test_same_text_allows_canvases_of_different_length():
    assert same_text(torch.tensor([[5, 1, 1, 1]]), torch.tensor([[5, 1]]), eos_id=1) == 1
    assert same_text(torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 6]]), eos_id=1) == 0


def test_sampled_texts_are_not_compared(policy, prompts, config):
    rows = compare(policy, ["llada", "ours"], prompts, replace(config, temperature=1.0))
    assert [row.same_text for row in rows] == [None, None]


def test_contenders_take_turns(policy, prompts, config):
    turns = []

    def named(name):
        return Contender(name, lambda ids: (turns.append(name), first_token(policy.model, ids, config)[:, PROMPT:])[1])

    rows = compare(policy, [named("a"), named("b")], prompts, config, repeats=2)
    assert turns == ["a", "b"] * 3  # the first round is untimed
    assert [len(row.seconds) for row in rows] == [2, 2]
    assert rows[0].speed.low == rows[0].speed.high == 1


# ---- prompts --------------------------------------------------------------------------------------------------------


def test_random_prompts_hold_no_special_token(policy):
    ids = random_prompts(policy, 4, 2000, seed=0)
    assert not set(ids.flatten().tolist()) & set(policy.tokenizer.all_special_ids)
    assert torch.equal(ids, random_prompts(policy, 4, 2000, seed=0))


def test_real_prompts_are_padded_and_cut_on_the_left(tokenizer):
    texts = ["1", "1 2 3 4 5 6", "1 2 3"]
    full = [tokenizer(text)["input_ids"] for text in texts]
    pad = tokenizer.pad_token_id
    assert real_prompts(tokenizer, texts, 3, 4, "first").tolist() == [[pad] * 3 + full[0], full[1][-4:],
                                                                       ([pad] * 4 + full[2])[-4:]]  # fmt: skip
    assert real_prompts(tokenizer, texts, 1, len(full[2]), "closest").tolist() == [full[2]]
    with pytest.raises(ConfigError, match="expected at least 4 lines, got 3"):
        real_prompts(tokenizer, texts, 4, 4, "first")


@pytest.mark.parametrize("text", ["no json", '{"question": "a"}', "[1]", '{"question": 1, "answer": "b"}'])
def test_a_file_of_something_else_is_one_clear_error(text, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match="expected a file with lines"):
        read_problems(path)
