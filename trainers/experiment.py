"""What every script does first: from a parsed config to splits, a policy, a trainer and an evaluator."""

from pathlib import Path

from datasets import Dataset

from core.masking_strategy import sync_masking_with_nelbo
from trainers.dpo.preferences import preference_pairs
from trainers.dpo.trainer import DiffusionDPOTrainer
from trainers.evaluating.evaluation import Evaluator
from trainers.evaluating.identity import data_hash
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.inputs.model import load_for
from trainers.models.adapters import lora_config
from trainers.models.policy import Policy
from trainers.saving.provenance import Provenance
from trainers.settings.config import ExperimentConfig
from trainers.settings.dpo import DiffusionDPOConfig
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.makers import check_made
from trainers.settings.objects import build_loss, build_masking
from trainers.settings.options import ConfigError
from trainers.sft.trainer import DiffusionSFTTrainer
from trainers.task_loading import Task
from trainers.task_loading import find_task as find_task
from trainers.task_loading import load_task as load_task  # the first thing that a script does
from trainers.tasks.messages import text_of


def load_experiment_policy(config: ExperimentConfig, train: Dataset | None = None) -> Policy:
    """The policy, asked in the format that the task section settles.

    Args:
        config: the experiment.
        train: its training split, on which the tokenizer of fresh weights is trained; None where the weights are
            trained ones.

    Raises:
        ConfigError: a model that cannot be loaded.
    """
    check_made(config.model.model_name_or_path, config.config_path)
    columns = () if train is None else zip(train["prompt"], train["completion"], strict=True)
    corpus = (text_of(prompt) + text for prompt, text in columns)
    form = {"chat_template": config.task.chat_template, "system_prompt": config.task.system_prompt}
    return load_for(config.training, config.model, corpus=corpus, **form)


def build_trainer(
    config: ExperimentConfig, task: Task, splits: dict[str, Dataset], policy: Policy
) -> ImprovedDiffuGRPOTrainer | DiffusionSFTTrainer | DiffusionDPOTrainer:
    """The trainer that the config names, on the task's rewards and splits."""
    args, adapter = config.training, lora_config(config.model, policy.model)
    train, validation = splits["train"], splits["validation"]
    if isinstance(args, ImprovedDiffuGRPOConfig):
        if not task.rewards:
            raise ConfigError(
                "task.reward: the data has no answers that its own completions are equal to, with which texts could "
                "be compared; name a reward function of yours (FILE.py:FUNCTION)"
            )
        trainer = ImprovedDiffuGRPOTrainer(
            policy,
            list(task.rewards.values()),
            args,
            train,
            validation,
            peft_config=adapter,
            verify=task.verify,
            reward_time_limit=config.task.reward_time_limit,
        )
    elif isinstance(args, DiffusionDPOConfig):
        if task.verify is None and args.preference_files is None and args.preference_dataset is None:
            raise ConfigError(
                "preferences: own completions are paired by which of them are right, and only rewards judge here: set "
                "preferences.data_files, or task.reward=correctness and a column answer"
            )
        pairs = preference_pairs(config, splits, policy, build_evaluator(config, task, validation))
        trainer = DiffusionDPOTrainer(policy, args, pairs["train"], pairs.get("validation"), peft_config=adapter)
    else:
        if not any(train["completion"]):
            raise ConfigError(
                "trainer=sft: no training text to learn; the data needs a column completion, answer or messages"
            )
        trainer = DiffusionSFTTrainer(policy, args, train, validation, peft_config=adapter)
    trainer.provenance = describe(config, splits, policy)
    return trainer


def describe(config: ExperimentConfig, splits: dict[str, Dataset], policy: Policy) -> Provenance:
    """What a model card says of a model that this experiment trains."""
    told, files = config.task, [Path(name).name for name in config.task.data_files or ()]
    local = f"local files ({', '.join(files)})" if files else "the task's seeded generator"
    return Provenance.of(
        config.training,
        policy.name,
        trainer=config.trainer,
        settings=config.describe(),
        task={
            "name": told.label,
            "source": local if told.dataset_name is None else f"the hub dataset {told.dataset_name}",
            "dataset": told.dataset_name,
            "splits": {name: {"size": len(rows), "sha256": data_hash(rows)} for name, rows in splits.items()},
        },
        example=splits["test"][0]["prompt"],
    )


def build_evaluator(config: ExperimentConfig, task: Task, problems: Dataset) -> Evaluator:
    """An evaluator on the experiment's own sampler and schedule, with its generation.batch_size if set."""
    args = config.training
    loss, masking = build_loss(args), build_masking(args)
    schedule = sync_masking_with_nelbo(masking, loss)
    batch_size = args.rollout_batch_size or Evaluator.batch_size
    return Evaluator(args, schedule, masking, task, problems, args.seed, batch_size, task.judge)
