"""Generators that a benchmark runs side by side, by the words that name them on the command line.

A *contender* is `DiffusionGenerator` (``ours``), a published sampler of `trainers.benchmarking.peers`, or any function
of a module, with settings of its own.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import yaml
from torch import Tensor

from core.generator import DiffusionGenerator
from core.masking_strategy import DiffusionMaskingStrategy
from trainers.benchmarking.peers import PEERS, Generator, RolloutConfig
from trainers.models.policy import Policy
from trainers.settings.model import ATTENTIONS
from trainers.settings.options import ConfigError

OURS = "ours"
# LLaDA's law, so that greedy text can be compared: uniform counts are the linear schedule from 0 to 1. Its counts are
# ours in every step that commits anything where the steps of a block divide its length or are at least as many.
LLADA_SCHEDULE = {"alpha_schedule": "linear", "alpha_min": 0.0, "alpha_max": 1.0}
LLADA_SAMPLER: dict[str, Any] = {"sampler": "count_matched", "selection": "low_confidence"}
ATTENTION = "attention"  # of `model.attention`: lets the same weights run as a block-causal model
WORK = ("canvas_length", "block_length", "steps", "temperature")  # of `RolloutConfig`, what a contender may set anew


@dataclass(frozen=True)
class Contender:
    """A generator under the name that its row carries; prompts (B, P) to completions (B, L)."""

    name: str
    run: Callable[[Tensor], Tensor]


def contender(spec: str, policy: Policy, config: RolloutConfig) -> Contender:
    """The generator that a word of the command line names.

    Args:
        spec: ``ours``, a key of `PEERS` or ``module:function``, then ``:key=value,key=value`` if it is to differ from
            ``config`` (`WORK`); ``ours`` also takes the keywords of schedule and generator, and ``attention``.
        policy: the model.
        config: what all are asked for.

    Raises:
        ConfigError: an unknown name, keyword or value.
    """
    name, settings = _parse(spec)
    work = {key: settings.pop(key) for key in WORK if key in settings}
    config = replace(config, **work)
    if name == OURS:
        return Contender(spec, _ours(spec, policy, config, settings))
    if settings:
        raise ConfigError(f"--generators {spec}: unknown {next(iter(settings))!r}; known: {', '.join(WORK)}")
    generate = PEERS[name] if name in PEERS else _import(name)
    return Contender(spec, lambda prompt_ids: generate(policy.model, prompt_ids, config)[:, -config.canvas_length :])


def _parse(spec: str) -> tuple[str, dict[str, Any]]:
    """``name:key=value,...`` as the name and the settings, numbers and booleans as YAML reads them."""
    name, _, last = spec.rpartition(":")
    if "=" not in last:
        return spec, {}
    pairs = [part.partition("=") for part in last.split(",")]
    return name, {key: yaml.safe_load(value) for key, _, value in pairs}


def _import(spec: str) -> Generator:
    module, _, function = spec.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, ValueError, AttributeError) as error:
        known = ", ".join((OURS, *PEERS))
        raise ConfigError(f"--generators {spec}: expected {known} or module:function: {error}") from error


def _ours(spec: str, policy: Policy, config: RolloutConfig, settings: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """`DiffusionGenerator`, by default under LLaDA's law."""
    _check_keywords(spec, settings)
    attention = settings.pop(ATTENTION, ATTENTIONS[0])
    if attention not in ATTENTIONS:
        raise ConfigError(f"--generators {spec}: attention={attention!r}: expected one of {', '.join(ATTENTIONS)}")
    ids = torch.zeros(1, 2, dtype=torch.int64, device=policy.model.device)
    with torch.no_grad():
        policy.denoiser().logits(ids, None, ids == 0)  # it looks at a model once, which is no part of a rollout
    if attention == "block_causal":
        policy = replace(policy, block_length=config.block_length)
    try:
        generator = _generator(policy, config, settings)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--generators {spec}: {error}") from error

    def run(prompt_ids: Tensor) -> Tensor:
        noise = torch.Generator(prompt_ids.device).manual_seed(config.seed)
        return generator.generate(prompt_ids, (prompt_ids != config.pad_id).long(), noise).ids

    return run


def _check_keywords(spec: str, settings: dict[str, Any]) -> None:
    keywords = set(inspect.signature(DiffusionGenerator).parameters) - {"denoiser", "schedule", "masking", "eos_id"}
    known = sorted({*keywords, *LLADA_SCHEDULE, *WORK, ATTENTION})
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ConfigError(f"--generators {spec}: unknown {unknown[0]!r}; known: {', '.join(known)}")


def _generator(policy: Policy, config: RolloutConfig, settings: dict[str, Any]) -> DiffusionGenerator:
    """Our generator; ``settings`` are keywords of its schedule and its own.

    Raises:
        ValueError, TypeError: a keyword has a value that is not allowed.
    """
    levels = {key: settings.pop(key, default) for key, default in LLADA_SCHEDULE.items()}
    masking = DiffusionMaskingStrategy(0.0, config.steps, **levels)
    return DiffusionGenerator(
        policy.denoiser(),
        masking.schedule,
        masking,
        canvas_length=config.canvas_length,
        block_length=config.block_length,
        temperature=config.temperature,
        eos_id=config.eos_id,
        **(LLADA_SAMPLER | settings),
    )
