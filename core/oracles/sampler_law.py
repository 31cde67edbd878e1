"""The oracle of the samplers: the exact probability of given completions under the `DiffusionGenerator` in use.

`core.oracles.exact` enumerates what the ancestral sampler may reveal; here a transition is whatever the production
generator
does at that timestep: its own grid, counts, blocks and selection rule. A state on the way to a completion is a set of
masked positions (bit numbers as in `core.oracles.exact.subsets`), so

    f_t(A) = sum over B inside A of P(exactly B is revealed, with the completion's tokens | A is masked) f_to(A - B).

Everything is float64 and differentiable with respect to what the denoiser's logits depend on. Which positions win is a
comparison of scores: it has no gradient except where two scores are equal, and such ties are assumed not to happen.

Canvases of L tokens: 2^L states for every completion (shared between completions), 3^L moves for every transition.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.denoisers.attention import block_causal, leads
from core.denoisers.denoiser import tempered_logps
from core.generator import DiffusionGenerator
from core.oracles.exact import nested_pairs, subsets
from core.sampling import SAMPLERS, SELECTIONS, SOLVERS
from core.sampling.prediction import Prediction
from core.sampling.samplers import ancestral, count_matched
from core.sampling.selection import Selection, entropy, low_confidence, margin, random, top1


def all_completions(tokens: Int[Tensor, " V"], length: int) -> Int[Tensor, "X L"]:
    """All X = V^L canvases over an alphabet, the last position changing fastest."""
    return torch.cartesian_prod(*[tokens] * length).view(-1, length)


@dataclass(frozen=True)
class StateTable:
    """What the denoiser predicts in every state on the way to some completions.

    Attributes:
        completions: token ids, (X, L).
        temperature: of the policy.
        state: row of the tables below that holds the state of each completion and masked set, (X, 2^L).
        masked: the masked positions of each state, (S, L).
        policy_logps: log-probabilities at the policy's temperature at masked positions, 0 at visible ones, (S, L, V).
        logps: the same at temperature 1, which the selection rules look at, (S, L, V).
        lead: tokens of the prompt that are in the first block of the canvas.
    """

    completions: Int[Tensor, "X L"]
    temperature: float
    state: Int[Tensor, "X A"]
    masked: Bool[Tensor, "S L"]
    policy_logps: Float[Tensor, "S L V"]
    logps: Float[Tensor, "S L V"]
    lead: int = 0

    def own(self, logps: Float[Tensor, "S L V"]) -> Float[Tensor, "X A L"]:
        """The entries of one of the two tables for the completions' own tokens."""
        positions = torch.arange(self.completions.size(1), device=logps.device)
        return logps[self.state.unsqueeze(2), positions, self.completions.unsqueeze(1)]

    @cached_property
    def own_policy_logps(self) -> Float[Tensor, "X A L"]:
        """log-probability of each completion's tokens at the policy's temperature, by masked set."""
        return self.own(self.policy_logps)


def state_table(
    generator: DiffusionGenerator, prompt_ids: Int[Tensor, " P"], completions: Int[Tensor, "X L"], chunk: int = 4096
) -> StateTable:
    """Evaluate the generator's denoiser in every state that leads to one of the completions, each state once.

    Args:
        generator: whose denoiser and temperature are asked.
        prompt_ids: the prompt, without padding, (P,).
        completions: token ids, (X, L); all of them (`all_completions`) for sums over the law.
        chunk: states of one forward.

    Raises:
        ValueError: canvases of another length than the generator's, masks in a completion, or greedy decoding.
    """
    if completions.size(1) != generator.canvas_length:
        raise ValueError(
            f"completions of {completions.size(1)} tokens do not fill the generator's canvas_length="
            f"{generator.canvas_length}"
        )
    mask_id = generator.denoiser.mask_id
    if bool((completions == mask_id).any()):
        raise ValueError(f"completions contain the mask token {mask_id}: only finished canvases have a likelihood")
    if generator.temperature == 0:
        raise ValueError("generation.temperature=0 is greedy and gives one completion; the law needs it above 0")
    sets = subsets(completions.size(1)).to(completions.device)
    canvases = torch.where(sets, mask_id, completions.unsqueeze(1)).flatten(0, 1)  # (X * 2^L, L)
    canvases, state = canvases.unique(dim=0, return_inverse=True)
    masked = canvases == mask_id
    asked = masked.any(dim=1)
    states = torch.cat([prompt_ids.expand(canvases.size(0), -1), canvases], dim=1)[asked]
    rows = torch.cat([masked.new_zeros(len(masked), prompt_ids.size(0)), masked], dim=1)[asked]
    denoiser, whole_prompt = generator.denoiser, torch.ones_like(prompt_ids).unsqueeze(0)
    length, visible = denoiser.block_length, None
    if length is not None:
        visible = block_causal(whole_prompt, completions.size(1), length, denoiser.prompt_in_blocks)
    logits = torch.cat(
        [
            denoiser.logits(part, None if visible is None else visible.expand(len(part), -1, -1), part_rows).double()
            for part, part_rows in zip(states.split(chunk), rows.split(chunk), strict=True)
        ]
    )

    def table(logps: Tensor) -> Tensor:
        empty = logps.new_zeros(*masked.shape, logps.size(1))
        return empty.masked_scatter(masked.unsqueeze(2), logps)

    return StateTable(
        completions=completions,
        temperature=generator.temperature,
        state=state.view(completions.size(0), -1),
        masked=masked,
        policy_logps=table(tempered_logps(logits, generator.temperature)),
        logps=table(tempered_logps(logits, 1.0)),
        lead=int(leads(whole_prompt, denoiser.text_block)),
    )


@dataclass(frozen=True)
class Moves:
    """Ways to go on inside a block: A is masked, B inside A is revealed with the completion's tokens.

    Attributes:
        table: the states.
        block: the positions of the block, (L,).
        whole: A, later blocks included, as bit numbers, (n,).
        part: B, as bit numbers, (n,).
    """

    table: StateTable
    block: Bool[Tensor, " L"]
    whole: Int[Tensor, " n"]
    part: Int[Tensor, " n"]

    @property
    def revealed(self) -> Bool[Tensor, "n L"]:
        """The positions of B."""
        return subsets(len(self.block)).to(self.part.device)[self.part]

    @property
    def kept(self) -> Bool[Tensor, "n L"]:
        """The positions of the block that stay masked."""
        return subsets(len(self.block)).to(self.part.device)[self.whole - self.part] & self.block

    @cached_property
    def token_probability(self) -> Float[Tensor, "X n"]:
        """Probability that the positions of B draw the completion's tokens."""
        return (self.table.own_policy_logps[:, self.whole] * self.revealed).sum(dim=2).exp()

    def of_size(self, masked: int, left: int) -> "Moves":
        """Those that start with so many masked tokens in the block and leave so many."""
        kept = self.kept.sum(dim=1)
        fits = (kept == left) & (kept + self.revealed.sum(dim=1) == masked)
        return Moves(self.table, self.block, self.whole[fits], self.part[fits])


# ---- which positions a selection rule reveals: P(B | A is masked, B draws the completion's tokens), (X or 1, n) -----


def best_ranked(moves: Moves, selection: Selection) -> Float[Tensor, "X n"]:
    """1 or 0: the score looks at the distributions alone, so the state decides."""
    table, count = moves.table, int(moves.revealed[0].sum())
    asked = table.masked & moves.block
    logps = table.logps.detach()[asked]
    scores = torch.full(asked.shape, float("-inf"), dtype=logps.dtype, device=logps.device)
    scores[asked] = selection.score(Prediction(logps, 1.0, u=None), lambda: scores)
    chosen = (1 << scores.topk(count, dim=1).indices).sum(dim=1)  # (S,), as bit numbers
    return (chosen[table.state[:, moves.whole]] == moves.part).double()


def uniformly_random(moves: Moves, selection: Selection) -> Float[Tensor, "1 n"]:
    """Every subset of the size asked for is equally likely."""
    kept, revealed = moves.kept.sum(dim=1).tolist(), moves.revealed.sum(dim=1).tolist()
    ways = [math.comb(left + count, count) for left, count in zip(kept, revealed, strict=True)]
    return 1 / torch.tensor([ways], dtype=torch.float64, device=moves.part.device)


def best_drawn(moves: Moves, selection: Selection) -> Float[Tensor, "X n"]:
    """B wins iff every other masked position drew a token less likely than the least likely of B's tokens.

    The positions draw independently, at the policy's temperature q, and compare at temperature 1, p: the product over
    j outside B of P(p_j(v) < tau) for v ~ q_j, where tau = min over i in B of p_i(x_i).
    """
    table = moves.table
    own = table.own(table.logps).detach()[:, moves.whole]  # (X, n, L)
    threshold = own.masked_fill(~moves.revealed, float("inf")).amin(dim=2, keepdim=True)
    state = table.state[:, moves.whole]
    probability = torch.ones(state.shape, dtype=torch.float64, device=state.device)
    for position in moves.block.nonzero().flatten().tolist():  # one at a time: all together would be (X, n, L, V)
        below = table.logps.detach()[state, position] < threshold
        lost = (table.policy_logps[state, position].exp() * below).sum(dim=2)
        probability = probability * torch.where(moves.kept[:, position], lost, 1.0)
    return probability


# By the score of the rule, see `core.sampling.selection.SELECTIONS`.
SELECTION_LAWS: dict[Callable, Callable[[Moves, Selection], Tensor]] = {
    low_confidence: best_drawn,
    top1: best_ranked,
    entropy: best_ranked,
    margin: best_ranked,
    random: uniformly_random,
}


# ---- the transitions of a sampler: the moves that it may make, and P(B | A, B's tokens) of each ---------------------


def count_matched_law(
    moves: Moves, generator: DiffusionGenerator, t: int, to: int
) -> tuple[Moves, Float[Tensor, "_ n"]]:
    """From the schedule's count at t to that at ``to``; the selection rule says which."""
    size = int(moves.block.sum())
    moves = moves.of_size(generator.masked_at(t, size), generator.masked_at(to, size))
    return moves, SELECTION_LAWS[generator.selection.score](moves, generator.selection)


def ancestral_law(moves: Moves, generator: DiffusionGenerator, t: int, to: int) -> tuple[Moves, Float[Tensor, "_ n"]]:
    """Each masked token on its own, with the transition's probability."""
    r = generator.schedule.reveal_prob(t, to).to(moves.part.device)  # float64; the powers of a number would be float32
    return moves, (r ** moves.revealed.sum(dim=1) * (1 - r) ** moves.kept.sum(dim=1)).unsqueeze(0)


# By the step of the sampler, see `core.generator.SAMPLERS`. Those that draw a token again have no such recursion.
SAMPLER_LAWS: dict[Callable, Callable[[Moves, DiffusionGenerator, int, int], tuple[Moves, Tensor]]] = {
    count_matched: count_matched_law,
    ancestral: ancestral_law,
}


def log_likelihoods(table: StateTable, generator: DiffusionGenerator) -> Float[Tensor, " X"]:
    """log p(completion | prompt) of every completion of the table under the generator, float64, differentiable.

    Args:
        table: from `state_table`, for this generator or another one with its temperature.
        generator: the sampler; its ``eos_id`` must be None, the law is that of the whole canvas.

    Raises:
        ValueError: a sampler, solver, early stop or temperature for which the recursion or the table does not hold.
    """
    _check(table, generator)
    length, device = table.completions.size(1), table.completions.device
    whole, part = (index.to(device) for index in nested_pairs(length))
    value = torch.zeros(table.state.shape, dtype=torch.float64, device=device)
    value[:, 0] = 1.0
    law, transitions = SAMPLER_LAWS[generator.sampler.step], list(pairwise(generator.grid()))
    for start, stop in ((block.start, block.stop) for block in reversed(generator.blocks(table.lead))):
        inside, later = (1 << stop) - (1 << start), (1 << length) - (1 << stop)
        here = (whole & ~inside == later) & (part & ~inside == 0)
        positions = torch.arange(length, device=device)
        block = (positions >= start) & (positions < stop)
        moves = Moves(table, block, whole[here], part[here])
        for t, to in reversed(transitions):
            used, chosen = law(moves, generator, t, to)
            terms = used.token_probability * chosen * value[:, used.whole - used.part]
            value = torch.zeros_like(value).index_add(1, used.whole, terms)
    return value[:, -1].log()


def expected_reward(logps: Float[Tensor, " X"], rewards: Float[Tensor, " X"]) -> Float[Tensor, ""]:
    """sum_x p(x) R(x); over all completions, its gradient is the policy gradient."""
    return logps.exp() @ rewards.to(logps.dtype)


def _check(table: StateTable, generator: DiffusionGenerator) -> None:
    """Raise a ValueError where `log_likelihoods` would be of another law than the generator's."""
    if generator.sampler.step not in SAMPLER_LAWS:
        known = [name for name, sampler in SAMPLERS.items() if sampler.step in SAMPLER_LAWS]
        raise ValueError(f"generation.sampler has no exact law here; those that have: {', '.join(known)}")
    if generator.sampler.solves and generator.solver is not SOLVERS["euler"]:
        raise ValueError("generation.solver has no exact law here; allowed: euler")
    if generator.sampler.selects and generator.selection.score not in SELECTION_LAWS:
        known = [name for name, rule in SELECTIONS.items() if rule.score in SELECTION_LAWS]
        raise ValueError(f"generation.selection has no exact law here; those that have: {', '.join(known)}")
    if generator.eos_id is not None:
        raise ValueError(f"eos_id={generator.eos_id} stops rows early; the law of the whole canvas needs eos_id=None")
    if (table.temperature, table.completions.size(1)) != (generator.temperature, generator.canvas_length):
        raise ValueError(
            f"the table is for temperature {table.temperature} and {table.completions.size(1)} tokens, the generator "
            f"for temperature {generator.temperature} and {generator.canvas_length} tokens"
        )
