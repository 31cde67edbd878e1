"""What every script does first: from a parsed config to splits, a policy, a trainer and an evaluator."""

from pathlib import Path
from types import ModuleType

from datasets import Dataset

from core.masking_strategy import sync_masking_with_nelbo
from trainers.adapters import lora_config
from trainers.config import ConfigError, ImprovedDiffuGRPOConfig, TaskArguments, check_block_causal
from trainers.config_parser import ExperimentConfig
from trainers.evaluating.identity import data_hash
from trainers.evaluating.solved import sometimes_solved
from trainers.evaluation import Evaluator
from trainers.grpo import ImprovedDiffuGRPOTrainer
from trainers.models import load_policy
from trainers.objects import build_loss, build_masking
from trainers.policy import Policy
from trainers.provenance import Provenance
from trainers.sft import DiffusionSFTTrainer
from trainers.tasks import TASKS


def load_task(arguments: TaskArguments) -> tuple[ModuleType, dict[str, Dataset]]:
    """The task module and its splits (train, validation, test).

    Raises:
        ConfigError: an unknown task or reward, a missing or malformed data file, impossible sizes.
    """
    if arguments.task_name not in TASKS:
        raise ConfigError(f"task.name={arguments.task_name!r}: expected one of {', '.join(TASKS)}")
    task = TASKS[arguments.task_name]
    unknown = [name for name in arguments.rewards if name not in task.REWARDS]
    if unknown:
        raise ConfigError(f"task.rewards={unknown[0]!r}: expected some of {', '.join(task.REWARDS)}")
    try:
        splits = task.load_splits(
            data_files=arguments.data_files,
            dataset_name=arguments.dataset_name,
            train_size=arguments.train_size,
            validation_size=arguments.validation_size,
            test_size=arguments.test_size,
            seed=arguments.task_seed,
            min_operations=arguments.min_operations,
            max_operations=arguments.max_operations,
            max_number=arguments.max_number,
            training_data=arguments.training_data(),
        )
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    if arguments.sometimes_solved is not None:
        splits["train"] = sometimes_solved(splits["train"], Path(arguments.sometimes_solved))
    return task, splits


def load_experiment_policy(config: ExperimentConfig, train: Dataset) -> Policy:
    """The policy; a fresh tokenizer is trained on the training split."""
    corpus = (prompt + text for prompt, text in zip(train["prompt"], train["completion"], strict=True))
    policy = load_policy(config.model, corpus, config.training.block_length)
    if policy.block_length is not None:  # what its family is, if the config did not say it
        check_block_causal(config.training)
    return policy


def build_trainer(
    config: ExperimentConfig, task: ModuleType, splits: dict[str, Dataset], policy: Policy
) -> ImprovedDiffuGRPOTrainer | DiffusionSFTTrainer:
    """The trainer that the config names, on the task's rewards and splits."""
    args, adapter = config.training, lora_config(config.model, policy.model)
    train, validation = splits["train"], splits["validation"]
    if isinstance(args, ImprovedDiffuGRPOConfig):
        rewards = [task.REWARDS[name] for name in config.task.rewards]
        trainer = ImprovedDiffuGRPOTrainer(policy, rewards, args, train, validation, peft_config=adapter)
    else:
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
            "name": told.task_name,
            "source": local if told.dataset_name is None else f"the hub dataset {told.dataset_name}",
            "dataset": told.dataset_name,
            "splits": {name: {"size": len(rows), "sha256": data_hash(rows)} for name, rows in splits.items()},
        },
        example=splits["test"][0]["prompt"],
    )


def build_evaluator(config: ExperimentConfig, task: ModuleType, problems: Dataset) -> Evaluator:
    """An evaluator on the experiment's own sampler and schedule, with its generation.batch_size if set."""
    args = config.training
    loss, masking = build_loss(args), build_masking(args)
    schedule = sync_masking_with_nelbo(masking, loss)
    batch_size = args.rollout_batch_size or Evaluator.batch_size
    return Evaluator(args, schedule, masking, task, problems, args.seed, batch_size)
