"""Greedy texts are those of the models' own samplers, as the public files write them under the version of transformers
that they were made for. All prompts that a reference holds are tried; needs REAL_MODELS (`real_models`)."""

import re
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from real_models import RealModel, real_models

from core.generator import DiffusionGenerator
from core.masking_strategy import DiffusionMaskingStrategy
from trainers.models.loading import load_policy
from trainers.models.policy import Policy
from trainers.settings.model import ModelArguments

LENGTH = 16  # tokens of the references' completions
DREAM = {"maskgit_plus": "low_confidence", "entropy": "entropy", "topk_margin": "margin"}  # its name -> ours


@cache
def loaded(real: RealModel, block_length: int | None) -> Policy:
    """The policy of a checkpoint, in blocks of so many tokens if it has any."""
    arguments = ModelArguments(model_name_or_path=str(real.path), trust_remote_code=True)
    return load_policy(arguments, block_length=block_length)


def greedy(policy: Policy, prompt: torch.Tensor, length: int, steps: int, top: float = 1.0, **options) -> list[int]:
    """Our completion of (1, P) prompt tokens on a canvas of ``length``, in ``steps`` steps of it."""
    masking, denoiser = DiffusionMaskingStrategy(0.0, steps, "linear", 0.0, top), policy.denoiser()
    # the references forbid the mask token alone; rows without a token, as random as all others, had their share
    getattr(denoiser, "inner", denoiser).never = (slice(policy.mask_id, policy.mask_id + 1),)
    sampler = DiffusionGenerator(denoiser, masking.schedule, masking, length, temperature=0.0, **options)
    with denoiser.evaluating():
        return sampler.generate(prompt, torch.ones_like(prompt), torch.Generator().manual_seed(0)).ids[0].tolist()


def texts(real: RealModel) -> Iterator[tuple[torch.Tensor, str, dict[str, int], list[int]]]:
    """Prompt (1, P), name of the way to sample, the numbers in it, and the model's own completion."""
    prompts = real.reference()["prompts"]
    assert prompts
    for made in prompts.values():
        for way, own in made["out"].items():
            numbers = {name: int(number) for name, number in re.findall(r"(block|steps)(\d+)", way)}
            # LLaDA2's file returns the completion alone, the others the prompt, too
            start = 0 if own.size(1) <= LENGTH else made["ids"].size(1)
            yield made["ids"], way, numbers, own[0, start : start + LENGTH].tolist()


@real_models("llada", "llada_fast", "llada_moe")
def test_llada_writes_what_its_own_sampler_writes(real):
    for prompt, way, numbers, own in texts(real):
        options = {"block_length": numbers["block"], "selection": "low_confidence"}
        assert greedy(loaded(real, None), prompt, LENGTH, numbers["steps"], **options) == own, (way, prompt.size(1))


@real_models("dream", "dream_fast", "dream_dare")
def test_dream_writes_what_its_own_sampler_writes(real):
    for prompt, way, numbers, own in texts(real):
        options = {"counts": "dream", "selection": DREAM[way.rsplit("_", 1)[0]]}
        found = greedy(loaded(real, None), prompt, LENGTH, numbers["steps"], 1 - 1e-3, **options)
        assert found == own, (way, prompt.size(1))


@real_models("sdar", "sdar_dare8b", "sdar_moe", "trado", "llada2", "llada21", "llada2_dllm")
@pytest.mark.parametrize("cache", ["exact", "off"])
def test_models_of_blocks_write_what_their_own_samplers_write(real, cache):
    for prompt, way, numbers, own in texts(real):
        block = numbers["block"]
        # LLaDA2.1's has no such number and reveals a token a step
        steps = block if real.name == "llada21" else numbers["steps"]
        ours_to_reveal = block - prompt.size(1) % block
        if real.family == "sdar" and ours_to_reveal % (block // steps):
            continue  # in the last step of such a block SDAR's reveals more than is masked, and writes over a token
        blocks = LENGTH // block + 1  # theirs goes on to the end of the last block
        options = {"block_length": block, "selection": "low_confidence", "cache": cache}
        found = greedy(loaded(real, block), prompt, blocks * block, blocks * steps, **options)
        assert found[:LENGTH] == own, (way, prompt.size(1))
