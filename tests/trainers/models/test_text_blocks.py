"""Blocks counted from the start of the text (SDAR, LLaDA2), on a transformer: rollout, cache, replay and loss are of
texts in blocks, wherever their prompts end."""

import pytest
import torch
from loud import loud_llama
from torch import Tensor

from core.denoisers.attention import block_causal
from core.denoisers.denoiser import tempered_logps
from core.generator import DiffusionGenerator
from core.likelihoods.selection_replay import SelectionReplay
from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.sampling import SAMPLERS, draw_keys
from core.sampling.caches import FinishedBlocks
from core.scoring import Draws, predict_states
from core.trajectory import NEVER, Trajectory
from trainers.models.caching import CachedModelDenoiser

V, BLOCK, LENGTH, STEPS = 40, 4, 12, 12
MASK = V - 1
LENGTHS = [9, 8, 7, 6, 3, 1, 2, 5, 4]  # of the prompts: every number of tokens in the last block, some less than one
PROMPTS = torch.randint(0, V - 2, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0))
PADDED = (torch.arange(max(LENGTHS)) >= max(LENGTHS) - torch.tensor(LENGTHS).unsqueeze(1)).long()
MIXED = list(range(len(LENGTHS)))
LEADS = [length % BLOCK for length in LENGTHS]
every_sampler = pytest.mark.parametrize("kind", SAMPLERS)


@pytest.fixture(scope="module")
def denoiser() -> CachedModelDenoiser:
    model = loud_llama(V)
    embedding = model.get_input_embeddings()
    return CachedModelDenoiser(
        model, MASK, head=model.lm_head, embedding=embedding, block_length=BLOCK, prompt_in_blocks=True
    )


def generator(to: CachedModelDenoiser, **options) -> DiffusionGenerator:
    masking = DiffusionMaskingStrategy(0.0, STEPS, "linear", 0.0, 1.0)
    options = {"block_length": BLOCK, "threshold": 0.5, "entropy_bound": 1.0, **options}
    return DiffusionGenerator(to, masking.schedule, masking, LENGTH, **options)


def written(to: CachedModelDenoiser, rows: list[int], observe=None, cut: bool = False, **options) -> Trajectory:
    """Completions of some of the prompts, each with its own key; ``cut``: without columns of padding alone."""
    keys = draw_keys(len(LENGTHS), torch.Generator().manual_seed(1))[rows]
    first = max(LENGTHS) - max(LENGTHS[row] for row in rows) if cut else 0
    return generator(to, **options).generate(PROMPTS[rows, first:], PADDED[rows, first:], keys, observe)


def assert_same(one: Trajectory, two: Trajectory) -> None:
    assert torch.equal(one.ids, two.ids) and torch.equal(one.step_map, two.step_map)
    assert torch.equal(one.forwards, two.forwards) and torch.equal(one.lead, two.lead)
    assert torch.allclose(one.commit_logps, two.commit_logps, atol=1e-4)  # nats; logits of 10 in float32


def in_text(to: CachedModelDenoiser, row: int, per_step: int = 1) -> list[int]:
    """The greedy completion as the models' own loops write it: a text in blocks, no padding, no cache, the likeliest
    of the masked tokens first, so many a step until the block has none."""
    prompt = PROMPTS[row, max(LENGTHS) - LENGTHS[row] :]
    text = torch.cat([prompt, torch.full((LENGTH,), MASK)])
    number = torch.arange(len(text)) // BLOCK
    for block in range(int(number.max()) + 1):
        stop = min((block + 1) * BLOCK, len(text))
        while bool((text[:stop] == MASK).any()):
            visible = (number[:stop, None] >= number[:stop])[None, None]
            logits = to.model(input_ids=text[None, :stop], attention_mask=visible).logits[0]
            logits[:, MASK] = -torch.inf
            sure, tokens = logits.softmax(dim=1).max(dim=1)
            masked = text[:stop] == MASK
            best = sure.masked_fill(~masked, -1).topk(min(per_step, int(masked.sum()))).indices
            text[best] = tokens[best]
    return text[len(prompt) :].tolist()


# ---- rollouts ---------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("per_step", "steps"), [(1, 12), (2, 6), (4, 3)])
@pytest.mark.parametrize("cache", ["exact", "off"])
def test_greedy_texts_are_those_of_a_loop_over_blocks_of_the_text(denoiser, cache, per_step, steps):
    masking = DiffusionMaskingStrategy(0.0, steps, "linear", 0.0, 1.0)
    greedy = {"temperature": 0.0, "selection": "low_confidence", "cache": cache}
    sampler = DiffusionGenerator(denoiser, masking.schedule, masking, LENGTH, BLOCK, **greedy)
    found = sampler.generate(PROMPTS, PADDED, torch.Generator().manual_seed(0)).ids.tolist()
    assert found == [in_text(denoiser, row, per_step) for row in MIXED]


@every_sampler
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("eos_id", [None, 3])
def test_finished_blocks_give_the_uncached_rollout(denoiser, kind, temperature, eos_id):
    options = {"sampler": kind, "temperature": temperature, "eos_id": eos_id}
    cached, whole = (written(denoiser, MIXED, cache=cache, **options) for cache in ("exact", "off"))
    assert_same(cached, whole)
    assert cached.lead.tolist() == LEADS and not bool((cached.ids == MASK).any())


def test_a_commit_fused_with_the_next_block_equals_a_separate_one(denoiser, monkeypatch):
    fused = written(denoiser, MIXED)
    init = FinishedBlocks.__init__
    monkeypatch.setattr(FinishedBlocks, "__init__", lambda self, *args: init(self, *args, fused=False))
    assert_same(written(denoiser, MIXED), fused)


@pytest.mark.parametrize("cache", ["exact", "off"])
@every_sampler
def test_a_row_is_written_as_if_it_were_alone(denoiser, kind, cache):
    mixed = written(denoiser, MIXED, sampler=kind, cache=cache)
    for row in MIXED:
        alone = written(denoiser, [row], sampler=kind, cache=cache, cut=True)
        if SAMPLERS[kind].solves:  # whose steps are counted for all rows together
            assert torch.equal(alone.ids[0], mixed.ids[row])
            assert torch.allclose(alone.commit_logps[0], mixed.commit_logps[row], atol=1e-4)
        else:
            assert_same(alone, mixed[row : row + 1])


def test_rows_of_any_order_are_watched_as_one_batch(denoiser):
    rows, seen = [3, 0, 8, 4, 1], []
    out = written(denoiser, rows, observe=lambda t, ids: seen.append(ids))
    assert_same(out, written(denoiser, sorted(rows))[torch.tensor([sorted(rows).index(row) for row in rows])])
    assert all(ids.shape == out.ids.shape for ids in seen) and torch.equal(seen[-1], out.ids)
    masked = torch.stack([ids == MASK for ids in seen]).long()
    assert int(masked.sum(dim=(1, 2)).diff().max()) < 0, "every call shows more"


def test_the_end_of_a_prompt_is_encoded_again_with_each_state_of_its_block(denoiser):
    """A prompt of 7 with blocks of 4: 4 of it are stored at first, and a block at a time is run."""
    spans = []
    hook = denoiser.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: spans.append(kwargs["input_ids"].size(1)), with_kwargs=True
    )
    with hook:
        written(denoiser, [2], cut=True)
    # a canvas token (with 3 of the prompt), two blocks, and three tokens
    assert spans == [7 + 1, 8, 4, 4, 4, 8, 4, 4, 4, 7, 3, 3]


def test_prompts_that_end_at_other_places_have_no_memory_in_common(denoiser):
    with pytest.raises(ValueError, match=r"prompts end after \[0, 1\] tokens of a block: expected the same number"):
        FinishedBlocks(denoiser, PROMPTS[:2], PADDED[:2])


def test_a_walk_of_the_whole_canvas_is_refused_where_it_is_two_blocks(denoiser):
    masking = DiffusionMaskingStrategy(0.0, 4)
    sampler = DiffusionGenerator(denoiser, masking.schedule, masking, BLOCK, sampler="ancestral")
    canvas, at = torch.zeros(2, BLOCK, dtype=torch.int64), torch.tensor([4, 4])
    with pytest.raises(ValueError, match="prompts end inside of a block"):
        sampler.denoise(PROMPTS[:2], PADDED[:2], canvas, torch.rand(2, BLOCK), at, at - 2, torch.Generator())


# ---- loss ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", ["count_matched", "ancestral", "confidence"])
@pytest.mark.parametrize("eos_id", [None, 3])
@pytest.mark.parametrize("side_by_side", [BLOCK, None])
def test_replay_gives_back_the_recorded_commits(denoiser, kind, eos_id, side_by_side):
    """One law for rollout and loss, at every place where a prompt may end."""
    out = written(denoiser, MIXED, sampler=kind, eos_id=eos_id)
    loss = TrajectoryNELBOLoss(STEPS, source="rollout", replay="all", causal_block_length=side_by_side)
    masking = DiffusionMaskingStrategy(0.0, STEPS)
    draws = loss.draw(masking, *out.ids.shape, PROMPTS.size(1), torch.Generator().manual_seed(0), trajectory=out)
    if side_by_side is not None and eos_id is None:
        assert draws.hidden.size(1) <= BLOCK < int(out.forwards.min()), "a step of every block in each state"
    found = loss.score(denoiser, PROMPTS, PADDED, out.ids, draws)
    assert torch.allclose(found.token_bound, -out.commit_logps, atol=1e-4)
    assert torch.equal(found.token_weight, (out.step_map < NEVER).float())


def test_what_is_drawn_for_a_row_depends_on_no_other(denoiser):
    loss = TrajectoryNELBOLoss(STEPS, source="rollout", replay="drawn", causal_block_length=BLOCK)
    masking, noise = DiffusionMaskingStrategy(0.0, STEPS), torch.Generator()
    for rows in ([0, 5], [1, 1], [1, 2]):
        out = written(denoiser, rows)
        draws = loss.draw(masking, 2, LENGTH, 9, noise.manual_seed(3), trajectory=out)
        alone = loss.draw(masking, 1, LENGTH, 9, noise.manual_seed(3), trajectory=out[:1])
        assert torch.equal(draws.hidden[:1], alone.hidden) and torch.equal(draws.scored[:1], alone.scored)


@torch.no_grad()
def test_selection_replay_chooses_within_the_blocks_of_the_text(denoiser):
    """The candidates of a step are what is masked in the block of the text that it is in."""
    out = written(denoiser, MIXED, selection="low_confidence")
    loss = SelectionReplay(STEPS, "linear", 0.0, 1.0, replay="all", block_length=BLOCK)
    draws = loss.draw(
        DiffusionMaskingStrategy(0.0, STEPS), *out.ids.shape, 9, torch.Generator().manual_seed(0), trajectory=out
    )
    steps = 0
    for row, state in draws.scored.any(dim=2).nonzero().tolist():
        number = (torch.arange(LENGTH) + LENGTHS[row]) // BLOCK
        (own,) = number[draws.scored[row, state]].unique().tolist()
        assert torch.equal(draws.candidates[row, state], draws.hidden[row, state] & (number == own))
        steps += 1
    assert steps == int(out.forwards.sum())
    assert bool(torch.isfinite(loss.score(denoiser, PROMPTS, PADDED, out.ids, draws).per_token_logps).all())


def blocks_alone(to: CachedModelDenoiser, row: int, canvas: Tensor, hidden: Tensor, prompt_hidden: Tensor) -> Tensor:
    """Logits (H, V) of the hidden tokens of one text, each block in a forward of its own behind clean text."""
    prompt = PROMPTS[row, max(LENGTHS) - LENGTHS[row] :].masked_fill(prompt_hidden[-LENGTHS[row] :], MASK)
    parts = []
    for block in generator(to).blocks(LEADS[row]):
        noisy = canvas[: block.stop].clone()
        noisy[block.start :][hidden[block]] = MASK
        rows = torch.zeros(1, len(prompt) + block.stop, dtype=torch.bool)
        rows[0, len(prompt) + block.start :] = hidden[block]
        rule = block_causal(torch.ones(1, len(prompt)), block.stop, BLOCK, prompt_in_blocks=True)
        parts.append(to.logits(torch.cat([prompt, noisy]).unsqueeze(0), rule, rows))
    return torch.cat(parts)


@pytest.mark.parametrize("rows", [*([row] for row in MIXED), MIXED, [1, 8], [6, 1]], ids=str)
@pytest.mark.parametrize("p_mask_prompt", [0.0, 0.4])
def test_one_pass_scores_every_block_as_if_it_stood_alone(denoiser, rows, p_mask_prompt):
    """In values and in gradients; hidden tokens of the prompt are hidden from its blocks' clean copies as well."""
    noise, states = torch.Generator().manual_seed(len(rows)), 2
    canvas = torch.randint(0, V - 2, (len(rows), LENGTH), generator=noise)
    hidden = torch.rand(len(rows), states, LENGTH, generator=noise) < 0.6
    prompt_hidden = torch.rand(len(rows), states, PROMPTS.size(1), generator=noise) < p_mask_prompt
    weight = torch.ones(len(rows), states)
    draws = Draws(hidden, hidden, prompt_hidden, weight=weight, variance_factor=weight[:, 0])
    logits = predict_states(denoiser, PROMPTS[rows], PADDED[rows], canvas, draws, hidden)
    alone = torch.cat(
        [
            blocks_alone(denoiser, row, canvas[i], hidden[i, m], prompt_hidden[i, m])
            for i, row in enumerate(rows)
            for m in range(states)
        ]
    )
    known = [token for token in range(V) if token != MASK]
    assert torch.allclose(logits[:, known], alone[:, known], atol=1e-4)
    tables = denoiser.embedding.weight
    gradients = [torch.autograd.grad(tempered_logps(each, 1.0)[:, 0].sum(), tables)[0] for each in (logits, alone)]
    assert gradients[0].abs().max() > 0.1
    assert torch.allclose(*gradients, atol=2e-3 * float(gradients[1].abs().max()))


def test_prompts_that_fill_their_blocks_are_scored_as_ever(denoiser):
    """Nothing is copied: bit for bit what the loss says of a model whose prompt is one block, as this prompt is."""
    rows, canvas = [8], torch.randint(0, V - 2, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    hidden = torch.rand(1, 2, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.5
    nothing = torch.zeros(1, 2, BLOCK, dtype=torch.bool)
    draws = Draws(hidden, hidden, nothing, weight=torch.ones(1, 2), variance_factor=torch.ones(1))
    prompt = PROMPTS[rows, -BLOCK:], PADDED[rows, -BLOCK:]
    plain = CachedModelDenoiser(denoiser.model, MASK, head=denoiser.head, block_length=BLOCK)
    own, other = (predict_states(each, *prompt, canvas, draws, hidden) for each in (denoiser, plain))
    assert torch.equal(own, other)
