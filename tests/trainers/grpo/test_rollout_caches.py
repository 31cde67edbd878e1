"""Caches in the rollout: exact ones change nothing, approximate ones change nothing when they are always fresh."""

import pytest
import torch
from loud import loud_llama
from torch import Tensor
from transformers import LlamaForCausalLM

from core.alpha_schedule import AlphaSchedule
from core.denoisers import Denoiser
from core.generator import DiffusionGenerator
from core.masking_strategy import DiffusionMaskingStrategy
from core.sampling import CACHES, SAMPLERS, STALE, draw_keys
from core.sampling.caches import FinishedBlocks
from core.trajectory import Trajectory
from trainers.models.caching import CachedModelDenoiser

V, LENGTH, BLOCK, STEPS = 40, 16, 4, 16
PROMPTS = torch.randint(0, V - 2, (7, 6), generator=torch.Generator().manual_seed(0))
PROMPTS[1] = PROMPTS[0]  # two runs of equal prompts
PROMPTS[4] = PROMPTS[3]
WHOLE = torch.ones_like(PROMPTS)
PADDED = WHOLE.clone()
PADDED[2, :3] = 0
PADDED[5, :2] = 0
every_mask = pytest.mark.parametrize("mask", [WHOLE, PADDED], ids=["whole", "padded"])
every_sampler = pytest.mark.parametrize("kind", SAMPLERS)
BY_STEP = [kind for kind, sampler in SAMPLERS.items() if not sampler.solves]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return loud_llama(V)


class Counting:
    """Positions that the model was run on, call by call: (rows, positions)."""

    def __init__(self, model: LlamaForCausalLM):
        self.seen: list[tuple[int, int]] = []
        self.hook = model.model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module, args, kwargs) -> None:
        self.seen.append(tuple(kwargs["input_ids"].shape))


def denoiser(model: LlamaForCausalLM, causal: bool) -> CachedModelDenoiser:
    block_length = BLOCK if causal else None
    return CachedModelDenoiser(
        model, V - 1, head=model.lm_head, embedding=model.get_input_embeddings(), block_length=block_length
    )


def generator(to: Denoiser, **options) -> DiffusionGenerator:
    masking = DiffusionMaskingStrategy(0.0, STEPS)
    options = {"block_length": BLOCK, "threshold": 0.5, "entropy_bound": 1.0, **options}
    return DiffusionGenerator(to, masking.schedule, masking, LENGTH, **options)


def rollout(model: LlamaForCausalLM, causal: bool, mask: Tensor, seed: int = 1, **options) -> Trajectory:
    keys = draw_keys(len(PROMPTS), torch.Generator().manual_seed(seed))
    return generator(denoiser(model, causal), **options).generate(PROMPTS, mask, keys)


def assert_same(one: Trajectory, two: Trajectory) -> None:
    assert torch.equal(one.ids, two.ids) and torch.equal(one.step_map, two.step_map)
    assert torch.equal(one.forwards, two.forwards)
    assert torch.allclose(one.commit_logps, two.commit_logps, atol=1e-4)  # nats; logits of 10 in float32


# ---- block-causal: exact ------------------------------------------------------------------------------------------


@every_mask
@pytest.mark.parametrize("eos_id", [None, 3])
@every_sampler
def test_finished_blocks_give_the_uncached_rollout(model, kind, eos_id, mask):
    cached, whole = (
        rollout(model, True, mask, sampler=kind, eos_id=eos_id, cache=cache) for cache in ("exact", "off")
    )
    assert_same(cached, whole)
    assert cached.exact == whole.exact == SAMPLERS[kind].final


@pytest.mark.parametrize("kind", BY_STEP)
def test_a_commit_fused_with_the_next_block_equals_a_separate_one(model, kind, monkeypatch):
    fused = rollout(model, True, PADDED, sampler=kind)
    init = FinishedBlocks.__init__
    monkeypatch.setattr(FinishedBlocks, "__init__", lambda self, *args: init(self, *args, fused=False))
    assert_same(rollout(model, True, PADDED, sampler=kind), fused)


def test_finished_blocks_run_the_model_on_a_block_at_a_time(model):
    counting = Counting(model)
    out = rollout(model, True, WHOLE)
    counting.hook.remove()
    evaluations = int(out.forwards[0])
    per_block = evaluations // (LENGTH // BLOCK)
    # five different prompts with their first block once, then blocks; each next one with the finished one before it
    first = [(5, PROMPTS.size(1) + BLOCK)] + [(7, BLOCK)] * (per_block - 1)
    later = [(7, 2 * BLOCK)] + [(7, BLOCK)] * (per_block - 1)
    assert counting.seen == first + later * (LENGTH // BLOCK - 1)


def test_a_block_causal_rollout_does_not_see_what_lies_behind(model):
    """Its greedy text is that of a shorter canvas; a bidirectional one's is not."""
    keys, masking = draw_keys(7, torch.Generator().manual_seed(1)), DiffusionMaskingStrategy(0.0, STEPS)
    for causal in (True, False):
        short, long = (
            DiffusionGenerator(
                denoiser(model, causal),
                masking.schedule,
                masking,
                length,
                BLOCK,
                sampler="confidence",
                temperature=0.0,
            ).generate(PROMPTS, PADDED, keys)
            for length in (LENGTH // 2, LENGTH)
        )
        assert torch.equal(short.ids, long.ids[:, : LENGTH // 2]) == causal


# ---- bidirectional: approximate -----------------------------------------------------------------------------------


@every_mask
@pytest.mark.parametrize("eos_id", [None, 3])
@pytest.mark.parametrize("cache", STALE)
@pytest.mark.parametrize("kind", BY_STEP)
def test_a_cache_that_is_always_fresh_is_exact(model, kind, cache, eos_id, mask):
    options = {"sampler": kind, "eos_id": eos_id}
    fresh, whole = (
        rollout(model, False, mask, cache=cache, cache_refresh=1, **options),
        rollout(model, False, mask, **options),
    )
    assert_same(fresh, whole)
    assert fresh.exact == whole.exact


@pytest.mark.parametrize("cache", STALE)
@pytest.mark.parametrize("refresh", [None, 2, 3])
def test_a_stale_cache_is_another_law_and_says_so(model, refresh, cache):
    stale = rollout(model, False, PADDED, cache=cache, cache_refresh=refresh)
    whole = rollout(model, False, PADDED)
    assert not stale.exact and whole.exact
    assert not torch.allclose(stale.commit_logps, whole.commit_logps, atol=1e-3)
    # until the memory is stale for the first time they agree
    early = (stale.step_map == 0) & (whole.step_map == 0)
    assert torch.equal(stale.step_map == 0, whole.step_map == 0)
    assert torch.allclose(stale.commit_logps[early], whole.commit_logps[early], atol=1e-4)


@pytest.mark.parametrize("cache", STALE)
def test_what_stands_under_the_padding_does_not_show(model, cache, monkeypatch):
    plain = rollout(model, False, PADDED, cache=cache)
    monkeypatch.setitem(globals(), "PROMPTS", torch.where(PADDED.bool(), PROMPTS, PROMPTS + 1))
    assert_same(rollout(model, False, PADDED, cache=cache), plain)


@pytest.mark.parametrize(
    ("cache", "between"), [("prefix", [LENGTH - start for start in range(0, LENGTH, BLOCK)]), ("dual", [BLOCK] * 4)]
)
def test_between_refreshes_the_model_runs_on_the_span(model, cache, between):
    counting = Counting(model)
    out = rollout(model, False, WHOLE, cache=cache)
    counting.hook.remove()
    per_block = int(out.forwards[0]) // 4
    whole = PROMPTS.size(1) + LENGTH
    expected = []
    for block, span in enumerate(between):
        expected += [(7 if block else 5, whole)] + [(7, span)] * (per_block - 1)
    assert counting.seen == expected


@pytest.mark.parametrize(("refresh", "share"), [(1, 1.0), (2, 0.5), (None, 0.25)])
def test_refreshes_come_at_the_interval_asked_for(model, refresh, share):
    counting = Counting(model)
    options = {"sampler": "confidence", "threshold": 1.0}  # one token an evaluation: four evaluations a block
    out = rollout(model, False, WHOLE, cache="dual", cache_refresh=refresh, **options)
    counting.hook.remove()
    assert out.forwards.tolist() == [LENGTH] * 7
    assert sum(positions > BLOCK for _, positions in counting.seen) == share * LENGTH


# ---- errors -------------------------------------------------------------------------------------------------------


class Plain(Denoiser):
    mask_id = V - 1

    def logits(self, ids, attention_mask, rows, position_ids=None):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("causal", "options", "message"),
    [
        (False, {"cache": "fast"}, f"cache='fast'.*{', '.join(CACHES)}"),
        (False, {"cache": "dual", "cache_refresh": 0}, "cache_refresh=0.*at least 1"),
        (False, {"cache": "dual", "sampler": "ancestral"}, "cache='dual'.*count_matched.*'ancestral'"),
        (True, {"cache": "prefix"}, "cache='prefix'.*block-causal.*exact"),
        (True, {"block_length": 8}, "block_length=8.*expected 4"),
        (None, {"cache": "prefix"}, "cache='prefix'.*part of the sequence"),
    ],
)
def test_impossible_caches_are_named(model, causal, options, message):
    to = Plain() if causal is None else denoiser(model, causal)
    with pytest.raises(ValueError, match=message):
        generator(to, **options)


def test_finished_blocks_need_a_block_causal_model(model):
    with pytest.raises(ValueError, match="not block-causal"):
        FinishedBlocks(denoiser(model, causal=False), PROMPTS, WHOLE)


def test_a_plain_denoiser_needs_no_cache():
    masking = DiffusionMaskingStrategy(0.0, 4)
    assert DiffusionGenerator(Plain(), AlphaSchedule(max_timesteps=4), masking, 4).cache == "exact"
