"""Complete a prompt, and show the denoising step by step.

    python scripts/generate.py configs/trajectory_nelbo_gsm8k.yaml --prompt "Sara has 6 boxes with 2 apples ..."

Every line is the canvas after one evaluation of the model; new tokens are bold, masked positions are shaded. `--html
FILE` also writes a page that plays it.
"""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from trainers.commands import OptionParser, main_or_one_line, make_folder


def main(argv: list[str]) -> None:
    """Complete one prompt and print the canvas after each evaluation, the text and, if sampled, log p of its path."""
    own = OptionParser(__doc__)
    own.add_config()
    own.add_argument("--prompt", default=None, help="The question. Unset: the first test problem.")
    own.add_argument(
        "--sampled",
        action="store_true",
        help="Draw tokens at generation.temperature, as rollouts do. Unset: the most likely token everywhere.",
    )
    own.add_argument("--html", type=Path, default=None, metavar="FILE", help="Also write a page that plays it.")
    options, settings = own.parse(argv)
    request = own.read(options.config, settings)
    if options.html is not None:
        make_folder("--html", options.html, options.html.parent)

    # only now: these take seconds to import, which a typo does not wait for
    import torch

    from trainers.distributed.randomness import generator_at
    from trainers.evaluating.evaluation import encode_prompts
    from trainers.evaluating.playback import playbacks
    from trainers.experiment import find_task, load_experiment_policy, load_task
    from trainers.reporting.denoising import canvas_line
    from trainers.reporting.page.content import completion_content
    from trainers.reporting.page.document import write_page
    from trainers.settings.config import build
    from trainers.settings.objects import build_generator, build_loss, build_masking

    config = build(request)
    args = config.training

    # data is read only where a prompt is taken out of it, or a tokenizer trained on it
    needs_data = options.prompt is None or config.model.from_scratch
    splits = load_task(config.task)[1] if needs_data else {}
    policy = load_experiment_policy(config, splits.get("train"))
    policy.model.eval()
    if options.prompt is None:
        prompt = splits["test"][0]["prompt"]
    else:
        style = (config.task.solutions or [])[:1]  # of word problems; other tasks have none
        prompt = find_task(config.task).build_prompt(options.prompt, *style)
    loss = build_loss(args)
    sampler = build_generator(
        args,
        policy.denoiser(),
        loss.schedule,
        build_masking(args),
        policy.eos_ids,
        temperature=args.temperature if options.sampled else 0.0,
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
    drawn = "greedy"
    if options.sampled:
        logp = f"log p(path) = {trajectory.commit_logps[0].sum():.3f} nats"
        drawn = logp if trajectory.exact else "no exact log-probability of the path under this sampler"
    facts = f"{int(trajectory.forwards[0])} forwards, finish reason {trajectory.finish_reason[0]}, {drawn}"
    console.print(facts, style="dim")
    if options.html is not None:
        told = {"model": policy.name or str(config.model.model_name_or_path), "decoding": facts}
        greedy = not options.sampled or args.temperature == 0
        asked = policy.format.render(policy.tokenizer, prompt)
        [written] = playbacks(policy.tokenizer, trajectory, [0])
        page = write_page(options.html, "One completion", completion_content(asked, written, told, greedy))
        console.print(f"page: {page}", soft_wrap=True)


if __name__ == "__main__":
    main_or_one_line(main)
