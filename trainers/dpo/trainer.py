"""Preference training of masked diffusion models: DPO on differences of likelihood bounds, on TRL's trainer.

DPO (Rafailov et al. 2023, 2305.18290) wants log pi(y) - log ref(y) of a preferred text y_w and a rejected one y_l. A
masked diffusion model has an estimate B of a bound in place of log pi (VRPO, Zhu et al. 2025, 2505.19223):

    loss = -log sigmoid(s),  s = beta [ (B_pi(y_w) - B_ref(y_w)) - (B_pi(y_l) - B_ref(y_l)) ]

or another of TRL's losses of the two differences. The states of a text are drawn once, and policy and reference are
scored on the same ones ("antithetic sampling" in VRPO): with equal weights s is exactly 0 and the loss exactly log 2.
-log sigmoid is convex, with a curvature of at most 1/4: noise in s makes the loss too large, by at most Var(s) / 8.
`rewards/margins_standard_error` logs that noise; docs/preferences.md measures it.

The text is the whole canvas, EOS tail included: what the sampler writes and what the bound is of.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftConfig
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput, global_then_local_main_first, use_adapter

from core.alpha_schedule import assert_schedules_consistent, sync_masking_with_nelbo
from core.scoring import Draws
from trainers.distributed.randomness import generator_at
from trainers.distributed.sharding import ShardedTrainer
from trainers.dpo.collating import TEXTS, PairCollator, check_lengths, tokenised
from trainers.faults.tolerant import FaultTolerant
from trainers.inputs.model import Model, fitting, handed_to_trl, policy_of
from trainers.inputs.options import UNTAKEN_DPO, options_of, refuse_arguments
from trainers.inputs.rows import check_datasets, data_name, named
from trainers.models.activations import checkpoint_activations
from trainers.models.adapters import REFERENCE, match_reference
from trainers.models.dropout import disable_dropout
from trainers.models.reference import frozen_copy
from trainers.saving.saving import SelfContained
from trainers.settings.dpo import UNSUPPORTED_DPO, DiffusionDPOConfig
from trainers.settings.objects import build_likelihood, build_masking
from trainers.settings.unsupported import refuse

# What TRL reads off left-to-right logits; masked states have none of the sort, and nothing is better than zeros.
NOT_MEASURED = ("entropy", "mean_token_accuracy", "logits/chosen", "logits/rejected")


class DiffusionDPOTrainer(SelfContained, ShardedTrainer, FaultTolerant, DPOTrainer):  # pyright: ignore[reportIncompatibleMethodOverride]  TRL takes fewer kinds of data sets than transformers
    """`trl.DPOTrainer` for a masked diffusion model, on canvases of fixed length whose tail is EOS (`PairCollator`).

    TRL keeps data preparation, losses, reference model, PEFT, metrics. What is redefined of TRL 1.16 and
    transformers 5, constructors apart, and by which class:

    _prepare_dataset (DiffusionDPOTrainer): texts become tokens in the policy's own format
    _compute_loss (DiffusionDPOTrainer): hands TRL what the policy and the reference say of the drawn states
    _precompute_ref_logps (DiffusionDPOTrainer): there is nothing to do before states are drawn
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
        model (`str`, `PreTrainedModel`, `PeftModel` or `Policy`): what to train, as `ImprovedDiffuGRPOTrainer` has it;
            the reference is what it is now.
        args (`DiffusionDPOConfig`, *optional*): options; by default those of a new config, and ``output_dir`` is
            "{name of the model}-DPO".
        train_dataset (`datasets.Dataset`): rows with ``prompt``, ``chosen`` and ``rejected``, texts or messages; or
            without a prompt, which is then what both begin with.
        eval_dataset (`datasets.Dataset` or `dict` of them, *optional*): the same.
        processing_class (`PreTrainedTokenizerBase`, *optional*): the tokenizer, by default that of the checkpoint.
        peft_config (`peft.PeftConfig`, *optional*): trains a new adapter instead of all weights.
        kwargs: further arguments of `trl.DPOTrainer` (callbacks, optimizers).

    Raises:
        ConfigError: an argument that cannot be used, in one line; before the model is loaded, where it can be known.
            A text that does not fit its canvas.

    Example:
        ```python
        pairs = [{"prompt": f"{i} + 1 =", "chosen": f" {i + 1}", "rejected": f" {i}"} for i in range(64)]
        args = DiffusionDPOConfig("runs/pairs", max_completion_length=8, max_timesteps=8, max_steps=10)
        trainer = DiffusionDPOTrainer(model="tiny", args=args, train_dataset=Dataset.from_list(pairs))
        trainer.train()
        ```
    """

    args: DiffusionDPOConfig
    train_dataset: Dataset
    eval_dataset: Dataset | None
    ref_model: nn.Module | None
    trainer_name = "dpo"
    position_name = "_micro_step"

    def __init__(
        self,
        model: Model,
        args: DiffusionDPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ):
        further = refuse_arguments(kwargs, UNTAKEN_DPO)
        args = options_of(DiffusionDPOConfig, args, model, "DPO")
        refuse(args, UNSUPPORTED_DPO)
        check_datasets(self.trainer_name, train_dataset, eval_dataset)
        self.policy = policy = policy_of(model, args, processing_class)
        adapter = fitting(peft_config, policy)
        args.max_length = None  # the canvas is the limit, checked below
        if args.disable_dropout:
            disable_dropout(policy.model)
        reference = frozen_copy(policy, adapter)
        checkpoint_activations(policy, args)
        with handed_to_trl(policy, args):
            super().__init__(
                model=policy.model,
                ref_model=reference,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=policy.tokenizer,
                data_collator=PairCollator(args.max_completion_length, policy.pad_id, policy.eos_id),
                peft_config=adapter,
                **further,
            )
        match_reference(self.model)
        self._build_collaborators()
        for pairs in (self.train_dataset, *named(self.eval_dataset).values()):
            check_lengths(pairs, args.max_completion_length, policy.eos_ids)

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        own = {"form": self.policy.format, "tokenizer": self.policy.tokenizer, "name": data_name(args[-1])}
        with global_then_local_main_first():
            return dataset.map(tokenised, with_indices=True, fn_kwargs=own, desc="Tokenizing")

    def _build_collaborators(self) -> None:
        """The objects that draw and score, and what TRL is told of them."""
        self.likelihood = build_likelihood(self.args)
        self.likelihood.states_per_forward = self.args.states_per_forward
        self.masking_strategy = build_masking(self.args)
        sync_masking_with_nelbo(self.masking_strategy, self.likelihood)
        self.precompute_ref_logps = True  # TRL reads the reference's from the batch, where `_compute_loss` puts them
        self._micro_step = 0

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        return dataset

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        """TRL's loss, where the log-probabilities of a text are those of its drawn states."""
        assert_schedules_consistent(self.masking_strategy, self.likelihood)
        length = self.args.max_completion_length
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        batch = ids[:, :-length], mask[:, :-length], ids[:, -length:]
        draws = self._draw(len(ids) // 2, ids.size(1) - length)
        policy, entropies = self._state_logps(model, batch, draws)
        with self._reference() as reference:
            of_reference, _ = self._state_logps(reference, batch, draws)
        logps = self._token_logps(policy, entropies, draws, ids.size(1))
        chosen, rejected = self._token_logps(of_reference, entropies, draws, ids.size(1)).sum(dim=1).chunk(2)
        nothing = torch.zeros_like(logps)
        found = FusedCausalLMOutput(log_probs=logps, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())
        scored = {**inputs, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        loss = super()._compute_loss(lambda **_: found, scored, return_outputs)
        self._log_noise(policy.detach() - of_reference, draws)
        return loss

    def _token_logps(self, logps: Tensor, entropies: Tensor, draws: Draws, width: int) -> Tensor:
        """The bound's share of each token at the places where TRL looks for it, (2B, width - 1), from what a model
        says of the states, (2B, M, L)."""
        bound = self.likelihood.combine(logps, entropies, draws).token_bound
        return nn.functional.pad(-bound, (width - bound.size(1) - 1, 0))

    def _draw(self, pairs: int, prompt_length: int) -> Draws:
        """The states of both texts of every pair, chosen ones first; a rank draws its share of the global batch."""
        where = self._next_position()
        texts = TEXTS[:1] if self.args.share_states_in_pairs else TEXTS
        drawn = [
            self.likelihood.draw(
                self.masking_strategy,
                pairs,
                self.args.max_completion_length,
                prompt_length,
                generator_at(self.args.seed, "preferences", *where, text),
                device=self.accelerator.device,
                share=self.share,
            )
            for text in texts
        ]
        return Draws.cat([drawn[0], drawn[-1]])

    def _next_position(self) -> tuple[str | int, ...]:
        """Where the run stands; it goes on by one micro-step. Every evaluation stands at the same place."""
        if not self.model.training:
            return ("eval",)
        where = "train", self.state.global_step, self._micro_step
        self._micro_step = 0 if self.accelerator.sync_gradients else self._micro_step + 1
        return where

    def _state_logps(
        self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies at the scored tokens of every state, (2B, M, L)."""
        return self.likelihood.evaluate_all(self.policy.denoiser(model), *batch, draws, self.args.temperature)

    @contextmanager
    def _reference(self) -> Iterator[nn.Module]:
        """What the run started from, without gradients: a copy, or this model without its adapter (or with a frozen
        copy of it)."""
        model, options = cast(PreTrainedModel, self.model), self.args.gradient_checkpointing_kwargs
        assert not isinstance(options, str)  # transformers has read it
        with torch.no_grad(), disable_gradient_checkpointing(model, options):  # of PeftModel, that of the model inside
            if self.ref_model is not None:
                yield self.ref_model
                return
            model = self.accelerator.unwrap_model(self.model)
            with use_adapter(model, adapter_name=REFERENCE if REFERENCE in model.peft_config else None):
                yield self.model

    def _log_noise(self, ratios: Tensor, draws: Draws) -> None:
        """The Monte-Carlo standard error of a pair's reward margin, root mean square, in place of what TRL could not
        measure.

        Args:
            ratios: log-probabilities of the policy less those of the reference, (2B, M, L).
        """
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name in NOT_MEASURED:
            del metrics[name]
        if self.likelihood.num_groups(ratios.size(1)) == 1:  # one state, or states that hang together, do not tell
            return
        pairs = len(ratios) // 2
        if self.args.share_states_in_pairs:  # the noise of the two texts is not independent: that of their difference
            ratios, draws = ratios[:pairs] - ratios[pairs:], draws.rows(slice(pairs))
        errors = self.likelihood.combine(ratios, torch.zeros_like(ratios), draws).standard_error
        variance = self.beta**2 * errors.square().view(-1, pairs).sum(dim=0)
        metrics["rewards/margins_standard_error"].append(self.share.gather(variance).mean().sqrt().item())
