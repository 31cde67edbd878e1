"""A prompt in, a completion out, with the denoising shown step by step.

    python scripts/generate.py configs/trajectory_nelbo_gsm8k.yaml --prompt "Tom has 4 balls and buys 3 more. ..."

Every line is the canvas after one evaluation of the model; new tokens are bold, masked positions are shaded. `--html
FILE` also writes a page that plays it.
"""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from trainers.commands import OptionParser, main_or_one_line
from trainers.settings.parser import read


def main(argv: list[str]) -> None:
    """Complete one prompt and print the canvas after each evaluation, then the text and log p of its path in nats."""
    own = OptionParser(__doc__)
    own.add_argument("--prompt", default=None, help="the question; unset: the first test problem")
    own.add_argument("--greedy", action="store_true", help="the most likely token everywhere: temperature 0")
    own.add_argument("--html", type=Path, default=None, metavar="FILE", help="also write a page that plays it")
    options, rest = own.parse_beside_config(argv)
    request = read(rest)

    # only now: these take seconds to import, which a typo does not wait for
    import torch

    from trainers.distributed.randomness import generator_at
    from trainers.evaluating.evaluation import encode_prompts
    from trainers.evaluating.playback import playbacks
    from trainers.experiment import load_experiment_policy, load_task
    from trainers.reporting.denoising import canvas_line
    from trainers.reporting.page.content import completion_content
    from trainers.reporting.page.document import write_page
    from trainers.settings.config import build
    from trainers.settings.objects import build_generator, build_loss, build_masking

    config = build(request)
    args = config.training

    task, splits = load_task(config.task)
    policy = load_experiment_policy(config, splits["train"])
    policy.model.eval()
    style = (config.task.solutions or [])[:1]  # of word problems; other tasks have none
    prompt = splits["test"][0]["prompt"] if options.prompt is None else task.build_prompt(options.prompt, *style)
    loss = build_loss(args)
    sampler = build_generator(
        args,
        policy.denoiser(),
        loss.schedule,
        build_masking(args),
        policy.eos_ids,
        temperature=0.0 if options.greedy else args.temperature,
    )

    console = Console(highlight=False)
    console.print(Text(policy.format.render(policy.tokenizer, prompt), style="dim"))
    previous = torch.full((1, args.max_completion_length), policy.mask_id)

    def show(timestep: int, ids: torch.Tensor) -> None:
        nonlocal previous
        console.print(canvas_line(policy, timestep, ids.cpu(), previous))
        previous = ids.cpu()

    batch = encode_prompts(policy, [prompt])
    noise = generator_at(args.seed, "generate", device=policy.model.device)
    trajectory = sampler.generate(batch["input_ids"], batch["attention_mask"], noise, observe=show)
    text = policy.decode(trajectory.completions()[0], skip_special_tokens=True)
    console.print(Text(text, style="bold"))
    logp = f"log p(path) = {trajectory.commit_logps[0].sum():.3f} nats"
    facts = (
        f"{int(trajectory.forwards[0])} forwards, finish reason {trajectory.finish_reason[0]}, "
        f"{logp if trajectory.exact else 'no exact log-probability of the path under this sampler'}"
    )
    console.print(facts, style="dim")
    if options.html is not None:
        told = {"model": policy.name or str(config.model.name_or_path), "sampled": facts}
        greedy = options.greedy or args.temperature == 0
        asked = policy.format.render(policy.tokenizer, prompt)
        [written] = playbacks(policy.tokenizer, trajectory, [0])
        page = write_page(options.html, "One completion", completion_content(asked, written, told, greedy))
        console.print(f"page: {page}", soft_wrap=True)


if __name__ == "__main__":
    main_or_one_line(main)
