"""Measure how fast rollouts, loss and training are.

Beside peers on the same weights, and with how far that is from what the machine could do.

    python scripts/benchmark.py rollout --shape tiny --vocabulary 1024 32768 --generators llada d1 ours
    python scripts/benchmark.py rollout --model DIR --data test.jsonl --generators llada ours mine:generate
    python scripts/benchmark.py loss --shape tiny --vocabulary 32768 --draws 1 2 4 8
    python scripts/benchmark.py train --shape 135M --trained full lora --checkpointed
    python scripts/benchmark.py init DIR --shape tiny --data train.jsonl
    python scripts/benchmark.py startup --repeats 5
    python scripts/benchmark.py code DIR --prompt_length 200 --canvas_length 256

`rollout` runs generators by turns: ``ours`` (LLaDA's law unless told otherwise, as in
``ours:selection=top1,alpha_schedule=cosine``), the published samplers of `trainers.benchmarking.peers`, or
``module:function``, called as ``function(model, prompt_ids, config) -> ids`` (`RolloutConfig`). Everything is counted
at the model, by the same hooks for all. `loss` runs one likelihood step against full logits, `train` a whole training
step: score, backward, AdamW. `init` saves random weights with a tokenizer trained on a file, as a start for
scripts/train.py. `startup` times commands that have nothing to do but answer: `--help`, a wrong key, a missing file.
`code` runs one checkpoint by the code that it brings along, which must be trusted, and as a class of transformers.

Prints a table; --output DIR also writes benchmark.md and results.json. Machines differ: read ratios, not seconds.
"""

import argparse
from functools import partial
from pathlib import Path

from trainers.commands import OptionParser, at_least, main_or_one_line
from trainers.commands.help import is_wanted, modes
from trainers.commands.layout import show
from trainers.settings.declarations import names_in
from trainers.settings.options import ConfigError

DTYPES = ("float32", "bfloat16")
DEVICES = ("cpu", "cuda")
SHAPES = names_in("trainers.benchmarking.shapes", "SHAPES")
PICKS = names_in("trainers.benchmarking.prompts", "PICKS")
TRAINED = names_in("trainers.benchmarking.steps", "TRAINED")
ROOT = Path(__file__).parents[1]
SUMMARIES = {
    "rollout": "Generators by turns, on the same weights and prompts.",
    "loss": "One likelihood step, against full logits.",
    "train": "A whole training step: score, backward, AdamW.",
    "code": "A checkpoint by its own code, and as a class of transformers.",
    "init": "Save random weights and a tokenizer trained on a file.",
    "startup": "Seconds until a command has answered.",
}
whole = partial(at_least, 1)


def common_options(mode: str) -> OptionParser:
    """What all modes that measure share."""
    parser = OptionParser(SUMMARIES[mode], mode)
    add = parser.add_argument
    add("--shape", default="tiny", choices=SHAPES, help="Random weights of this shape.")
    add("--model", default=None, metavar="FOLDER", help="A saved model with tokenizer, instead of --shape.")
    add("--vocabulary", nargs="+", default=[None], type=whole, help="Sizes of the vocabulary. Unset: the model's own.")
    add("--prompt_length", default=200, type=whole, help="Tokens of a prompt.")
    add("--canvas_length", default=256, type=whole, help="Tokens of the canvas.")
    add("--dtype", default="float32", choices=DTYPES, help="Dtype of the weights.")
    add("--device", default=None, choices=DEVICES, help="Unset: cuda where there is one.")
    add("--threads", default=None, type=whole, help="Threads of the CPU. Unset: torch's own number.")
    add("--repeats", default=3, type=whole, help="Timed runs of each side, by turns.")
    add("--seed", default=0, type=partial(at_least, 0), help="Of weights and prompts.")
    add("--output", default=None, type=Path, metavar="FOLDER", help="Also write benchmark.md and results.json there.")
    return parser


def rollout_options() -> OptionParser:
    """Options of mode rollout: which generators, on how many prompts, in how many denoising steps."""
    parser = common_options("rollout")
    add = parser.add_argument
    add("--generators", nargs="+", default=["llada", "d1", "ours"], help="The others are compared with the first.")
    add("--batch_size", nargs="+", default=[4], type=whole, help="Completions at a time.")
    add("--group", default=1, type=whole, help="Completions of each prompt; divides the batch sizes.")
    add_blocks(parser)
    add("--temperature", default=0.0, type=float, help="0 is greedy: the texts are then compared.")
    add("--data", default=None, type=Path, metavar="FILE", help="A jsonl of questions. Unset: random tokens.")
    add("--pick", default=PICKS[0], choices=PICKS, help="Which lines of --data.")
    add("--no_memory", action="store_true", help="Skip peak memory, which is slow on a CPU.")
    return parser


def add_blocks(parser: OptionParser) -> None:
    """How a canvas is filled."""
    parser.add_argument("--steps", default=128, type=whole, help="Denoising steps of the whole canvas.")
    parser.add_argument("--block_length", default=32, type=whole, help="Tokens of a block.")


def check_blocks(chosen: argparse.Namespace) -> None:
    """Blocks that divide the canvas, and steps that are shared out among them."""
    blocks, rest = divmod(chosen.canvas_length, chosen.block_length)
    if rest:
        raise ConfigError(f"--block_length {chosen.block_length}: expected a divisor of the canvas's length")
    if chosen.steps % blocks:
        raise ConfigError(f"--steps {chosen.steps}: expected a multiple of the number of blocks, {blocks}")


def check_rollout(chosen: argparse.Namespace) -> None:
    """What is wrong for every generator."""
    check_blocks(chosen)
    if chosen.temperature < 0:
        raise ConfigError(f"--temperature {chosen.temperature}: expected at least 0 (0 is greedy)")
    for size in chosen.batch_size:
        if size % chosen.group:
            raise ConfigError(f"--batch_size {size}: expected a multiple of --group {chosen.group}")
    if chosen.data and not chosen.model:
        raise ConfigError(f"--data {chosen.data}: only with --model, whose tokenizer reads it")


def code_options() -> OptionParser:
    """Options of mode code: a checkpoint that brings code along, and what is asked of it."""
    parser = common_options("code")
    parser.add_word("FOLDER", "A checkpoint that brings code along; the code is run.")
    parser.add_argument("--batch_size", default=4, type=whole, help="Completions at a time.")
    add_blocks(parser)
    parser.set_defaults(temperature=0.0)
    return parser


def check_code(chosen: argparse.Namespace) -> None:
    """What is wrong for both sides."""
    if chosen.model is not None or chosen.vocabulary != [None]:
        raise ConfigError("--model, --vocabulary: not for mode code, whose checkpoint is its first word")
    check_blocks(chosen)


def scoring_options(mode: str, draws: list[int]) -> OptionParser:
    """What loss and train share."""
    parser = common_options(mode)
    parser.add_argument("--batch_size", default=4, type=whole, help="Completions of a step.")
    parser.add_argument("--draws", nargs="+", default=draws, type=whole, help="States of each completion.")
    parser.add_argument("--share", default=0.3, type=float, help="Share of the canvas that is masked, and scored.")
    return parser


def check_scoring(chosen: argparse.Namespace) -> None:
    """What leaves nothing to score."""
    if not 0 < chosen.share <= 1 or round(chosen.share * chosen.canvas_length) == 0:
        raise ConfigError(f"--share {chosen.share}: expected at most 1, and enough for one masked token")


def train_options() -> OptionParser:
    """Options of mode train: which weights are trained, with and without activations computed again."""
    parser = scoring_options("train", [2])
    parser.add_argument("--trained", nargs="+", default=list(TRAINED), choices=TRAINED, help="Which weights.")
    parser.add_argument("--lora_r", default=16, type=whole, help="Rank of the adapter.")
    parser.add_argument("--checkpointed", action="store_true", help="Also with activations computed again.")
    return parser


def startup_options() -> OptionParser:
    """Options of mode startup: which commands of which checkout, and how often each is timed."""
    parser = OptionParser(SUMMARIES["startup"], "startup")
    add, timed = parser.add_argument, ["train", "evaluate", "generate", "plan"]
    add("--commands", nargs="+", default=timed, metavar="NAME", help="Scripts to call.")
    add("--root", default=ROOT, type=Path, metavar="FOLDER", help="Another checkout, to compare with.")
    add("--repeats", default=5, type=whole, help="Timed runs of each, by turns.")
    add("--output", default=None, type=Path, metavar="FOLDER", help="Also write results.json there.")
    return parser


def init_options() -> OptionParser:
    """Options of mode init: the folder to write, and the file that the tokenizer is trained on."""
    parser = OptionParser(SUMMARIES["init"], "init")
    parser.add_word("FOLDER", "Where to save.", type=Path)
    add = parser.add_argument
    add("--data", required=True, type=Path, metavar="FILE", help="A jsonl with questions and answers.")
    add("--shape", default="tiny", choices=SHAPES, help="Of the model.")
    add("--vocabulary", default=None, type=whole, help="Rows of embedding and head. Unset: the tokenizer's.")
    add("--seed", default=0, type=partial(at_least, 0), help="Of the weights.")
    return parser


# mode -> its options, and what is checked of them before anything is imported or run
MODES = {
    "rollout": (rollout_options, check_rollout),
    "loss": (partial(scoring_options, "loss", [1, 2, 4, 8]), check_scoring),
    "train": (train_options, check_scoring),
    "code": (code_options, check_code),
    "init": (init_options, lambda chosen: None),
    "startup": (startup_options, lambda chosen: None),
}


def main(argv: list[str]) -> None:
    """Check the mode's options before anything slow is imported, then run the mode."""
    if argv and is_wanted(argv[:1]):
        show(modes(OptionParser(__doc__).described(), SUMMARIES))
        return
    if not argv or argv[0] not in MODES:
        raise ConfigError(f"mode {argv[0] if argv else ''!r}: expected one of {', '.join(MODES)}; each has --help")
    options, check = MODES[argv[0]]
    chosen, _ = options().parse(argv[1:])
    check(chosen)

    # only now: these take seconds to import, which a typo does not wait for
    from trainers.benchmarking.modes import RUN

    RUN[argv[0]](chosen)


if __name__ == "__main__":
    main_or_one_line(main)
