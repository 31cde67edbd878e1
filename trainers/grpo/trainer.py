"""GRPO for masked diffusion language models on TRL's trainer: the seams, and no fork.

TRL keeps advantages, clipping, KL, token and sequence ratios, metrics and logging. What changes is where completions
come from (the denoising loop: `trainers.grpo.rollout`) and what their log-probabilities are (those of the likelihood
in use, `core.likelihoods`, on states that are drawn once: `trainers.grpo.states`). `ImprovedDiffuGRPOTrainer` is the
one place where TRL is overridden for that; the work is done by objects that it holds.
"""

from functools import partial
from typing import Any

from datasets import Dataset
from peft import PeftConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from core.alpha_schedule import assert_schedules_consistent, sync_masking_with_nelbo
from trainers.distributed.sharding import ShardedTrainer
from trainers.exposure import Walks, log_follows
from trainers.faults.tolerant import FaultTolerant
from trainers.grpo.drawing import StateDrawer, roll_and_draw
from trainers.grpo.health import DiagnosticsCallback
from trainers.grpo.metrics import Meter
from trainers.grpo.off_policy import TokenWeights
from trainers.grpo.position import Cadence, Position
from trainers.grpo.recording import RecorderCallback, RolloutRecorder
from trainers.grpo.reference import adopt, untold
from trainers.grpo.resuming import ResumableSampler, RolloutBuffer
from trainers.grpo.rollout import Roller
from trainers.grpo.scoring import Scorer, is_policy
from trainers.grpo.states import OLD, PickedStates, StoredStates, pick
from trainers.grpo.wd1 import wd1_weights
from trainers.inputs.model import Model, fitting, handed_to_trl, policy_of
from trainers.inputs.options import UNTAKEN_GRPO, options_of, refuse_arguments
from trainers.inputs.rows import TRAIN, check_datasets, check_prompts, named
from trainers.memory_budget import MemoryBudget
from trainers.models.activations import checkpoint_activations
from trainers.models.adapters import match_reference
from trainers.models.dropout import disable_dropout
from trainers.models.reference import frozen_copy
from trainers.rewarding.tolerant import FaultTolerantRewards, checked_rewards
from trainers.saving.saving import SelfContained
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.objects import build_likelihood, build_masking, build_scheduled_sampling
from trainers.settings.options import ConfigError
from trainers.settings.spreading import check_spread
from trainers.settings.unsupported import check_supported
from trainers.tasks.messages import Prompt


class ImprovedDiffuGRPOTrainer(SelfContained, ShardedTrainer, FaultTolerantRewards, FaultTolerant, GRPOTrainer):  # pyright: ignore[reportIncompatibleMethodOverride]  TRL takes fewer kinds of data sets than transformers
    """`trl.GRPOTrainer` for a masked diffusion model.

    What is redefined of TRL 1.16 and transformers 5, constructors apart, and by which class:

    _tokenize_prompts (ImprovedDiffuGRPOTrainer): prompts become tokens in the policy's own format
    _generate_single_turn (ImprovedDiffuGRPOTrainer): completions come from the denoising loop
    _generate_and_score_completions (ImprovedDiffuGRPOTrainer): puts the drawn states into the batch
    _generate_and_score_completions (FaultTolerantRewards): logs means of the rewards that are known
    _get_per_token_logps_and_entropies (ImprovedDiffuGRPOTrainer): log-probs are those on the drawn states
    _compute_loss (ImprovedDiffuGRPOTrainer): picks this iteration's states, and weighs tokens by what they stand for
    _calculate_rewards (FaultTolerantRewards): a reward that failed pulls neither way
    training_step (ImprovedDiffuGRPOTrainer): logs where the time went
    training_step (FiniteSteps): no update with a number that is not finite
    evaluate (ImprovedDiffuGRPOTrainer): every evaluation has the same noise
    train (StopsOnSignals): a signal ends the run with a checkpoint
    train (WholeSaves): cleans up after a kill, and asks for room on the disk
    _prepare_inputs (FiniteSteps): keeps the step's micro-batches, to save them if it fails
    _get_train_sampler (ImprovedDiffuGRPOTrainer): a resumed run meets the prompts in the same order
    _save_rng_state (ImprovedDiffuGRPOTrainer): a checkpoint holds the rollout buffer
    _load_rng_state (ImprovedDiffuGRPOTrainer): and a resumed run goes on with it, bit by bit
    _save_checkpoint (WholeSaves): a checkpoint is there whole or not at all
    _issue_warnings_after_load (WholeSaves): weights that a checkpoint lacks end the run
    _get_output_dir (WholeSaves): where it is written before that
    _push_from_checkpoint (WholeSaves): pushes it from its final place
    save_model (WholeSaves): the same for the final model
    _save (SelfContained): writes the model card, and makes an adapter's directory whole
    create_model_card (SelfContained): no card of TRL's
    create_accelerator_and_postprocess (ShardedTrainer): FSDP2 also on CPU, and refusals of what cannot be sharded

    Args:
        model (`str`, `PreTrainedModel`, `PeftModel` or `Policy`): what to train.
            A hub id, a directory or an embedded name ("GSAI-ML/LLaDA-8B-Instruct", "runs/sft/model", "tiny") is
            loaded in float32 unless ``args.model_init_kwargs`` says otherwise; an adapter's directory is merged into
            its base model. A model in memory is examined as one that is loaded. `trainers.load_policy` makes a
            `Policy` with any other option of the model section; it is taken as it is.
        reward_funcs (function, `str` or `PreTrainedModel`, or a list of them): what completions are worth.
            A function gets, by keyword, ``prompts``, ``completions``, ``completion_ids``, every other column of the
            data set and TRL's ``trainer_state``, ``log_extra`` and ``log_metric``, as far as it takes them, and
            returns one number (or None) a completion. It may be a coroutine function. Where prompts are messages,
            completions are too, ``[{"role": "assistant", "content": "..."}]``; else both are texts. What fails is
            left out (`trainers/rewarding/tolerant.py`). A reward model is called as TRL calls it; one that is named is
            loaded with the defaults of transformers.
        args (`ImprovedDiffuGRPOConfig`, *optional*): options; by default those of a new config, and ``output_dir`` is
            "{name of the model}-GRPO".
        train_dataset (`datasets.Dataset`): rows with ``prompt``, a text or messages, and whatever the rewards read.
        eval_dataset (`datasets.Dataset` or `dict` of them, *optional*): the same.
        processing_class (`PreTrainedTokenizerBase`, *optional*): the tokenizer, by default that of the checkpoint.
        peft_config (`peft.PeftConfig`, *optional*): trains a new adapter instead of all weights.
        verify (function, *optional*): (completion, answer) -> a verdict with ``strict``, which is logged as
            ``accuracy/strict``; the rows have a column ``answer`` then.
        reward_time_limit (`float`, *optional*): seconds a call of a reward or of ``verify`` may take.
        kwargs: further arguments of `trl.GRPOTrainer` (callbacks, optimizers, reward_processing_classes).

    Raises:
        ConfigError: an argument that cannot be used, in one line; before the model is loaded, where it can be known.

    Example:
        ```python
        def digits(completions, **kwargs):
            return [sum(character.isdigit() for character in text) / 10 for text in completions]

        trainer = ImprovedDiffuGRPOTrainer(
            model="tiny",
            reward_funcs=digits,
            args=ImprovedDiffuGRPOConfig("runs/digits", max_completion_length=16, max_timesteps=8, max_steps=10),
            train_dataset=Dataset.from_list([{"prompt": f"Say {i}." } for i in range(64)]),
        )
        trainer.train()
        trainer.save_model("runs/digits/model")  # which `model=` takes again
        ```
    """

    args: ImprovedDiffuGRPOConfig
    train_dataset: Dataset
    optimizer: Optimizer | None
    trainer_name = "grpo"
    position_name = "_step"

    def __init__(
        self,
        model: Model,
        reward_funcs: Any,
        args: ImprovedDiffuGRPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ):
        further = refuse_arguments(kwargs, UNTAKEN_GRPO)
        args = options_of(ImprovedDiffuGRPOConfig, args, model, "GRPO")
        check_supported(args)
        check_datasets(self.trainer_name, train_dataset, eval_dataset)
        assert train_dataset is not None
        rewards = checked_rewards(reward_funcs, args, train_dataset.column_names, kwargs.get("verify"))
        _check_size(args, len(train_dataset))
        self.policy = policy = policy_of(model, args, processing_class)
        adapter = fitting(peft_config, policy)
        for name, rows in {TRAIN: train_dataset, **named(eval_dataset)}.items():
            check_prompts(rows, name, partial(policy.format.render, policy.tokenizer))
        self._build_objects(args)
        if args.disable_dropout:
            disable_dropout(policy.model)
        reference = frozen_copy(policy, adapter) if args.beta != 0.0 else None
        checkpoint_activations(policy, args)
        with untold(args, reference), handed_to_trl(policy, args):
            super().__init__(
                model=policy.model,
                reward_funcs=rewards,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=policy.tokenizer,
                peft_config=adapter,
                **further,
            )
        self.eos_token_ids = list(policy.eos_ids)  # TRL takes whatever the checkpoint declares, in any format
        match_reference(self.model)
        self._build_collaborators()
        self.add_callback(DiagnosticsCallback())
        self.add_callback(RecorderCallback(self.recorder))
        if reference is not None:
            check_spread(args, self.strategy)  # again, as TRL was not told of the reference
            adopt(self, args, reference)

    def _build_objects(self, args: ImprovedDiffuGRPOConfig) -> None:
        """Likelihood, masking and walks on one schedule, which need nothing of TRL's."""
        self.likelihood = build_likelihood(args, self.policy.block_length)
        self.masking_strategy = build_masking(args)
        self.schedule = sync_masking_with_nelbo(self.masking_strategy, self.likelihood)
        self.scheduled = build_scheduled_sampling(args)
        self.likelihood.states_per_forward = args.states_per_forward

    def _build_collaborators(self) -> None:
        """The objects that do the work, from the bottom up."""
        args, share, likelihood, masking = self.args, self.share, self.likelihood, self.masking_strategy
        self._stored: StoredStates | None = None  # of the rollout that TRL is scoring
        self._picked: PickedStates | None = None  # of the micro-batch that TRL takes the loss of
        self._eval_batches = 0
        self.cadence, size = Cadence.of(args), args.per_device_train_batch_size
        sequences = size * self.cadence.accumulated * share.processes
        self.meter = Meter(self._metrics, self.position, self.cadence, share, sequences, walks=self.scheduled.active)
        place = self.whole_weights, self.accelerator.device
        self.roller = Roller(args, self.policy, self.schedule, masking, share, *place)
        walks = Walks(self.scheduled, masking, likelihood, args.temperature, size)
        self.drawer = StateDrawer(likelihood, masking, self.cadence, share, walks, self.meter)
        self.scorer = Scorer(self.policy, likelihood, args.temperature, self.meter)
        cap = args.importance_cap if args.rolls_out_off_policy else None
        self.token_weights = TokenWeights(likelihood, self.scorer, self.meter, cap)
        assert args.output_dir is not None  # transformers has a default
        self.recorder = RolloutRecorder(self.policy, args.output_dir, self.cadence, share, args.recorded_rollouts)
        self.memory = MemoryBudget(args, likelihood, self.policy, self.accelerator)

    def position(self) -> Position:
        """Where the run stands."""
        training = self.model.training
        index = self._step if training else self._eval_batches
        return Position(self.args.seed, training, index, self.state.global_step)

    @property
    def evaluations(self) -> int:
        """Of one sequence by the model, in training's rollouts and scoring, on this process."""
        return self.meter.evaluations

    # ---- rollout -------------------------------------------------------------------------------------------------

    def _tokenize_prompts(self, prompts: list[Prompt]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.policy.encode(prompts), None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        assert_schedules_consistent(self.masking_strategy, self.likelihood)
        measure = log_follows(self.state, self.cadence.updates)
        trajectory, self._stored = roll_and_draw(self.roller, self.drawer, prompt_ids, self.position(), measure)
        self.recorder.rolled_out(trajectory, self.position(), self.group_size)
        self.meter.stored(self._stored.replays_exactly)
        return trajectory.completions(), None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.memory.settle(self.model, self._longest_prompt)
        output = super()._generate_and_score_completions(inputs)
        self.recorder.scored(self._logs, self.position(), self.group_size)
        assert self._stored is not None
        if self.args.rolls_out_off_policy and OLD not in output:
            size = self.args.per_device_train_batch_size
            output[OLD] = self.token_weights.old_logps(self.model, output, self._stored, size)
        if self.args.advantage_weighting == "wd1":
            told = output["advantages"], self.unscored, self.group_size, self.args.wd1_psi, self.share
            output["advantages"] = wd1_weights(*told)
        output |= self._stored.to_dict()
        self._stored = None
        if not self.model.training:
            self._eval_batches += 1
        return output

    def _longest_prompt(self) -> int:
        return max(map(len, self._tokenize_prompts(list(self.train_dataset["prompt"]))[0]))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """TRL's evaluation, on the noise of its first one."""
        self._eval_batches = 0
        return super().evaluate(*args, **kwargs)

    # ---- loss ----------------------------------------------------------------------------------------------------

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
        """In the loss: (B, C). Right after the rollout, for old and reference policy: (B, I, 2, C)."""
        prompts = input_ids[:, :-logits_to_keep], attention_mask[:, :-logits_to_keep]
        if self._picked is not None:
            return *self.scorer.in_loss(model, prompts, self._picked, logits_to_keep), None
        assert self._stored is not None
        reuses = self.args.reuse_commit_logps and is_policy(model, self.model, self.accelerator)
        size = batch_size or len(input_ids)
        logps = self.scorer.after_rollout(model, prompts, self._stored, size, reuses)
        return logps[..., :logits_to_keep], None, None

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        inputs, self._picked = pick(inputs, self.cadence.iteration(self.position()))
        # TRL multiplies its completion mask by this one; nothing there needs it to be 0 or 1
        inputs["tool_mask"] = self.token_weights.of(self._picked, inputs["completion_mask"])
        if self.likelihood.ratio == "none":
            inputs.pop(OLD, None)  # TRL then takes the current policy's own: a ratio of 1
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._picked = None
            self.meter.loss_done()

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """TRL's micro-step; its times and, before a row of the log, the gradient's diagnostics go to the meter."""
        loss = super().training_step(*args, **kwargs)
        optimizer = self.optimizer if log_follows(self.state) else None
        self.meter.micro_step_done(self.current_gradient_accumulation_steps, optimizer)
        return loss

    # ---- resuming ------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler:
        inner = super()._get_train_sampler(*args, **kwargs)
        assert isinstance(inner, RepeatSampler)
        return ResumableSampler(inner, lambda: int(self.state.epoch or 0))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        buffer = RolloutBuffer(self._step, self.meter.tokens, self._buffered_inputs)
        buffer.save(output_dir, self.accelerator.process_index)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            buffer = RolloutBuffer.load(checkpoint, self.accelerator.process_index, self.accelerator.device)
            self._step, self.meter.tokens, self._buffered_inputs = buffer.step, buffer.tokens, buffer.buffered_inputs


def _check_size(args: ImprovedDiffuGRPOConfig, prompts: int) -> None:
    """TRL drops a rollout that cannot be filled, and would train on nothing."""
    assert args.generation_batch_size is not None and args.num_generations is not None  # TRL's options settle them
    needed = args.generation_batch_size // args.num_generations
    if prompts < needed:
        raise ConfigError(
            f"task.train_size={prompts}: one rollout takes {needed} prompts "
            f"(generation_batch_size={args.generation_batch_size} / num_generations={args.num_generations})"
        )
