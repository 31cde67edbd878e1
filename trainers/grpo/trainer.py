"""GRPO for masked diffusion language models on TRL's trainer, by four narrow overrides and no fork.

TRL keeps advantages, clipping, KL, token and sequence ratios, metrics and logging. What changes is where completions
come from (`_generate_single_turn`: the denoising loop) and what their log-probabilities are
(`_get_per_token_logps_and_entropies`: those of the likelihood in use, `core.likelihoods`). All randomness
of the likelihood is drawn once per batch and iteration, right after the rollout; it travels in the inputs dictionary
with the batch dimension first, so TRL's own shuffle and split keep it aligned, and old, reference and current policy
are scored
on the same states: with unchanged weights every ratio is exactly 1.
"""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor, nn
from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import pad

from core.alpha_schedule import assert_schedules_consistent, sync_masking_with_nelbo
from core.denoisers.denoiser import ModelDenoiser
from core.sampling.noise import draw_keys
from core.scheduled_sampling import RollOut
from core.scoring import Draws, LikelihoodEstimate, both_signs, by_sign
from core.trajectory import Trajectory
from trainers.distributed.randomness import generator_at
from trainers.distributed.sharding import PARTS, ShardedTrainer
from trainers.exposure import log_follows, rollout_metrics
from trainers.grpo.diagnostics import DiagnosticsCallback
from trainers.grpo.metrics import COMMITS, MeasuredGRPOTrainer
from trainers.grpo.off_policy import truncated_weights
from trainers.memory_budget import settle_memory
from trainers.models.activations import checkpoint_activations
from trainers.models.adapters import match_reference
from trainers.models.dropout import disable_dropout
from trainers.models.policy import Policy
from trainers.rewarding.tolerant import FaultTolerantRewards
from trainers.rollouts import balanced, compiled_body, exchanged, roll_out
from trainers.saving.saving import SelfContained
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.objects import build_generator, build_likelihood, build_masking, build_scheduled_sampling
from trainers.settings.options import ConfigError, require
from trainers.settings.unsupported import check_supported

DRAWS = "draws/"  # prefix of the drawn states in the inputs dictionary
CANVAS = "canvas_ids"  # the whole canvas behind completion_ids, (B, L)


def pad_columns(mask: Tensor, length: int) -> Tensor:
    """A boolean mask (B, C) with False up to the canvas length, (B, L)."""
    return torch.nn.functional.pad(mask, (0, length - mask.size(1)))


class ImprovedDiffuGRPOTrainer(SelfContained, ShardedTrainer, FaultTolerantRewards, MeasuredGRPOTrainer):
    """`trl.GRPOTrainer` for a masked diffusion model.

    Overridden seams of trl 1.16 and why: `_generate_single_turn` (rollouts by `DiffusionGenerator`),
    `_generate_and_score_completions` (puts the drawn states into the batch), `_get_per_token_logps_and_entropies`
    (scores on those states), `_compute_loss` (picks this iteration's states). `_save_rng_state` and `_load_rng_state`
    carry the rollout buffer, `_get_train_sampler` the order of the prompts, so that a resumed run goes on bit by bit.

    Args:
        policy: the model to train.
        reward_funcs: TRL reward functions; what fails is left out (`trainers/rewarding/tolerant.py`).
        args: options.
        train_dataset, eval_dataset: rows with ``prompt`` and whatever the rewards read.
        kwargs: further arguments of `FaultTolerantRewards` (verify, reward_time_limit) and of `trl.GRPOTrainer`
            (callbacks, peft_config, optimizers).
    """

    trainer_name = "grpo"

    def __init__(
        self,
        policy: Policy,
        reward_funcs: list[Any],
        args: ImprovedDiffuGRPOConfig,
        train_dataset: Any,
        eval_dataset: Any = None,
        **kwargs: Any,
    ):
        check_supported(args)
        prompts = args.generation_batch_size // args.num_generations
        if len(train_dataset) < prompts:  # TRL drops a rollout that cannot be filled, and would train on nothing
            raise ConfigError(
                f"task.train_size={len(train_dataset)}: one rollout takes {prompts} prompts "
                f"(generation_batch_size={args.generation_batch_size} / num_generations={args.num_generations})"
            )
        self.policy = policy
        self.likelihood = build_likelihood(args, policy.block_length)
        self.masking_strategy = build_masking(args)
        self.schedule = sync_masking_with_nelbo(self.masking_strategy, self.likelihood)
        self.scheduled = build_scheduled_sampling(args)
        self._pending: dict[str, Any] | None = None  # the rollout being scored by super()
        self._current: dict[str, Any] | None = None  # what `_compute_loss` scores
        self._eval_batches = 0
        self.likelihood.states_per_forward = args.states_per_forward
        self._memory_settled = args.memory_budget_gib is None

        if args.disable_dropout:
            disable_dropout(policy.model)
        # TRL reloads the reference from disk by name, which is not the model in hand once it was changed in memory.
        # And it patches the model's forward, after which a copy would run the original's weights. So: copy first.
        adapted = kwargs.get("peft_config") is not None or isinstance(policy.model, PeftModel)
        full_reference = args.beta != 0.0 and not adapted
        reference = copy.deepcopy(policy.model) if full_reference else None
        checkpoint_activations(policy, args)
        beta, sync_reference = args.beta, args.sync_ref_model
        if reference is not None:
            args.beta, args.sync_ref_model = 0.0, False
        super().__init__(
            model=policy.model,
            reward_funcs=reward_funcs,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=policy.tokenizer,
            **kwargs,
        )
        match_reference(self.model)
        self.add_callback(DiagnosticsCallback())
        if reference is not None:
            args.beta, args.sync_ref_model = beta, sync_reference
            self._adopt_reference(reference)

    def check_sharded(self) -> None:
        super().check_sharded()
        if self.shards_weights:
            require(self.args, "ds3_gather_for_generation", self.args.ds3_gather_for_generation, f"true under {PARTS}")

    def _adopt_reference(self, reference: nn.Module) -> None:
        """What TRL does with a reference model that it loaded itself."""
        if self.shards_weights:
            require(self.args, "sync_ref_model", not self.args.sync_ref_model, f"false under {PARTS}")
        self.beta = self.args.beta
        reference.requires_grad_(False)
        if self.is_deepspeed_enabled:
            self.ref_model = prepare_deepspeed(reference, self.accelerator)
        elif self.is_fsdp_enabled:
            self.ref_model = prepare_fsdp(reference, self.accelerator)
        else:
            self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)
        if self.args.sync_ref_model:
            self.add_callback(SyncRefModelCallback(ref_model=self.ref_model, accelerator=self.accelerator))

    # ---- rollout -------------------------------------------------------------------------------------------------

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], None]:
        """Roll out one completion a prompt row, and draw the states that it will be scored on."""
        assert_schedules_consistent(self.masking_strategy, self.likelihood)
        started = time.perf_counter()
        prompts = [torch.tensor(ids) for ids in prompt_ids]
        padded = pad(prompts, padding_value=self.policy.tokenizer.pad_token_id, padding_side="left")
        mask = pad([torch.ones_like(ids) for ids in prompts], padding_value=0, padding_side="left")
        prompts = padded.to(self.accelerator.device), mask.to(self.accelerator.device)
        with self._sampling() as denoiser:
            trajectory = self._rollout(denoiser, prompt_ids)
            self._log_rollout(trajectory, time.perf_counter() - started)
            canvas, draws = self.likelihood.canvas(trajectory), self._draw(trajectory, padded.size(1))
            if self.scheduled.active and self.model.training:
                draws = [self._roll_out(denoiser, *prompts, canvas, drawn, i) for i, drawn in enumerate(draws)]
        self._pending = {CANVAS: canvas, "draws": Draws.stack(draws), COMMITS: trajectory.commit_logps}
        unmasked = self.args.p_mask_prompt == 0
        self._replays_exactly = self.likelihood.replays_steps and trajectory.exact and unmasked
        return trajectory.completions(), None

    @contextmanager
    def _sampling(self) -> Iterator[ModelDenoiser]:
        """The policy as a sampler calls it: beneath its wrappers, on gathered parameters."""
        with self.whole_weights() as model, compiled_body(model, self.args.compile_rollouts):
            yield self.policy.denoiser(model, self.args.compile_rollouts)

    def _rollout(self, denoiser: ModelDenoiser, prompt_ids: list[list[int]]) -> Trajectory:
        """Denoise in batches, in eval mode. A completion's noise is that of its place in the global batch, so that
        neither batches nor processes show in it; several processes share the prompts out by their lengths."""
        share = self.share
        keys = draw_keys(len(prompt_ids) * share.processes, generator_at(*self._position("rollout")))
        size = self.args.rollout_batch_size or self.args.per_device_train_batch_size
        tokenizer, device = self.policy.tokenizer, self.accelerator.device
        eos_id = tokenizer.eos_token_id
        sampler = build_generator(self.args, denoiser, self.schedule, self.masking_strategy, eos_id=eos_id)
        with denoiser.evaluating():
            if share.processes == 1:
                return roll_out(sampler, prompt_ids, keys, tokenizer.pad_token_id, size, device)
            prompt_ids = gather_object(prompt_ids)
            dealt = balanced(prompt_ids, share.processes, self.args.max_completion_length)
            own = dealt[share.rank]
            part = [prompt_ids[place] for place in own]
            return exchanged(roll_out(sampler, part, keys[own], tokenizer.pad_token_id, size, device), dealt, share)

    def _draw(self, trajectory: Trajectory, prompt_length: int) -> list[Draws]:
        """The states of every iteration over this batch: a rank draws its share of those of the global batch."""
        iterations = self.num_iterations if self.model.training else 1
        batch_size, length = trajectory.ids.shape
        return [
            self.likelihood.draw(
                self.masking_strategy,
                batch_size,
                length,
                prompt_length,
                generator_at(*self._position("states"), i),
                device=trajectory.ids.device,
                trajectory=trajectory,
                share=self.share,
            )
            for i in range(iterations)
        ]

    def _roll_out(
        self,
        denoiser: ModelDenoiser,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        canvas_ids: Tensor,
        draws: Draws,
        iteration: int,
    ) -> Draws:
        """Scheduled sampling of the drawn states, in micro-batches; old, reference and current policy share them."""
        started, size = time.perf_counter(), self.args.per_device_train_batch_size
        noise = generator_at(*self._position("scheduled_sampling"), iteration, 0, device=canvas_ids.device)
        assert draws.timestep is not None
        timestep, at = self.share.gather(draws.timestep), self.state.global_step
        departures = self.scheduled.depart(timestep, self.schedule.max_timesteps, at, noise)
        departures = departures.rows(self.share.own(len(canvas_ids)))
        parts = []
        for start in range(0, len(canvas_ids), size):
            rows = slice(start, start + size)
            parts.append(
                self.scheduled.roll_out(
                    denoiser,
                    self.masking_strategy,
                    prompt_ids[rows],
                    prompt_mask[rows],
                    canvas_ids[rows],
                    draws.rows(rows),
                    at,
                    departures.rows(rows),
                    self.args.temperature,
                )
            )
        rollout = RollOut.cat(parts)
        seconds = time.perf_counter() - started
        self._seconds["scheduled_sampling"] += seconds
        metrics = rollout_metrics(
            rollout,
            self.scheduled,
            self.state.global_step,
            seconds,
            log_follows(self.state, self._steps_per_rollout),
            self.likelihood,
            denoiser,
            (prompt_ids, prompt_mask, canvas_ids),
            self.args.temperature,
            size,
        )
        for name, value in metrics.items():  # ranks may differ in what they have: the main process's are shown
            self._metrics["train"][name].append(value)
        return rollout.draws

    @property
    def _steps_per_rollout(self) -> int:
        """Optimiser steps until the next rollout, at least 1."""
        micro_steps = self.args.steps_per_generation * self.num_iterations
        return max(1, micro_steps // self.args.gradient_accumulation_steps)

    def _position(self, purpose: str) -> tuple[int | str, ...]:
        """Where the run stands: all that its randomness may depend on."""
        if self.model.training:
            return self.args.seed, purpose, "train", self._step
        return self.args.seed, purpose, "eval", self._eval_batches

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch, with the canvas and the drawn states in it."""
        if not self._memory_settled:
            prompts, *_ = self._tokenize_prompts(list(self.train_dataset["prompt"]))
            settle_memory(self, self.likelihood, max(map(len, prompts)))
            self._memory_settled = True
        output = super()._generate_and_score_completions(inputs)
        assert self._pending is not None
        output[CANVAS], output[COMMITS] = self._pending[CANVAS], self._pending[COMMITS]
        if self.args.rolls_out_off_policy and "old_per_token_logps" not in output:
            output["old_per_token_logps"] = self._score_rollout(output)
        if self.args.advantage_weighting == "wd1":
            output["advantages"] = self._wd1_weights(output["advantages"])
        output.update(self._pending["draws"].to_dict(DRAWS))
        self._pending = None
        if not self.model.training:
            self._eval_batches += 1
        return output

    def _score_rollout(self, batch: dict[str, Any]) -> Tensor:
        """What the policy itself says of the rollout just made, where TRL did not ask: (B, I, 2, C)."""
        input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        length, size = batch["completion_ids"].size(1), self.args.per_device_train_batch_size
        with torch.no_grad():
            return self._get_per_token_logps_and_entropies(self.model, input_ids, attention_mask, length, size)[0]

    def _wd1_weights(self, advantages: Tensor) -> Tensor:
        """wd1's weights (Tang et al. 2025, 2507.08838) in place of the advantages of this process's rows, (B,)."""
        rank, size = self.accelerator.process_index, advantages.size(0)
        group = self.num_generations if self.model.training else self.num_generations_eval
        scores = self.args.wd1_psi * self.accelerator.gather(advantages).view(-1, group)
        weights = group * (scores.softmax(dim=1) - (-scores).softmax(dim=1))
        weights = weights.flatten().masked_fill(self.unscored, 0.0)  # nothing is known about these
        return weights[rank * size : (rank + 1) * size]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """TRL's evaluation, on the same noise every time."""
        self._eval_batches = 0
        return super().evaluate(*args, **kwargs)

    # ---- likelihood ----------------------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """Log-probabilities of the completion on the drawn states.

        Right after the rollout (old and reference policy): for every iteration and both signs that an advantage may
        have, (B, I, 2, C), as advantages are not known yet. In the loss: (B, C).
        """
        started = time.perf_counter()
        prompt_ids, prompt_mask = input_ids[:, :-logits_to_keep], attention_mask[:, :-logits_to_keep]
        if self._current is not None:
            estimate = self._score(model, prompt_ids, prompt_mask, self._current[CANVAS], self._current["draws"])
            logps = by_sign(both_signs(estimate), self._current["advantages"])[:, :logits_to_keep]
            self._log_estimate(estimate, logps, self._current)
            self._seconds["scoring"] += time.perf_counter() - started
            return logps, estimate.entropies[:, :logits_to_keep], None

        assert self._pending is not None
        draws: Draws = self._pending["draws"]
        if self.args.reuse_commit_logps and self._replays_exactly and self._is_policy(model):
            return self._recorded_logps(draws)[..., :logits_to_keep], None, None
        size = batch_size or input_ids.size(0)
        logps = []
        for i in range(draws.hidden.size(1)):
            per_iteration = draws.iteration(i)
            for start in range(0, input_ids.size(0), size):
                rows = slice(start, start + size)
                canvas = self._pending[CANVAS][rows]
                estimate = self._score(model, prompt_ids[rows], prompt_mask[rows], canvas, per_iteration.rows(rows))
                logps.append(both_signs(estimate)[:, :, :logits_to_keep])
        self._seconds["scoring"] += time.perf_counter() - started
        chunks = len(logps) // draws.hidden.size(1)
        return torch.stack([torch.cat(logps[i : i + chunks]) for i in range(0, len(logps), chunks)], dim=1), None, None

    def _is_policy(self, model: nn.Module) -> bool:
        """Whether TRL asks for the policy's log-probs, and not for the reference's: another model, or this one without
        its adapter (or with a frozen copy of it, named ref)."""
        model = self.accelerator.unwrap_model(model)
        if model is not self.accelerator.unwrap_model(self.model):
            return False
        if not isinstance(model, PeftModel):
            return True
        status = model.get_model_status()
        return status.enabled is True and status.active_adapters != ["ref"]

    def _recorded_logps(self, draws: Draws) -> Tensor:
        """What the sampler recorded when it drew the tokens, put together as the likelihood does, (B, I, 2, L)."""
        assert self._pending is not None
        commits = self._pending[COMMITS].unsqueeze(1)
        found = []
        for i in range(draws.hidden.size(1)):
            drawn = draws.iteration(i)
            logps = commits * drawn.scored
            found.append(both_signs(self.likelihood.combine(logps, torch.zeros_like(logps), drawn)))
        return torch.stack(found, dim=1)

    def _importance_weights(self, inputs: dict[str, Any], draws: Draws) -> Tensor:
        """What turns tokens of an approximate rollout into those of the policy that made it, (B, C)."""
        old = inputs["old_per_token_logps"]
        width = old.size(1)
        commits, scored = inputs[COMMITS][:, :width], draws.scored.any(dim=1)[:, :width]
        weights = truncated_weights(old, commits, scored, self.args.importance_cap)
        self._log_divergence(old, commits, scored & inputs["completion_mask"].bool())
        return weights

    def _score(
        self, model: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, canvas_ids: Tensor, draws: Draws
    ) -> LikelihoodEstimate:
        if self.model.training:
            self.evaluations += canvas_ids.size(0) * draws.hidden.size(1)
        return self.likelihood.score(
            self.policy.denoiser(model), prompt_ids, prompt_mask, canvas_ids, draws, self.args.temperature
        )

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """TRL's loss on this iteration's states, each scored token weighted by the tokens that it stands for."""
        training = self.model.training
        i = (self._step // self.args.steps_per_generation) % self.num_iterations if training else 0
        inputs = dict(inputs)
        for key in ("old_per_token_logps", "ref_per_token_logps"):
            if key in inputs:
                inputs[key] = by_sign(inputs[key][:, i], inputs["advantages"])
        draws = Draws.from_dict(inputs, DRAWS).iteration(i)
        # TRL multiplies its completion mask by this one; nothing there needs it to be 0 or 1.
        inputs["tool_mask"] = self.likelihood.token_weight(draws)[:, : inputs["completion_ids"].size(1)]
        if self.args.rolls_out_off_policy:
            inputs["tool_mask"] = inputs["tool_mask"] * self._importance_weights(inputs, draws)
        kept = (CANVAS, COMMITS, "advantages", "old_per_token_logps")
        text = pad_columns(inputs["completion_mask"].bool(), inputs[CANVAS].size(1))
        self._current = {"draws": draws, "completion_mask": text, **{key: inputs.get(key) for key in kept}}
        if self.likelihood.ratio == "none":
            inputs.pop("old_per_token_logps", None)  # TRL then takes the current policy's own: a ratio of 1
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._current = None
            self._loss_done = time.perf_counter()
