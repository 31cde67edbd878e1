"""A prompt in, a completion out, with the denoising shown step by step.

    python scripts/generate.py configs/trajectory_nelbo_gsm8k.yaml --prompt "Tom has 4 balls and buys 3 more. ..."

Every line is the canvas after one evaluation of the model; new tokens are bold, masked positions are shaded.
"""

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor

from core.generator import DiffusionGenerator
from trainers.distributed.randomness import generator_at
from trainers.evaluating.evaluation import encode_prompts
from trainers.experiment import load_experiment_policy, load_task
from trainers.models.policy import Policy
from trainers.reporting.console import OptionParser, main_or_one_line
from trainers.settings.objects import build_generator, build_loss, build_masking
from trainers.settings.parser import parse

MASK = "░"


def main(argv: list[str]) -> None:
    own = OptionParser()
    own.add_argument("--prompt", default=None, help="the question; unset: the first test problem")
    own.add_argument("--greedy", action="store_true")
    options, rest = own.parse_known_args(argv)
    config = parse(rest)
    args = config.training

    task, splits = load_task(config.task)
    policy = load_experiment_policy(config, splits["train"])
    policy.model.eval()
    style = (config.task.solutions or [])[:1]  # of word problems; other tasks have none
    prompt = splits["test"][0]["prompt"] if options.prompt is None else task.build_prompt(options.prompt, *style)
    loss = build_loss(args)
    sampler: DiffusionGenerator = build_generator(
        args,
        policy.denoiser(),
        loss.schedule,
        build_masking(args),
        policy.tokenizer.eos_token_id,
        temperature=0.0 if options.greedy else args.temperature,
    )

    console = Console(highlight=False)
    console.print(prompt, style="dim")
    previous = torch.full((1, args.max_completion_length), policy.mask_id)

    def show(timestep: int, ids: Tensor) -> None:
        nonlocal previous
        console.print(canvas_line(policy, timestep, ids.cpu(), previous))
        previous = ids.cpu()

    batch = encode_prompts(policy, [prompt])
    noise = generator_at(args.seed, "generate", device=policy.model.device)
    trajectory = sampler.generate(batch["input_ids"], batch["attention_mask"], noise, observe=show)
    text = policy.tokenizer.decode(trajectory.completions()[0], skip_special_tokens=True)
    console.print(Text(text, style="bold"))
    logp = f"log p(path) = {trajectory.commit_logps[0].sum():.3f} nats"
    console.print(
        f"{int(trajectory.forwards[0])} forwards, finish reason {trajectory.finish_reason[0]}, "
        f"{logp if trajectory.exact else 'no exact log-probability of the path under this sampler'}",
        style="dim",
    )


def canvas_line(policy: Policy, timestep: int, ids: Tensor, previous: Tensor) -> Text:
    """The canvas as one line of text."""
    line = Text(f"t={timestep:>3}  ")
    for token, old in zip(ids[0].tolist(), previous[0].tolist(), strict=True):
        if token == policy.mask_id:
            line.append(f"{MASK} ", style="dim")
        else:
            piece = policy.tokenizer.decode([token]).replace("\n", "⏎")
            line.append(f"{piece} ", style="bold" if token != old else "")
    return line


if __name__ == "__main__":
    main_or_one_line(main)
