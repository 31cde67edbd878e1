"""Flow matching on token embeddings: a continuous path from noise to text, its ODE, its loss and its sampler.

A canvas of L tokens is a point z (B, L, d) among the rows of the embedding table E, scaled to root mean square 1 and
never trained through. With e = E[x0] the data and n = E[mask] + s eps the noise,

    z = (1 - sigma) e + sigma n

and sigma at timestep t is the schedule's ``mask_prob(t)``: 1 at T + 1, where all is noise, 0 at -1. The prompt stands
beside the canvas as embeddings of its tokens. The network sees z in place of tokens and predicts a distribution p for
each position; xhat = p E estimates e, and the paths of the flow follow

    dz / dsigma = v = (z - xhat) / sigma

An ODE gives no likelihood of tokens: this is for supervised training and for sampling. Sources: Lipman et al. 2023
(2210.02747) for the objective, ELF (2605.10938) for the flow over embeddings, and core.flow.reflexflow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.alpha_schedule import AlphaSchedule
from core.denoisers.denoiser import EmbeddingDenoiser
from core.flow.reflexflow import ReflexFlow, anti_drift, frequency_compensation, frequency_weight
from core.masking_strategy import MaskingStrategy, uniform
from core.sampling.noise import TOKEN, RowNoise
from core.trajectory import Trajectory, tokens_to_first_eos

MIN_SIGMA = 0.05  # a velocity divides by at least this (JiT, Li & He 2025, 2511.13720: t_eps)


# ---- the path -------------------------------------------------------------------------------------------------------


def interpolate(
    clean: Float[Tensor, "N L d"], noise: Float[Tensor, "N L d"], sigma: Float[Tensor, " N"]
) -> Float[Tensor, "N L d"]:
    """z = (1 - sigma) e + sigma n."""
    sigma = sigma.to(clean.dtype).view(-1, 1, 1)
    return (1 - sigma) * clean + sigma * noise


def velocity(
    z: Float[Tensor, "N L d"], xhat: Float[Tensor, "N L d"], sigma: Float[Tensor, " N"]
) -> Float[Tensor, "N L d"]:
    """v = (z - xhat) / max(sigma, .05), for losses; the ODE itself is integrated without the bound."""
    return (z - xhat) / sigma.clamp(min=MIN_SIGMA).to(z.dtype).view(-1, 1, 1)


@dataclass(frozen=True)
class EmbeddingFlow:
    """A denoiser under given prompts as a function of the canvas's embeddings.

    Attributes:
        denoiser: the model.
        prompt_ids, prompt_mask: left-padded prompts and 0 on their padding, (N, P).
        table: the denoiser's `embedding_table`, (V, d).
        noise_scale: s, the standard deviation of the noise around the mask token's embedding.
    """

    denoiser: EmbeddingDenoiser
    prompt_ids: Int[Tensor, "N P"]
    prompt_mask: Tensor
    table: Float[Tensor, "V d"]
    noise_scale: float

    def rows(self, where: Bool[Tensor, " N"]) -> "EmbeddingFlow":
        """The flow of some rows."""
        return replace(self, prompt_ids=self.prompt_ids[where], prompt_mask=self.prompt_mask[where])

    def noise(self, eps: Float[Tensor, "N L d"]) -> Float[Tensor, "N L d"]:
        """n = E[mask] + s eps."""
        return self.table[self.denoiser.mask_id] + self.noise_scale * eps

    def logits(self, z: Float[Tensor, "N L d"]) -> Float[Tensor, "N L V"]:
        """The posterior of every token of the canvas: one evaluation."""
        embeddings = torch.cat([self.table[self.prompt_ids], z.to(self.table.dtype)], dim=1)
        canvas_mask = self.prompt_mask.new_ones(z.shape[:2])
        attention_mask = torch.cat([self.prompt_mask, canvas_mask], dim=1)
        rows = torch.cat([torch.zeros_like(self.prompt_mask), canvas_mask], dim=1).bool()
        return self.denoiser.logits_from_embeddings(embeddings, attention_mask, rows).unflatten(0, z.shape[:2])

    def expected(self, logits: Float[Tensor, "N L V"]) -> Float[Tensor, "N L d"]:
        """xhat = softmax(logits) E, in float32 whatever autocast says: an ODE adds up its rounding errors."""
        with torch.autocast(logits.device.type, enabled=False):
            return logits.softmax(dim=-1) @ self.table


# ---- the ODE --------------------------------------------------------------------------------------------------------

# (z (B, L, d), sigma (B,), active (B,)) -> xhat (B, L, d); anything finite in rows that are not active.
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
Node = tuple[Tensor, Tensor]  # sigma (B,) and xhat (B, L, d) there


def moments(
    rho: Float[Tensor, " B"],
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """m_k / sigma_s^k with m_k = sigma_t * integral from sigma_t to sigma_s of (s - sigma_s)^k s^-2 ds, k = 0, 1, 2.

    ``rho`` is sigma_t / sigma_s in [0, 1]; rho = 0, the step to the data, needs no special case.
    """
    log_term = torch.special.xlogy(rho, rho)
    return 1 - rho, rho - 1 - log_term, 1 - rho**2 + 2 * log_term


def carry(z: Float[Tensor, "B L d"], to: Float[Tensor, " B"], nodes: list[Node]) -> Float[Tensor, "B L d"]:
    """Solve dz/dsigma = (z - xhat)/sigma exactly for xhat a polynomial in sigma (an exponential integrator).

    z / sigma has the derivative -xhat / sigma^2, so z_t = rho z_s + sum_k c_k m_k for xhat = sum_k c_k (s - s0)^k. The
    polynomial is Newton's through the nodes. A row that is at ``to`` already stays as it is.

    Args:
        z: state at the first node's sigma, (B, L, d).
        to: sigma to arrive at, no larger, (B,).
        nodes: one to three points of the prediction; the first one at z.
    """
    start = nodes[0][0]
    rho = torch.where(start > 0, to / start.clamp(min=torch.finfo(start.dtype).tiny), 1.0)
    m0, m1, m2 = (moment * start**k for k, moment in enumerate(moments(rho)))
    weights = [m0, m1]  # of 1, of (s - s0), and of (s - s0)(s - s1) = (s - s0)^2 + (s0 - s1)(s - s0)
    if len(nodes) == 3:
        weights.append(m2 + (start - nodes[1][0]) * m1)
    arrived = _per_row(rho, z) * z
    for weight, coefficient in zip(weights, _divided_differences(nodes), strict=False):
        arrived = arrived + _per_row(weight, z) * coefficient
    return arrived


def _divided_differences(nodes: list[Node]) -> list[Tensor]:
    """[x0], [x0, x1], [x0, x1, x2] of Newton's interpolation; 0 between nodes that coincide."""
    column, leading = [value for _, value in nodes], []
    for order in range(1, len(nodes) + 1):
        leading.append(column[0])
        gaps = [near - far for (near, _), (far, _) in zip(nodes, nodes[order:], strict=False)]
        column = [
            (near - far) * _per_row(torch.where(gap == 0, 0.0, 1 / gap), near)
            for (near, far), gap in zip(pairwise(column), gaps, strict=True)
        ]
    return leading


def _per_row(value: Float[Tensor, " B"], like: Float[Tensor, "B L d"]) -> Float[Tensor, "B 1 1"]:
    return value.to(like.dtype).view(-1, 1, 1)


def euler(predict: Predict, z: Float[Tensor, "B L d"], sigmas: Float[Tensor, "B S"]) -> Float[Tensor, "B L d"]:
    """xhat constant over a step (DDIM). Order 1."""
    for now, to in pairwise(sigmas.unbind(1)):
        z = carry(z, to, [(now, predict(z, now, to < now))])
    return z


def dpm(predict: Predict, z: Float[Tensor, "B L d"], sigmas: Float[Tensor, "B S"]) -> Float[Tensor, "B L d"]:
    """xhat continued linearly from the last two points (DPM-Solver++ 2M, Lu et al. 2022, 2211.01095). Order 2."""
    nodes: list[Node] = []
    for now, to in pairwise(sigmas.unbind(1)):
        nodes = [(now, predict(z, now, to < now)), *nodes[:1]]
        z = carry(z, to, nodes)
    return z


def unipc(predict: Predict, z: Float[Tensor, "B L d"], sigmas: Float[Tensor, "B S"]) -> Float[Tensor, "B L d"]:
    """`dpm` as predictor; the prediction at the point it reached also redoes the step that led there (UniPC-2).

    The redone step takes the parabola through the new and the last two predictions (Zhao et al. 2023, 2302.04867). The
    same prediction starts the next step: one evaluation a step. The last step is not redone, so z ends where a longer
    walk would be evaluated next. Order 3.
    """
    nodes: list[Node] = []
    before = z
    for now, to in pairwise(sigmas.unbind(1)):
        going = to < now
        reached = (now, predict(z, now, going))
        if nodes:
            z = torch.where(going.view(-1, 1, 1), carry(before, now, [nodes[0], reached, *nodes[1:]]), z)
        nodes = [reached, *nodes[:1]]
        before, z = z, carry(z, to, nodes)
    return z


def rk4(predict: Predict, z: Float[Tensor, "B L d"], sigmas: Float[Tensor, "B S"]) -> Float[Tensor, "B L d"]:
    """The classical Runge-Kutta method on dz/dsigma. Order 4; a step to 0, where v is singular, is `euler`'s."""
    for now, to in pairwise(sigmas.unbind(1)):
        middle, step = (now + to) / 2, _per_row(to - now, z)
        xhat = predict(z, now, to < now)
        arrived = carry(z, to, [(now, xhat)])
        inside = (to > 0) & (to < now)
        if bool(inside.any()):
            k1 = (z - xhat) / _per_row(now.where(inside, 1.0), z)
            k2 = _slope(predict, z + step / 2 * k1, middle, inside)
            k3 = _slope(predict, z + step / 2 * k2, middle, inside)
            k4 = _slope(predict, z + step * k3, to, inside)
            arrived = torch.where(inside.view(-1, 1, 1), z + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4), arrived)
        z = arrived
    return z


def _slope(
    predict: Predict, z: Float[Tensor, "B L d"], sigma: Float[Tensor, " B"], active: Bool[Tensor, " B"]
) -> Float[Tensor, "B L d"]:
    """dz/dsigma in the active rows, something finite in the others."""
    return (z - predict(z, sigma, active)) / _per_row(sigma.where(active, 1.0), z)


# (predict, z (B, L, d), sigmas (B, S + 1)) -> z at the last sigma of each row. sigmas fall along a row; a row that has
# fewer steps than others repeats its last one at the end, and then neither changes nor asks for predictions.
ODE_SOLVERS: dict[str, Callable[[Predict, Tensor, Tensor], Tensor]] = {
    "euler": euler,
    "dpm": dpm,
    "unipc": unipc,
    "rk4": rk4,
}


def levels(schedule: AlphaSchedule) -> Float[Tensor, " S"]:
    """The distinct noise levels of the closed grid, 0 to 1; transitions without width have dropped out."""
    return schedule.mask_prob(torch.tensor(schedule.timesteps)).unique()


def walk(schedule: AlphaSchedule, start: Float[Tensor, " B"], end: Float[Tensor, " B"]) -> Float[Tensor, "B S"]:
    """All levels from ``start`` down to ``end``, both of the grid, row by row; short rows repeat their end."""
    grid = levels(schedule).to(start.device)
    first, last = torch.searchsorted(grid, start.contiguous()), torch.searchsorted(grid, end.contiguous())
    steps = torch.arange(int((first - last).max()) + 1, device=start.device)
    return grid[(first.unsqueeze(1) - steps).maximum(last.unsqueeze(1))]


def roll_out(
    flow: EmbeddingFlow, z: Float[Tensor, "B L d"], sigmas: Float[Tensor, "B S"], solver: str
) -> tuple[Float[Tensor, "B L d"], int]:
    """Let the model carry z down the levels of each row, in eval mode and without gradients.

    Returns:
        z at the end of each row, and the number of evaluations; rows that have arrived take no part in them.
    """
    evaluations = 0

    def predict(z: Tensor, sigma: Tensor, active: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        part, xhat = flow.rows(active), torch.zeros_like(z)
        xhat[active] = part.expected(part.logits(z[active]))
        return xhat

    with flow.denoiser.evaluating():
        arrived = ODE_SOLVERS[solver](predict, z, sigmas)
    return arrived, evaluations


# ---- the sampler ----------------------------------------------------------------------------------------------------


class FlowGenerator:
    """Writes completions by solving the ODE from noise to text over the levels of the schedule.

    Called like `core.generator.DiffusionGenerator`. The tokens are the likeliest ones of the last prediction, all at
    once: there are no commit log-probabilities and the path has no likelihood.

    Args:
        denoiser: the model.
        schedule: the levels of the grid.
        canvas_length: L, tokens.
        solver: a key of `ODE_SOLVERS`.
        noise_scale: s, as in training.
        temperature: of the starting noise; 0 starts from the mask token's embedding alone and is deterministic.
        eos_id: ends a completion; None: the whole canvas is the completion.

    Raises:
        ValueError: unknown solver or impossible values.
    """

    def __init__(
        self,
        denoiser: EmbeddingDenoiser,
        schedule: AlphaSchedule,
        canvas_length: int,
        solver: str = "euler",
        noise_scale: float = 1.0,
        temperature: float = 1.0,
        eos_id: int | None = None,
    ):
        _check_solver("generation.solver", solver)
        _check_noise_scale(noise_scale)
        if temperature < 0:
            raise ValueError(f"generation.temperature={temperature} must be at least 0 (0 starts without noise)")
        self.denoiser, self.schedule, self.canvas_length = denoiser, schedule, canvas_length
        self.solver, self.noise_scale = solver, noise_scale
        self.temperature, self.eos_id = temperature, eos_id

    @torch.no_grad()
    def generate(
        self,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        noise: torch.Generator | Int[Tensor, " B"],
        observe: Callable[[int, Tensor], None] | None = None,
    ) -> Trajectory:
        """Write one completion for each prompt row.

        Args:
            prompt_ids: left-padded prompts, (B, P).
            prompt_mask: 0 on padding, (B, P).
            noise: the only source of randomness: a key for each row, or a generator to draw them from.
            observe: called as ``observe(timestep, ids)`` after each evaluation, with the timestep of the level that
                was evaluated (of the level above, between two) and the likeliest tokens there, (B, L).
        """
        table = self.denoiser.embedding_table()
        flow = EmbeddingFlow(self.denoiser, prompt_ids, prompt_mask, table, self.noise_scale)
        batch, forwards = prompt_ids.size(0), 0
        ids = prompt_ids.new_empty(batch, self.canvas_length)

        def predict(z: Tensor, sigma: Tensor, active: Tensor) -> Tensor:
            nonlocal ids, forwards
            logits = flow.logits(z)
            ids, forwards = logits.argmax(dim=-1), forwards + 1
            if observe is not None:
                observe(int(self.schedule.transition_at(sigma[0])), ids)
            return flow.expected(logits)

        shape, device = (self.canvas_length, table.size(1)), prompt_ids.device
        u = RowNoise(noise, batch, math.prod(shape), device).everywhere(TOKEN) + 2.0**-53  # the middle of its cell
        eps = torch.special.ndtri(u).float().unflatten(1, shape)
        sigmas = levels(self.schedule).flip(0).to(prompt_ids.device).expand(batch, -1)
        ODE_SOLVERS[self.solver](predict, flow.noise(self.temperature * eps), sigmas)
        return Trajectory(
            ids=ids,
            step_map=torch.full_like(ids, forwards - 1),
            commit_logps=torch.zeros(ids.shape, device=ids.device),
            lengths=tokens_to_first_eos(ids, self.eos_id),
            stopped=torch.zeros_like(ids[:, 0], dtype=torch.bool)
            if self.eos_id is None
            else (ids == self.eos_id).any(dim=1),
            forwards=torch.full_like(ids[:, 0], forwards),
            exact=False,
            eos_id=self.eos_id,
        )


def gaussian(*shape: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
    """float32 standard normals, drawn on the generator's device and moved: a seed means the same on every device."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


def _check_solver(option: str, solver: str) -> None:
    if solver not in ODE_SOLVERS:
        raise ValueError(f"{option}={solver!r} is unknown; known: {', '.join(ODE_SOLVERS)}")


def _check_noise_scale(noise_scale: float) -> None:
    if not noise_scale > 0:
        raise ValueError(f"flow_noise_scale={noise_scale} must be above 0")


# ---- the loss -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlowDraws:
    """All randomness of one loss, batch first.

    Attributes:
        timestep: of each of the M states, on the closed grid, (B, M).
        eps: standard normal noise, (B, M, L, d).
        prompt_hidden: masked prompt tokens, (B, M, P).
    """

    timestep: Int[Tensor, "B M"]
    eps: Float[Tensor, "B M L d"]
    prompt_hidden: Bool[Tensor, "B M P"]


@dataclass(frozen=True)
class FlowEstimate:
    """What one scoring pass says; N of the B M states were rolled out, in row-major order.

    Attributes:
        loss: mean over all states of the cross-entropy and, where a state was rolled out, ReflexFlow's two terms, ().
            The loss of a batch is thus the mean of the losses of its rows.
        cross_entropy: nats a token, (B, M).
        anti_drift, frequency_compensation: ReflexFlow's terms without their weights, (N,); (0,) without ReflexFlow.
        exposure_bias: cross-entropy at the rolled-out state minus that at the clean state of the same noise, (N,),
            no gradient; (0,) without ReflexFlow, which pays for the forward that tells.
        rolled_out: states that the model walked to, (B, M).
        forwards: evaluations beside the one with gradient.
    """

    loss: Float[Tensor, ""]
    cross_entropy: Float[Tensor, "B M"]
    anti_drift: Float[Tensor, " N"]
    frequency_compensation: Float[Tensor, " N"]
    exposure_bias: Float[Tensor, " N"]
    rolled_out: Bool[Tensor, "B M"]
    forwards: int


class FlowMatchingLoss:
    """Cross-entropy of the data at noisy embeddings, drawn from the path or walked to by the model itself.

    Args:
        schedule: the noise levels.
        num_draws: M, states per sequence.
        noise_scale: s, standard deviation of the noise around the mask token's embedding.

    Raises:
        ValueError: impossible values.
    """

    def __init__(self, schedule: AlphaSchedule, num_draws: int = 2, noise_scale: float = 1.0):
        if num_draws < 1:
            raise ValueError(f"loss.num_draws={num_draws} must be at least 1")
        _check_noise_scale(noise_scale)
        self.schedule, self.num_draws, self.noise_scale = schedule, num_draws, noise_scale

    def draw(
        self,
        masking: MaskingStrategy,
        batch_size: int,
        canvas_length: int,
        prompt_length: int,
        dim: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> FlowDraws:
        """Draw the states of one loss: timesteps stratified over the width measure, noise, masked prompt tokens.

        Args:
            masking: hides prompt tokens.
            batch_size, canvas_length, prompt_length, dim: B, L, P, d.
            generator: the only source of randomness.
            device: where the draws are to live.
        """
        jitter = uniform(batch_size, self.num_draws, generator=generator, device=device)
        share = (torch.arange(self.num_draws, device=device) + jitter) / self.num_draws
        prompt_u = uniform(batch_size, self.num_draws, prompt_length, generator=generator, device=device)
        return FlowDraws(
            timestep=self.schedule.transition_at(share.clamp(min=torch.finfo(share.dtype).tiny)),
            eps=gaussian(batch_size, self.num_draws, canvas_length, dim, generator=generator, device=device),
            prompt_hidden=masking.hide_prompt(prompt_u),
        )

    def score(
        self,
        denoiser: EmbeddingDenoiser,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        ids: Int[Tensor, "B L"],
        draws: FlowDraws,
        source: Int[Tensor, "B M"] | None = None,
        solver: str = "unipc",
        reflexflow: ReflexFlow | None = None,
        walker: EmbeddingDenoiser | None = None,
    ) -> FlowEstimate:
        """Score the canvas ``ids`` on the states of ``draws``: one forward of B * M rows with gradient.

        A state whose source is noisier than its timestep starts at the source, on the path with the same noise, and
        the model walks it to its timestep, level by level, in eval mode and without gradients.

        Args:
            denoiser: the model.
            prompt_ids, prompt_mask: (B, P), left-padded; padding is 0 in the mask.
            ids: the data, EOS tail included, (B, L).
            draws: from `draw`.
            source: timestep at which each state starts, no less than its own, (B, M); None: nothing is rolled out.
            solver: a key of `ODE_SOLVERS`, for the walk.
            reflexflow: weights of the two further losses at rolled-out states; None: cross-entropy alone.
            walker: the same weights for the forwards without gradient, whose number differs between processes (the
                model beneath its wrappers); None: ``denoiser`` itself.
        """
        _check_solver("scheduled_sampling.sampler", solver)
        walker = denoiser if walker is None else walker
        flow = self._flow(denoiser, prompt_ids, prompt_mask, draws)
        targets = ids.repeat_interleave(self.num_draws, dim=0)  # (B*M, L), as everything from here on
        states, forwards = self._states(replace(flow, denoiser=walker), targets, draws, source, solver)
        reference = None
        if reflexflow is not None and bool(states.moved.any()):
            # In the mode of the forward with gradient, which it is compared with, and before it: DDP broadcasts
            # buffers at the first forward of a step.
            with torch.no_grad():
                reference = replace(flow, denoiser=walker).rows(states.moved).logits(states.on_path[states.moved])
            forwards += 1

        logits = flow.logits(states.z)
        cross_entropy = _cross_entropy(logits, targets)
        total = cross_entropy.sum()
        drift = compensation = bias = cross_entropy.new_zeros(0)
        if reflexflow is not None and reference is not None:
            drift, compensation = _reflex_terms(flow, states, logits[states.moved], reference, reflexflow.alpha)
            bias = (cross_entropy[states.moved] - _cross_entropy(reference, targets[states.moved])).detach()
            total = total + reflexflow.beta1 * drift.sum() + reflexflow.beta2 * compensation.sum()
        return FlowEstimate(
            loss=total / len(targets),
            cross_entropy=cross_entropy.view(draws.timestep.shape),
            anti_drift=drift,
            frequency_compensation=compensation,
            exposure_bias=bias,
            rolled_out=states.moved.view(draws.timestep.shape),
            forwards=forwards,
        )

    def _flow(
        self, denoiser: EmbeddingDenoiser, prompt_ids: Int[Tensor, "B P"], prompt_mask: Tensor, draws: FlowDraws
    ) -> EmbeddingFlow:
        """The denoiser under the prompts of all B * M states, their hidden tokens masked."""
        hidden = draws.prompt_hidden & prompt_mask.bool().unsqueeze(1)
        prompts = torch.where(hidden, denoiser.mask_id, prompt_ids.unsqueeze(1)).flatten(0, 1)
        attention_mask = prompt_mask.repeat_interleave(self.num_draws, dim=0)
        return EmbeddingFlow(denoiser, prompts, attention_mask, denoiser.embedding_table(), self.noise_scale)

    def _states(
        self,
        flow: EmbeddingFlow,
        targets: Int[Tensor, "N L"],
        draws: FlowDraws,
        source: Int[Tensor, "B M"] | None,
        solver: str,
    ) -> tuple["_States", int]:
        """The states to train at, and the evaluations spent on walking to them."""
        clean, noise = flow.table[targets], flow.noise(draws.eps.flatten(0, 1))
        sigma = self.schedule.mask_prob(draws.timestep).flatten()
        start = sigma if source is None else self.schedule.mask_prob(source).flatten()
        if bool((start < sigma).any()):
            raise ValueError("a rollout goes from noise to data: its source must be at least its timestep")
        on_path, moved = interpolate(clean, noise, sigma), start > sigma
        z, forwards = on_path, 0
        if bool(moved.any()):
            begin = interpolate(clean[moved], noise[moved], start[moved])  # the same noise, at the source
            levels_down = walk(self.schedule, start[moved], sigma[moved])
            arrived, forwards = roll_out(flow.rows(moved), begin, levels_down, solver)
            z = on_path.masked_scatter(moved.view(-1, 1, 1), arrived)
        return _States(clean, on_path, z, sigma, moved), forwards


@dataclass(frozen=True)
class _States:
    """N states: the data, z on the path from it, z as the network gets it, sigma, and where the two z differ."""

    clean: Float[Tensor, "N L d"]
    on_path: Float[Tensor, "N L d"]
    z: Float[Tensor, "N L d"]
    sigma: Float[Tensor, " N"]
    moved: Bool[Tensor, " N"]


def _cross_entropy(logits: Float[Tensor, "N L V"], targets: Int[Tensor, "N L"]) -> Float[Tensor, " N"]:
    """Mean over the canvas of -log p[x0]."""
    return nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(dim=1)


def _reflex_terms(
    flow: EmbeddingFlow,
    states: _States,
    logits: Float[Tensor, "R L V"],
    reference: Float[Tensor, "R L V"],
    alpha: float,
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """ADR and FC of the R states that moved, from the logits there and those at the same states of the path."""
    clean, on_path, z, sigma = (part[states.moved] for part in (states.clean, states.on_path, states.z, states.sigma))
    ours = velocity(z, flow.expected(logits), sigma)
    bias = velocity(on_path, flow.expected(reference), sigma) - ours
    compensation = frequency_compensation(ours, velocity(on_path, clean, sigma), frequency_weight(bias, sigma, alpha))
    return anti_drift(ours, z, clean), compensation
