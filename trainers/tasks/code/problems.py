"""Programming problems with unit tests, and the two file formats they are read from.

MBPP (Austin et al. 2021, arXiv:2108.07732) is jsonl with the keys text (or prompt), code, test_list and, optionally,
test_setup_code or test_imports. HumanEval (Chen et al. 2021, arXiv:2107.03374) has prompt, canonical_solution, test
and entry_point. Texts are parsed here, never run.
"""

import ast
import json
import warnings
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from trainers.tasks.code.functions import NAME_OF_FUNCTION, Function, behaviour

CODE_FILE = "an MBPP or HumanEval jsonl file"
MAX_CODE_LENGTH = 2**16  # characters; a longer text is not parsed


@dataclass(frozen=True)
class CodeProblem:
    """A task for a programmer.

    Args:
        prompt: the text; the completion starts right after it.
        completion: the reference.
        tests: statements that raise when they fail.
        prefix: code that the completion continues; empty where it stands alone.
        setup: code of the tests.
        entry: names that are the solution's even where the setup defines them.
        keys: what no two splits may share: the text and the function, both normalised.
        cluster: which problems are one another's repetition.
    """

    prompt: str
    completion: str
    tests: tuple[str, ...]
    prefix: str = ""
    setup: str = ""
    entry: tuple[str, ...] = ()
    keys: tuple[Hashable, ...] = ()
    cluster: str = ""

    def to_row(self) -> dict[str, str]:
        """The columns of a data set; the answer is what judging needs, as JSON."""
        judged = {"prefix": self.prefix, "setup": self.setup, "tests": self.tests, "entry": self.entry}
        return {
            "prompt": self.prompt,
            "completion": self.completion,
            "answer": json.dumps(judged),
            "cluster": self.cluster,
        }


def parse_code(text: str) -> ast.Module | None:
    """The syntax tree of a text that is Python; None for any other, too long or too deep a one included."""
    if len(text) > MAX_CODE_LENGTH:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def of_function(function: Function) -> CodeProblem:
    """A generated problem."""
    prompt, known = function.prompt(), behaviour(function)
    return CodeProblem(
        prompt=prompt,
        completion=f" {function.expression}",
        tests=function.tests(),
        prefix=prompt,
        entry=(NAME_OF_FUNCTION,),
        keys=(known,),
        cluster=known,
    )


def to_problem(raw: object, where: str) -> CodeProblem:
    """Read one record of MBPP or HumanEval.

    Raises:
        ValueError: it is neither, or its code is no Python.
    """
    if isinstance(raw, dict) and "entry_point" in raw:
        return _of_humaneval(raw, where)
    if isinstance(raw, dict) and "test_list" in raw:
        return _of_mbpp(raw, where)
    raise ValueError(f'{where}: expected an object with "test_list" (MBPP) or "entry_point" (HumanEval)')


def _of_mbpp(raw: dict, where: str) -> CodeProblem:
    text, code, tests = raw.get("text", raw.get("prompt")), raw.get("code"), raw["test_list"]
    listed = isinstance(tests, list) and bool(tests) and all(isinstance(test, str) for test in tests)
    if not isinstance(text, str) or not isinstance(code, str) or not listed:
        raise ValueError(f"{where}: expected the texts text and code, and the list of texts test_list")
    setup = raw.get("test_setup_code") or "\n".join(raw.get("test_imports") or ())
    code = code.replace("\r\n", "\n")
    # the manner of BigCode's evaluation harness, with one test for the name and the arguments
    prompt = f'"""{text.strip()}\n{tests[0].strip()}"""\n'
    _check_python(where, code, setup, *tests)
    return CodeProblem(prompt, code, tuple(tests), setup=setup, keys=(_plain(text), normalised(code)))


def _of_humaneval(raw: dict, where: str) -> CodeProblem:
    keys = ("prompt", "canonical_solution", "test", "entry_point")
    if not all(isinstance(raw.get(key), str) for key in keys):
        raise ValueError(f"{where}: expected the texts {', '.join(keys)}")
    prompt, solution, test, entry = (raw[key] for key in keys)
    setup = f"{prompt}\n{test}"  # the prompt's imports and helpers, and a stub in the place of the solution
    _check_python(where, prompt + solution, setup)
    return CodeProblem(
        prompt,
        solution,
        (f"check({entry})",),
        prefix=prompt,
        setup=setup,
        entry=(entry,),
        keys=(_plain(prompt), normalised(prompt + solution)),
    )


def _check_python(where: str, *texts: str) -> None:
    for text in texts:
        if parse_code(text) is None:
            raise ValueError(f"{where}: no Python: {text[:60]!r}")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def normalised(code: str) -> str:
    """A program without names, docstrings and layout: two programs that differ in these alone are equal."""
    tree = parse_code(code)
    if tree is None:
        return _plain(code)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.setdefault(node.name, f"v{len(names)}")
        elif isinstance(node, ast.arg):
            names.setdefault(node.arg, f"v{len(names)}")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.setdefault(node.id, f"v{len(names)}")
    for node in ast.walk(tree):  # only names that the program itself gives: len and sum stay
        for attribute in ("name", "arg", "id"):
            known = getattr(node, attribute, None)
            if isinstance(known, str) and known in names:
                setattr(node, attribute, names[known])
    return ast.unparse(tree)


def clusters(problems: Iterable[CodeProblem]) -> dict[Hashable, str]:
    """key -> the name of its cluster: problems that share a key, directly or through others, are one cluster."""
    leader: dict[Hashable, Hashable] = {}

    def find(key: Hashable) -> Hashable:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    for problem in problems:
        first, *others = (find(key) for key in problem.keys)
        for other in others:
            leader[other] = first
    return {key: str(find(key)) for key in leader}
