"""Every contender is asked and counted as told, and texts are compared up to the first EOS."""

import json
from dataclasses import replace

import pytest
import torch
from contending import PROMPT, compare, first_token

from trainers.benchmarking.contenders import Contender
from trainers.benchmarking.prompts import random_prompts
from trainers.benchmarking.rollouts import same_text


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
