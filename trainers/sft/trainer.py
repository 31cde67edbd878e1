"""Supervised fine-tuning of a diffusion model on given completions, see `trainers.sft.objectives`."""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftConfig
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import global_then_local_main_first

from core.masking_strategy import sync_masking_with_nelbo
from core.nelbo import TrajectoryNELBOLoss
from trainers.collating import IGNORED, CanvasCollator
from trainers.distributed.sharding import ShardedTrainer, whole
from trainers.exposure import SCHEDULED, log_follows
from trainers.faults.tolerant import FaultTolerant
from trainers.inputs.model import Model, fitting, handed_to_trl, policy_of
from trainers.inputs.options import UNTAKEN_SFT, options_of, refuse_arguments
from trainers.inputs.rows import check_datasets, data_name, named, prompt_and_completion
from trainers.memory_budget import MemoryBudget
from trainers.models.activations import checkpoint_activations
from trainers.models.experts import ROUTERS
from trainers.models.formats import PromptFormat
from trainers.saving.saving import SelfContained
from trainers.settings.objects import build_loss, build_masking
from trainers.settings.options import ConfigError
from trainers.settings.sft import DiffusionSFTConfig
from trainers.settings.unsupported import check_supported
from trainers.sft.objective import MicroStep
from trainers.sft.objectives import OBJECTIVES


class DiffusionSFTTrainer(SelfContained, ShardedTrainer, FaultTolerant, SFTTrainer):  # pyright: ignore[reportIncompatibleMethodOverride]  TRL takes fewer kinds of data sets than transformers
    """`trl.SFTTrainer` with a diffusion loss, on canvases of fixed length whose tail is EOS (`CanvasCollator`).

    What is redefined of TRL 1.16 and transformers 5, constructors apart, and by which class:

    _prepare_dataset (DiffusionSFTTrainer): texts become tokens in the policy's own format
    compute_loss (DiffusionSFTTrainer): an objective of `trainers.sft.objectives`
    loss_is_scaled_for_ga (DiffusionSFTTrainer): it is not, so transformers divides it by the accumulated micro-steps
    prediction_step (DiffusionSFTTrainer): that loss alone, on the same noise at every evaluation
    training_step (FiniteSteps): no update with a number that is not finite
    train (StopsOnSignals): a signal ends the run with a checkpoint
    train (WholeSaves): cleans up after a kill, and asks for room on the disk
    _prepare_inputs (FiniteSteps): keeps the step's micro-batches, to save them if it fails
    _save_checkpoint (WholeSaves): a checkpoint is there whole or not at all
    _issue_warnings_after_load (WholeSaves): weights that a checkpoint lacks end the run
    _get_output_dir (WholeSaves): where it is written before that
    _push_from_checkpoint (WholeSaves): pushes it from its final place
    save_model (WholeSaves): the same for the final model
    _save (SelfContained): writes the model card, and makes an adapter's directory whole
    create_model_card (SelfContained): no card of TRL's
    create_accelerator_and_postprocess (ShardedTrainer): FSDP2 also on CPU, and refusals of what cannot be sharded

    Args:
        model (`str`, `PreTrainedModel`, `PeftModel` or `Policy`): what to train, as `ImprovedDiffuGRPOTrainer` has it.
        args (`DiffusionSFTConfig`, *optional*): options; by default those of a new config, and ``output_dir`` is
            "{name of the model}-SFT".
        train_dataset (`datasets.Dataset`): rows with ``prompt`` and ``completion``, texts or messages; or with
            ``messages``, of which the last is learned (it is the assistant's) and the others are its prompt. A
            ``text`` alone is refused: it does not say where the completion begins.
        eval_dataset (`datasets.Dataset` or `dict` of them, *optional*): the same.
        processing_class (`PreTrainedTokenizerBase`, *optional*): the tokenizer, by default that of the checkpoint.
        peft_config (`peft.PeftConfig`, *optional*): trains a new adapter instead of all weights.
        kwargs: further arguments of `trl.SFTTrainer` (callbacks, optimizers).

    Raises:
        ConfigError: an argument that cannot be used, in one line; before the model is loaded, where it can be known.
            A completion that does not fit its canvas.

    Example:
        ```python
        rows = [{"prompt": f"{i} + 1 =", "completion": f" {i + 1}"} for i in range(64)]
        args = DiffusionSFTConfig("runs/count", max_completion_length=8, max_timesteps=8, max_steps=10)
        trainer = DiffusionSFTTrainer(model="tiny", args=args, train_dataset=Dataset.from_list(rows))
        trainer.train()
        ```
    """

    args: DiffusionSFTConfig
    train_dataset: Dataset
    trainer_name = "sft"
    loss_is_scaled_for_ga = False
    position_name = "_micro_step"

    def __init__(
        self,
        model: Model,
        args: DiffusionSFTConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ):
        further = refuse_arguments(kwargs, UNTAKEN_SFT)
        args = options_of(DiffusionSFTConfig, args, model, "SFT")
        check_supported(args)
        check_datasets(self.trainer_name, train_dataset, eval_dataset)
        self.policy = policy = policy_of(model, args, processing_class)
        checkpoint_activations(policy, args)
        args.max_length = None  # the canvas is the limit, checked below
        args.remove_unused_columns = False
        args.completion_only_loss = True
        routers = getattr(policy.model.config, ROUTERS, None)
        with handed_to_trl(policy, args):
            super().__init__(
                model=policy.model,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=policy.tokenizer,
                data_collator=CanvasCollator(args.max_completion_length, policy.pad_id, policy.eos_id),
                peft_config=fitting(peft_config, policy),
                **further,
            )
        if routers is not None:  # TRL writes what it trains with over the model's own
            setattr(policy.model.config, ROUTERS, routers)
        self._build_collaborators()
        held_out = {} if args.eval_strategy == "no" else named(self.eval_dataset)
        for rows in (self.train_dataset, *held_out.values()):
            _check_lengths(rows, args.max_completion_length)

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        own = {"form": self.policy.format, "tokenizer": self.policy.tokenizer, "name": data_name(args[-1])}
        with global_then_local_main_first():
            rows = dataset.map(_tokenised, with_indices=True, fn_kwargs=own, desc="Tokenizing")
        return cast(Dataset, super()._prepare_dataset(rows, *args, **kwargs))

    def _build_collaborators(self) -> None:
        """The objects that do the work."""
        args = self.args
        self.nelbo_loss: TrajectoryNELBOLoss = build_loss(args)
        self.masking_strategy = build_masking(args)
        sync_masking_with_nelbo(self.masking_strategy, self.nelbo_loss)
        self.nelbo_loss.states_per_forward = args.states_per_forward
        self.memory = MemoryBudget(args, self.nelbo_loss, self.policy, self.accelerator)
        self.objective = OBJECTIVES[args.prediction_type](args, self.nelbo_loss, self.masking_strategy, self.policy)
        self._micro_step = 0
        self._last_start: float | None = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """In nats per canvas token, on noise drawn for this micro-step."""
        training = model.training
        self.memory.settle(self.model, self._longest_prompt)
        self._log_step_time(training)
        at = self._next_micro_step(model)
        with self._walking(model):
            loss, metrics = self.objective(at, inputs["prompt_ids"], inputs["prompt_mask"], inputs["completion_ids"])
        for name, value in metrics.items():
            self._metrics["train" if training else "eval"][name].append(value)
        return loss

    def _next_micro_step(self, model: nn.Module) -> MicroStep:
        """Where the run stands; it goes on by one."""
        training, step = model.training, self.state.global_step
        where = ("train", step, self._micro_step) if training else ("eval", 0, 0)
        self._micro_step = 0 if self.accelerator.sync_gradients else self._micro_step + 1
        return MicroStep(
            position=(self.args.seed, *where),
            share=self.share,
            step=step if training else None,
            measure=training and log_follows(self.state),
            denoiser=self.policy.denoiser(model),
            walker=self.policy.denoiser(self.accelerator.unwrap_model(model)),
        )

    def _longest_prompt(self) -> int:
        columns = zip(self.train_dataset["input_ids"], self.train_dataset["labels"], strict=True)
        return max(len(ids) - sum(label != IGNORED for label in labels) for ids, labels in columns)

    def _walking(self, model: nn.Module) -> AbstractContextManager[None]:
        """Whole weights where processes make different numbers of forwards, from here to the end of the backward."""
        walks = self.model.training and self.objective.scheduled.active
        return whole(model, resharded=False) if walks and self.is_fsdp_enabled else nullcontext()

    def _log_step_time(self, training: bool) -> None:
        """Seconds from one micro-step's start to the next one's, in runs where part of it goes into rollouts."""
        now = time.perf_counter()
        if training and self.objective.scheduled.active and self._last_start is not None:
            self._metrics["train"][SCHEDULED + "step_seconds"].append(now - self._last_start)
        self._last_start = now if training else None  # an evaluation in between is no part of a step

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Tensor], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """The loss of a batch, nats per canvas token, on the noise of every evaluation; no logits and no labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None


def _tokenised(
    row: dict[str, Any], place: int, form: PromptFormat, tokenizer: PreTrainedTokenizerBase, name: str
) -> dict[str, list[int]]:
    """``input_ids``, and ``completion_mask``, which is 1 on the completion and its end."""
    prompt, completion = form.join(tokenizer, *prompt_and_completion(row, name, place))
    return {"input_ids": prompt + completion, "completion_mask": [0] * len(prompt) + [1] * len(completion)}


def _check_lengths(dataset: Dataset, canvas_length: int) -> None:
    """Completions must fit their canvas, EOS included."""
    lengths = [sum(label != IGNORED for label in labels) for labels in dataset["labels"]]
    too_long = sum(length > canvas_length for length in lengths)
    if too_long:
        raise ConfigError(
            f"generation.max_completion_length={canvas_length}: {too_long} of {len(lengths)} completions are longer; "
            f"the longest has {max(lengths)} tokens with its EOS"
        )
