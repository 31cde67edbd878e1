"""What `scripts/benchmark.py` does in each of its modes, given its options."""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import set_seed

from trainers.benchmarking.codes import both_ways, compare_codes
from trainers.benchmarking.contenders import contender
from trainers.benchmarking.losses import Text, compare_losses
from trainers.benchmarking.peers import RolloutConfig
from trainers.benchmarking.prompts import random_prompts, read_problems, real_prompts
from trainers.benchmarking.rollouts import compare_rollouts
from trainers.benchmarking.roofline import PeakMeter
from trainers.benchmarking.shapes import SHAPES, random_policy, saved_policy
from trainers.benchmarking.startup import startup
from trainers.benchmarking.steps import measure_step
from trainers.benchmarking.tables import Row, console_table, machine, write
from trainers.commands import command_line, make_folder
from trainers.models.policy import Policy
from trainers.models.tiny import build_tokenizer
from trainers.saving.environment import environment
from trainers.settings.options import ConfigError


def prepare(chosen: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Where and in what it runs; threads are set, and the folder for the results is made."""
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    if chosen.output is not None:
        make_folder("--output", chosen.output, chosen.output)
    cuda = torch.cuda.is_available()
    if chosen.device == "cuda" and not cuda:
        raise ConfigError("--device cuda: expected cpu, this machine has no CUDA device")
    return torch.device(chosen.device or ("cuda" if cuda else "cpu")), getattr(torch, chosen.dtype)


def rollout(chosen: argparse.Namespace) -> None:
    """Generators by turns on equal prompts."""
    chosen.device, dtype = prepare(chosen)
    texts = [prompt for prompt, _ in read_problems(chosen.data)] if chosen.data else None
    peaks = PeakMeter(chosen.device, dtype)

    rows: list[Row] = []
    for vocabulary in chosen.vocabulary:
        policy = load(chosen, vocabulary)
        config = rollout_config(chosen, policy)
        contenders = [contender(spec, policy, config) for spec in chosen.generators]
        for batch_size in chosen.batch_size:
            count, length = batch_size // chosen.group, chosen.prompt_length
            if texts is None:
                prompt_ids = random_prompts(policy, count, length, chosen.seed)
            else:
                prompt_ids = real_prompts(policy.tokenizer, texts, count, length, chosen.pick)
            prompt_ids = prompt_ids.repeat_interleave(chosen.group, dim=0).to(chosen.device)
            rows += compare_rollouts(
                policy, contenders, prompt_ids, config, peaks, chosen.repeats, memory=not chosen.no_memory
            )
    best = peaks.best
    line = f"peak {best.flops / 1e9:.0f} GFLOP/s and {best.bandwidth / 1e9:.1f} GB/s in this run"
    report(chosen, rows, line, {"peaks": vars(best)})


def code(chosen: argparse.Namespace) -> None:
    """One checkpoint by its own code and as transformers' class, by turns on equal prompts, greedily."""
    chosen.device, _ = prepare(chosen)
    policies = both_ways(chosen.folder, chosen.dtype, chosen.device, chosen.block_length)
    config = rollout_config(chosen, policies[0])
    prompt_ids = random_prompts(policies[0], chosen.batch_size, chosen.prompt_length, chosen.seed).to(chosen.device)
    report(chosen, compare_codes(policies, prompt_ids, config, chosen.repeats), f"{chosen.steps} steps, greedy", {})


def rollout_config(chosen: argparse.Namespace, policy: Policy) -> RolloutConfig:
    """What generators are asked for."""
    return RolloutConfig(
        canvas_length=chosen.canvas_length,
        block_length=chosen.block_length,
        steps=chosen.steps,
        temperature=chosen.temperature,
        mask_id=policy.mask_id,
        eos_id=policy.eos_id,
        pad_id=policy.pad_id,
        seed=chosen.seed,
    )


def loss(chosen: argparse.Namespace) -> None:
    """One likelihood step against full logits."""
    chosen.device, _ = prepare(chosen)
    rows: list[Row] = []
    for vocabulary in chosen.vocabulary:
        policy = load(chosen, vocabulary)
        text = random_text(chosen, policy)
        rows += compare_losses(policy, text, chosen.draws, chosen.share, chosen.repeats, chosen.seed)
    report(chosen, rows, f"masked share {chosen.share:g}", {})


def train(chosen: argparse.Namespace) -> None:
    """A whole training step: score, backward, AdamW."""
    chosen.device, dtype = prepare(chosen)
    peaks = PeakMeter(chosen.device, dtype)
    rows: list[Row] = []
    ways = [
        (trained, again)
        for trained in chosen.trained
        for again in ((False, True) if chosen.checkpointed else (False,))
    ]
    for vocabulary, draws, (trained, again) in product(chosen.vocabulary, chosen.draws, ways):
        policy = load(chosen, vocabulary)
        text, sizes = random_text(chosen, policy), (draws, chosen.share, chosen.lora_r)
        rows.append(measure_step(policy, text, trained, again, *sizes, peaks, chosen.repeats, chosen.seed))
    line = f"masked share {chosen.share:g}, peak {peaks.best.flops / 1e9:.0f} GFLOP/s in this run"
    report(chosen, rows, line, {"peaks": vars(peaks.best)})


def random_text(chosen: argparse.Namespace, policy: Policy) -> Text:
    """Prompts and canvases of random tokens."""
    length = chosen.prompt_length + chosen.canvas_length
    tokens = random_prompts(policy, chosen.batch_size, length, chosen.seed).to(chosen.device)
    return Text(tokens[:, : chosen.prompt_length], tokens[:, chosen.prompt_length :])


def init(chosen: argparse.Namespace) -> None:
    """Save random weights with a tokenizer trained on a file."""
    tokenizer = build_tokenizer(prompt + answer for prompt, answer in read_problems(chosen.data))
    set_seed(chosen.seed)
    policy = random_policy(SHAPES[chosen.shape], chosen.vocabulary, tokenizer)
    policy.model.save_pretrained(chosen.folder)
    policy.tokenizer.save_pretrained(chosen.folder)
    size = sum(weight.numel() for weight in policy.model.parameters())
    Console().print(f"{chosen.folder}: {size / 1e6:.1f}M weights, {len(tokenizer)} tokens", soft_wrap=True)


def load(chosen: argparse.Namespace, vocabulary: int | None) -> Policy:
    """The model to measure; equal seeds give equal weights."""
    set_seed(chosen.seed)
    if chosen.model is not None:
        return saved_policy(chosen.model, vocabulary, getattr(torch, chosen.dtype), chosen.device)
    return random_policy(SHAPES[chosen.shape], vocabulary, dtype=getattr(torch, chosen.dtype), device=chosen.device)


def report(chosen: argparse.Namespace, rows: Sequence[Row], measured: str, record: dict[str, Any]) -> None:
    """The table, with what it takes to repeat it."""
    console = Console()
    header = [
        f"{machine(chosen.device)}, torch {torch.__version__}, {chosen.dtype}, {torch.get_num_threads()} thread(s); "
        f"{measured}; median (least-largest) of {chosen.repeats} by turns; peak MiB beyond the weights",
        f"`{command_line()}`",
    ]
    for line in header:
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    console.print(console_table(rows))
    if chosen.output is not None:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(chosen).items()}
        for path in write(chosen.output, header, record | {"settings": settings, "environment": environment()}, rows):
            console.print(f"written: {path}", soft_wrap=True)


RUN = {"rollout": rollout, "code": code, "loss": loss, "train": train, "init": init, "startup": startup}
