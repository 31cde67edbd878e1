"""Code with unit tests: a function from its description. What the model writes is run, in a sandbox.

Nothing is run unless the config says `task.options: {execute: true}`; docs/sandbox.md says what then holds, and what
happens on a platform that cannot hold it. A completion is code and nothing else: a whole function, or what continues
the code of the prompt. Three sources give the same columns (prompt, completion, answer, cluster): a seeded generator
(`functions`), and jsonl files or hub datasets of MBPP or HumanEval (`problems`).
"""

import ast
import json
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import datasets

from trainers.tasks.code.functions import generate
from trainers.tasks.code.problems import CODE_FILE, CodeProblem, clusters, of_function, parse_code, to_problem
from trainers.tasks.code.sandbox import Limits, Run, Runner, UnitTests, open_sandbox
from trainers.tasks.sources import carve, check_sources, read_jsonl
from trainers.tasks.verdicts import Verdict, text_of

NAME = "code"

GENERATED = {"train": 2048, "validation": 128, "test": 256}  # what is not asked for otherwise; there are about 2800
MAX_REMEMBERED = 2**16  # programs whose verdicts are kept

FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL | re.IGNORECASE)


def build_prompt(question: str) -> str:
    """The completion starts right after the question, which is code or a comment already."""
    return question


# --- verifier and rewards -------------------------------------------------------------------------


class _Judge:
    """The sandbox of this process, and what it found: evaluation and several rewards run a program once."""

    def __init__(self):
        self.runner: Runner | None = None
        self._shares: OrderedDict[tuple[str, str], float] = OrderedDict()

    def shares(self, programs: Sequence[str | None], answers: Sequence[str]) -> list[float]:
        """The share of tests that each program passes; None, no program, passes none."""
        wanted = {(p, a): _tests(a) for p, a in zip(programs, answers, strict=True) if p is not None}
        new = [pair for pair in wanted if pair not in self._shares]
        if new and self.runner is None:
            raise RuntimeError(f"task {NAME}: load_splits(execute=True, ...) comes first, it opens the sandbox")
        found = {pair: self._shares[pair] for pair in wanted if pair in self._shares}
        outcomes = self.runner.run_all([Run(pair[0], wanted[pair]) for pair in new]) if self.runner and new else ()
        for pair, outcome in zip(new, outcomes, strict=True):  # kept one by one: an interrupted call is repeated
            found[pair] = self._shares[pair] = sum(outcome.passed) / len(outcome.passed)
        while len(self._shares) > MAX_REMEMBERED:
            self._shares.popitem(last=False)
        return [0.0 if p is None else found[p, a] for p, a in zip(programs, answers, strict=True)]


_judge = _Judge()


def verify(completion: str, answer: str) -> Verdict:
    """Run the unit tests on a completion, in the sandbox.

    Args:
        completion: text of the model. Strict wants code alone. Lenient also takes the last block of code in a text,
            between ``` and ```.
        answer: the tests, as in the `answer` column.

    Raises:
        RuntimeError: no sandbox was opened, see `load_splits`, or it could not be built.
    """
    strict = lenient = _judge.shares([read_program(completion, answer)], [answer])[0] == 1
    blocks = FENCE.findall(completion)
    if not lenient and blocks:
        lenient = _judge.shares([read_program(blocks[-1], answer)], [answer])[0] == 1
    return Verdict(strict, lenient)


def read_program(text: str, answer: str) -> str | None:
    """The program that a text makes: the text alone if it defines what is tested, else behind the prompt's code; None
    if that is no Python, or adds nothing to the prompt."""
    judged = json.loads(answer)
    prefix, alone = judged["prefix"], parse_code(text)
    if alone is not None and (not prefix or _defines(alone, judged["entry"])):
        return text if alone.body else None
    whole = parse_code(prefix + text) if prefix else None
    if whole is None:
        return None
    given = parse_code(prefix)
    return prefix + text if given is None or ast.dump(given) != ast.dump(whole) else None


def _defines(tree: ast.Module, names: Sequence[str]) -> bool:
    return set(names) <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def _tests(answer: str) -> UnitTests:
    judged = json.loads(answer)
    return UnitTests(tuple(judged["tests"]), judged["setup"], tuple(judged["entry"]))


def _programs(completions: list, answers: list[str]) -> list[str | None]:
    return [read_program(text_of(c), a) for c, a in zip(completions, answers, strict=True)]


def correctness(completions: list, answer: list[str], **kwargs) -> list[float]:
    """Reward 1.0 for a completion that is code and passes all tests, else 0.0."""
    return [float(share == 1) for share in _judge.shares(_programs(completions, answer), answer)]


def tests_reward(completions: list, answer: list[str], **kwargs) -> list[float]:
    """The share of tests that a completion passes, from 0 to 1."""
    return _judge.shares(_programs(completions, answer), answer)


def format_reward(completions: list, answer: list[str], **kwargs) -> list[float]:
    """Reward 1.0 for a completion that is code, whatever it does; nothing is run."""
    return [float(program is not None) for program in _programs(completions, answer)]


REWARDS = {"correctness": correctness, "tests": tests_reward, "format": format_reward}


# --- dataset --------------------------------------------------------------------------------------


def load_splits(
    *,
    data_files: list[str] | None,
    dataset_name: str | None,
    train_size: int | None,
    validation_size: int | None,
    test_size: int | None,
    seed: int,
    execute: bool = False,
    allow_unenforced: Sequence[str] = (),
    workers: int | None = None,
    wall_seconds: float = Limits.wall_seconds,
    cpu_seconds: float = Limits.cpu_seconds,
    memory_mib: int = Limits.memory_bytes // 2**20,
) -> dict[str, datasets.Dataset]:
    """Open the sandbox, and load the splits train, validation and test, disjoint in function and in text.

    Args:
        data_files: MBPP or HumanEval jsonl files [train] or [train, test]; None with `dataset_name` None means
            generated functions.
        dataset_name: a hub dataset with these columns, such as "google-research-datasets/mbpp" or
            "openai/openai_humaneval"; a dataset of one split is carved.
        train_size: rows of train; for real data a cap. None: `GENERATED`, or all real rows.
        validation_size: rows of validation. None: `GENERATED`, or of real data at most a tenth.
        test_size: rows of test; for a real test source a cap. None: `GENERATED`, or all rows of a real test source.
        seed: of the generator, or of the carving of real rows.
        execute: whether what the model writes may be run at all.
        allow_unenforced: guarantees of the sandbox, by name, that the platform may lack.
        workers: programs run at a time. None: one a core, shared with the other processes of a distributed run.
        wall_seconds, cpu_seconds, memory_mib: of all tests of one completion together.

    Raises:
        ValueError: `execute` is not set, the platform does not hold a guarantee, a value is out of range, a size
            cannot be reached, or a record is malformed.
        FileNotFoundError: a data file does not exist.
    """
    if execute is not True:
        raise ValueError(
            f"task.options.execute={execute!r}: task {NAME} runs Python that the model wrote, in a sandbox "
            "(docs/sandbox.md); expected true, to say that this is wanted"
        )
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    check_sources(data_files, dataset_name, sizes)
    if workers is None:
        workers = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    elif isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"task.options.workers={workers!r}: expected a whole number from 1")
    if isinstance(memory_mib, bool) or not isinstance(memory_mib, int):
        raise ValueError(f"task.options.memory_mib={memory_mib!r}: expected a whole number")
    limits = Limits(wall_seconds=wall_seconds, cpu_seconds=cpu_seconds, memory_bytes=memory_mib * 2**20)
    problems = _load_problems(data_files, dataset_name, sizes, seed)
    _judge.runner = open_sandbox(limits, allow_unenforced, workers)
    return {split: datasets.Dataset.from_list([p.to_row() for p in rows]) for split, rows in problems.items()}


def _load_problems(
    data_files: list[str] | None, dataset_name: str | None, sizes: dict[str, int | None], seed: int
) -> dict[str, list[CodeProblem]]:
    if data_files is None and dataset_name is None:
        return {
            split: [of_function(function) for function in generate(split, sizes[split] or size, seed=seed)]
            for split, size in GENERATED.items()
        }
    sources = (
        _read_hub(dataset_name) if dataset_name else [read_jsonl(f, to_problem, CODE_FILE) for f in data_files or ()]
    )
    named = clusters(problem for source in sources for problem in source)
    sources = [[replace(problem, cluster=named[problem.keys[0]]) for problem in source] for source in sources]
    test = sources[1] if len(sources) == 2 else None
    return carve(sources[0], test, lambda problem: problem.cluster, sizes, seed, "functions")


def _read_hub(dataset_name: str) -> list[list[CodeProblem]]:
    """The problems of the splits train and test, or of the only split there is."""
    splits = datasets.load_dataset(dataset_name)
    names = [name for name in ("train", "test") if name in splits] or list(splits)[:1]
    return [[to_problem(raw, f"{dataset_name} {s}, row {i}") for i, raw in enumerate(splits[s])] for s in names]
