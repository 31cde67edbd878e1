"""How fast rollouts and the loss are, beside peers on the same weights, and how far from what the machine could do.

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
from trainers.settings.declarations import names_in
from trainers.settings.options import ConfigError

DTYPES = ("float32", "bfloat16")
DEVICES = ("cpu", "cuda")
SHAPES = names_in("trainers.benchmarking.shapes", "SHAPES")
PICKS = names_in("trainers.benchmarking.prompts", "PICKS")
TRAINED = names_in("trainers.benchmarking.steps", "TRAINED")
whole = partial(at_least, 1)


def common_options(mode: str) -> OptionParser:
    """What all modes that measure share."""
    parser = OptionParser(__doc__)
    parser.prog = f"benchmark.py {mode}"
    parser.add_argument("--shape", default="tiny", choices=SHAPES, help="random weights of this shape")
    parser.add_argument("--model", default=None, help="a saved model with tokenizer, instead of --shape")
    parser.add_argument("--vocabulary", nargs="+", default=[None], type=whole, help="sizes; default the model's own")
    parser.add_argument("--prompt_length", default=200, type=whole)
    parser.add_argument("--canvas_length", default=256, type=whole)
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--device", default=None, type=device, help="cpu or cuda; default cuda where there is one")
    parser.add_argument("--threads", default=None, type=whole, help="of the CPU; default torch's own number")
    parser.add_argument("--repeats", default=3, type=whole, help="timed runs of each side, by turns")
    parser.add_argument("--seed", default=0, type=partial(at_least, 0))
    parser.add_argument("--output", default=None, type=Path, help="also write benchmark.md and results.json there")
    return parser


def device(name: str) -> str:
    """The name of a kind of device; whether this machine has one is not known yet."""
    if name not in DEVICES:
        raise argparse.ArgumentTypeError(f"{name!r}: expected one of {', '.join(DEVICES)}")
    return name


def rollout_options() -> OptionParser:
    """Options of mode rollout: which generators, on how many prompts, in how many denoising steps."""
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
    return parser


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
    parser.add_argument("folder", help="a checkpoint that brings code along; the code is run")
    parser.add_argument("--batch_size", default=4, type=whole)
    parser.add_argument("--steps", default=128, type=whole, help="denoising steps of the whole canvas")
    parser.add_argument("--block_length", default=32, type=whole)
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
    parser.add_argument("--batch_size", default=4, type=whole)
    parser.add_argument("--draws", nargs="+", default=draws, type=whole, help="states of each completion")
    parser.add_argument("--share", default=0.3, type=float, help="of the canvas that is masked, and scored")
    return parser


def check_scoring(chosen: argparse.Namespace) -> None:
    """What leaves nothing to score."""
    if not 0 < chosen.share <= 1 or round(chosen.share * chosen.canvas_length) == 0:
        raise ConfigError(f"--share {chosen.share}: expected at most 1, and enough for one masked token")


def train_options() -> OptionParser:
    """Options of mode train: which weights are trained, with and without activations computed again."""
    parser = scoring_options("train", [2])
    parser.add_argument("--trained", nargs="+", default=list(TRAINED), choices=TRAINED, help="all weights, an adapter")
    parser.add_argument("--lora_r", default=16, type=whole, help="rank of the adapter")
    parser.add_argument("--checkpointed", action="store_true", help="also with activations computed again")
    return parser


def startup_options() -> OptionParser:
    """Options of mode startup: which commands of which checkout, and how often each is timed."""
    parser = OptionParser("Seconds until a command has answered --help, a wrong key and a missing file.")
    parser.prog = "benchmark.py startup"
    parser.add_argument("--commands", nargs="+", default=["train", "evaluate", "generate", "plan"], help="of scripts/")
    parser.add_argument("--root", default=Path(__file__).parents[1], type=Path, help="of another checkout, to compare")
    parser.add_argument("--repeats", default=5, type=whole, help="timed runs of each, by turns")
    parser.add_argument("--output", default=None, type=Path, help="also write results.json there")
    return parser


def init_options() -> OptionParser:
    """Options of mode init: the folder to write, and the file that the tokenizer is trained on."""
    parser = OptionParser("Save random weights and a tokenizer trained on a file.")
    parser.prog = "benchmark.py init"
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True, type=Path, help="jsonl with questions and answers")
    parser.add_argument("--shape", default="tiny", choices=SHAPES)
    parser.add_argument("--vocabulary", default=None, type=whole, help="rows of embedding and head")
    parser.add_argument("--seed", default=0, type=partial(at_least, 0))
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
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    if not argv or argv[0] not in MODES:
        raise ConfigError(f"mode {argv[0] if argv else ''!r}: expected one of {', '.join(MODES)}; each has --help")
    options, check = MODES[argv[0]]
    chosen = options().parse_args(argv[1:])
    check(chosen)

    # only now: these take seconds to import, which a typo does not wait for
    from trainers.benchmarking.modes import RUN

    RUN[argv[0]](chosen)


if __name__ == "__main__":
    main_or_one_line(main)
