"""How fast rollouts and the loss are, beside peers on the same weights, and how far from what the machine could do.

    python scripts/benchmark.py rollout --shape tiny --vocabulary 1024 32768 --generators llada d1 ours
    python scripts/benchmark.py rollout --model DIR --data test.jsonl --generators llada ours mine:generate
    python scripts/benchmark.py loss --shape tiny --vocabulary 32768 --draws 1 2 4 8
    python scripts/benchmark.py train --shape 135M --trained full lora --checkpointed
    python scripts/benchmark.py init DIR --shape tiny --data train.jsonl

`rollout` runs generators by turns: ``ours`` (LLaDA's law unless told otherwise, as in
``ours:selection=top1,alpha_schedule=cosine``), the published samplers of `trainers.benchmarking.peers`, or
``module:function``, called as ``function(model, prompt_ids, config) -> ids`` (`RolloutConfig`). Everything is counted
at the model, by the same hooks for all. `loss` runs one likelihood step against full logits, `train` a whole training
step: score, backward, AdamW. `init` saves random weights with a tokenizer trained on a file, as a start for
scripts/train.py.

Prints a table; --output DIR also writes benchmark.md and results.json. Machines differ: read ratios, not seconds.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import set_seed

from trainers.benchmarking.contenders import contender
from trainers.benchmarking.losses import Text, compare_losses
from trainers.benchmarking.peers import RolloutConfig
from trainers.benchmarking.prompts import PICKS, random_prompts, read_problems, real_prompts
from trainers.benchmarking.rollouts import compare_rollouts
from trainers.benchmarking.roofline import PeakMeter
from trainers.benchmarking.shapes import SHAPES, random_policy, saved_policy
from trainers.benchmarking.steps import TRAINED, measure_step
from trainers.benchmarking.tables import Row, console_table, machine, write
from trainers.models.policy import Policy
from trainers.models.tiny import build_tokenizer
from trainers.reporting.console import OptionParser, main_or_one_line
from trainers.saving.environment import environment
from trainers.settings.options import ConfigError
from trainers.studies.measurements import at_least

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
whole = partial(at_least, 1)


def common_options(mode: str) -> OptionParser:
    """What all modes that measure share."""
    parser = OptionParser()
    parser.prog, parser.description = f"benchmark.py {mode}", __doc__.split("\n")[0]
    parser.add_argument("-h", "--help", action="help")
    parser.add_argument("--shape", default="tiny", choices=tuple(SHAPES), help="random weights of this shape")
    parser.add_argument("--model", default=None, help="a saved model with tokenizer, instead of --shape")
    parser.add_argument("--vocabulary", nargs="+", default=[None], type=whole, help="sizes; default the model's own")
    parser.add_argument("--prompt_length", default=200, type=whole)
    parser.add_argument("--canvas_length", default=256, type=whole)
    parser.add_argument("--dtype", default="float32", choices=tuple(DTYPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", type=device)
    parser.add_argument("--threads", default=None, type=whole, help="of the CPU; default torch's own number")
    parser.add_argument("--repeats", default=3, type=whole, help="timed runs of each side, by turns")
    parser.add_argument("--seed", default=0, type=partial(at_least, 0))
    parser.add_argument("--output", default=None, type=Path, help="also write benchmark.md and results.json there")
    return parser


def parse(parser: OptionParser, argv: list[str]) -> argparse.Namespace:
    """The options; threads are set, and a folder that cannot be written fails now rather than after the work."""
    chosen = parser.parse_args(argv)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    if chosen.output is not None:
        try:
            chosen.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--output {chosen.output}: {error}") from error
    return chosen


def device(name: str) -> torch.device:
    known = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    if name not in known:
        raise argparse.ArgumentTypeError(f"{name!r}: expected one of {', '.join(known)}")
    return torch.device(name)


def rollout(argv: list[str]) -> None:
    parser = common_options("rollout")
    parser.add_argument("--generators", nargs="+", default=["llada", "d1", "ours"], help="compared with the first")
    parser.add_argument("--batch_size", nargs="+", default=[4], type=whole)
    parser.add_argument("--group", default=1, type=whole, help="completions of each prompt; divides the batch sizes")
    parser.add_argument("--steps", default=128, type=whole, help="denoising steps of the whole canvas")
    parser.add_argument("--block_length", default=32, type=whole)
    parser.add_argument("--temperature", default=0.0, type=float, help="0 is greedy: the texts are then compared")
    parser.add_argument(
        "--data", default=None, type=Path, help="jsonl with questions as prompts; default random tokens"
    )
    parser.add_argument("--pick", default=PICKS[0], choices=PICKS, help="which lines of --data")
    parser.add_argument("--no_memory", action="store_true", help="skip peak memory, which is slow on a CPU")
    chosen = parse(parser, argv)
    check_rollout(chosen)
    texts = [prompt for prompt, _ in read_problems(chosen.data)] if chosen.data else None
    peaks = PeakMeter(chosen.device, DTYPES[chosen.dtype])

    rows: list[Row] = []
    for vocabulary in chosen.vocabulary:
        policy = load(chosen, vocabulary)
        config = RolloutConfig(
            canvas_length=chosen.canvas_length,
            block_length=chosen.block_length,
            steps=chosen.steps,
            temperature=chosen.temperature,
            mask_id=policy.mask_id,
            eos_id=policy.tokenizer.eos_token_id,
            pad_id=policy.tokenizer.pad_token_id,
            seed=chosen.seed,
        )
        contenders = [contender(spec, policy, config) for spec in chosen.generators]
        for batch_size in chosen.batch_size:
            count, length = batch_size // chosen.group, chosen.prompt_length
            if texts is None:
                prompt_ids = random_prompts(policy, count, length, chosen.seed)
            else:
                prompt_ids = real_prompts(policy.tokenizer, texts, count, length, chosen.pick)
            prompt_ids = prompt_ids.repeat_interleave(chosen.group, dim=0).to(chosen.device)
            rows += compare_rollouts(
                policy, contenders, prompt_ids, config, peaks, chosen.repeats, memory=not chosen.no_memory
            )
    best = peaks.best
    line = f"peak {best.flops / 1e9:.0f} GFLOP/s and {best.bandwidth / 1e9:.1f} GB/s in this run"
    report(chosen, rows, line, {"peaks": vars(best)})


def check_rollout(chosen: argparse.Namespace) -> None:
    """What is wrong for every generator."""
    blocks, rest = divmod(chosen.canvas_length, chosen.block_length)
    if rest:
        raise ConfigError(f"--block_length {chosen.block_length}: expected a divisor of the canvas's length")
    if chosen.steps % blocks:
        raise ConfigError(f"--steps {chosen.steps}: expected a multiple of the number of blocks, {blocks}")
    if chosen.temperature < 0:
        raise ConfigError(f"--temperature {chosen.temperature}: expected at least 0 (0 is greedy)")
    for size in chosen.batch_size:
        if size % chosen.group:
            raise ConfigError(f"--batch_size {size}: expected a multiple of --group {chosen.group}")
    if chosen.data and not chosen.model:
        raise ConfigError(f"--data {chosen.data}: only with --model, whose tokenizer reads it")


def loss(argv: list[str]) -> None:
    parser = scoring_options("loss", [1, 2, 4, 8])
    chosen = parse_scoring(parser, argv)
    rows: list[Row] = []
    for vocabulary in chosen.vocabulary:
        policy = load(chosen, vocabulary)
        text = random_text(chosen, policy)
        rows += compare_losses(policy, text, chosen.draws, chosen.share, chosen.repeats, chosen.seed)
    report(chosen, rows, f"masked share {chosen.share:g}", {})


def train(argv: list[str]) -> None:
    parser = scoring_options("train", [2])
    parser.add_argument("--trained", nargs="+", default=list(TRAINED), choices=TRAINED, help="all weights, an adapter")
    parser.add_argument("--lora_r", default=16, type=whole, help="rank of the adapter")
    parser.add_argument("--checkpointed", action="store_true", help="also with activations computed again")
    chosen = parse_scoring(parser, argv)
    peaks = PeakMeter(chosen.device, DTYPES[chosen.dtype])
    rows: list[Row] = []
    ways = [
        (trained, again)
        for trained in chosen.trained
        for again in ((False, True) if chosen.checkpointed else (False,))
    ]
    for vocabulary, draws, (trained, again) in product(chosen.vocabulary, chosen.draws, ways):
        policy = load(chosen, vocabulary)
        text, sizes = random_text(chosen, policy), (draws, chosen.share, chosen.lora_r)
        rows.append(measure_step(policy, text, trained, again, *sizes, peaks, chosen.repeats, chosen.seed))
    line = f"masked share {chosen.share:g}, peak {peaks.best.flops / 1e9:.0f} GFLOP/s in this run"
    report(chosen, rows, line, {"peaks": vars(peaks.best)})


def scoring_options(mode: str, draws: list[int]) -> OptionParser:
    """What loss and train share."""
    parser = common_options(mode)
    parser.add_argument("--batch_size", default=4, type=whole)
    parser.add_argument("--draws", nargs="+", default=draws, type=whole, help="states of each completion")
    parser.add_argument("--share", default=0.3, type=float, help="of the canvas that is masked, and scored")
    return parser


def parse_scoring(parser: OptionParser, argv: list[str]) -> argparse.Namespace:
    chosen = parse(parser, argv)
    if not 0 < chosen.share <= 1 or round(chosen.share * chosen.canvas_length) == 0:
        raise ConfigError(f"--share {chosen.share}: expected at most 1, and enough for one masked token")
    return chosen


def random_text(chosen: argparse.Namespace, policy: Policy) -> Text:
    length = chosen.prompt_length + chosen.canvas_length
    tokens = random_prompts(policy, chosen.batch_size, length, chosen.seed).to(chosen.device)
    return Text(tokens[:, : chosen.prompt_length], tokens[:, chosen.prompt_length :])


def init(argv: list[str]) -> None:
    parser = OptionParser()
    parser.prog, parser.description = "benchmark.py init", "Save random weights and a tokenizer trained on a file."
    parser.add_argument("-h", "--help", action="help")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True, type=Path, help="jsonl with questions and answers")
    parser.add_argument("--shape", default="tiny", choices=tuple(SHAPES))
    parser.add_argument("--vocabulary", default=None, type=whole, help="rows of embedding and head")
    parser.add_argument("--seed", default=0, type=partial(at_least, 0))
    chosen = parser.parse_args(argv)
    tokenizer = build_tokenizer(prompt + answer for prompt, answer in read_problems(chosen.data))
    set_seed(chosen.seed)
    policy = random_policy(SHAPES[chosen.shape], chosen.vocabulary, tokenizer)
    policy.model.save_pretrained(chosen.folder)
    policy.tokenizer.save_pretrained(chosen.folder)
    size = sum(weight.numel() for weight in policy.model.parameters())
    Console().print(f"{chosen.folder}: {size / 1e6:.1f}M weights, {len(tokenizer)} tokens", soft_wrap=True)


def load(chosen: argparse.Namespace, vocabulary: int | None) -> Policy:
    """The model to measure; equal seeds give equal weights."""
    set_seed(chosen.seed)
    if chosen.model is not None:
        return saved_policy(chosen.model, vocabulary, DTYPES[chosen.dtype], chosen.device)
    return random_policy(SHAPES[chosen.shape], vocabulary, dtype=DTYPES[chosen.dtype], device=chosen.device)


def report(chosen: argparse.Namespace, rows: Sequence[Row], measured: str, record: dict[str, Any]) -> None:
    """The table, with what it takes to repeat it."""
    console = Console()
    header = [
        f"{machine(chosen.device)}, torch {torch.__version__}, {chosen.dtype}, {torch.get_num_threads()} thread(s); "
        f"{measured}; median (least-largest) of {chosen.repeats} by turns; peak MiB beyond the weights",
        f"`{shlex.join(['python', 'scripts/benchmark.py', *sys.argv[1:]])}`",
    ]
    for line in header:
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    console.print(console_table(rows))
    if chosen.output is not None:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(chosen).items()}
        for path in write(chosen.output, header, record | {"settings": settings, "environment": environment()}, rows):
            console.print(f"written: {path}", soft_wrap=True)


MODES = {"rollout": rollout, "loss": loss, "train": train, "init": init}


def main(argv: list[str]) -> None:
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    if not argv or argv[0] not in MODES:
        raise ConfigError(f"mode {argv[0] if argv else ''!r}: expected one of {', '.join(MODES)}; each has --help")
    MODES[argv[0]](argv[1:])


if __name__ == "__main__":
    main_or_one_line(main)
