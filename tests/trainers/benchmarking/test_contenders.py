"""Generators by the words that name them."""

from dataclasses import replace

import pytest
import torch
from contending import PROMPT, compare, first_token

from trainers.benchmarking.contenders import contender
from trainers.settings.options import ConfigError


def test_a_function_of_a_module_runs_on_the_same_weights(policy, prompts, config):
    name = f"{first_token.__module__}:first_token"
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
