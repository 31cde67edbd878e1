"""Word problems with one number as answer, and the two file formats they are read from.

Nouns: a *solution* is a text that ends with the answer line "#### <number>"; its *equations* are its calculator
annotations alone; a *style* is how a training text is made of a solution.

GSM8K (Cobbe et al. 2021, arXiv:2110.14168) is jsonl with the keys question and answer. SVAMP (Patel et al. 2021,
arXiv:2103.07191) is one JSON list with the keys Body, Question, Equation and Answer; it has no worked solutions, so a
solution is rebuilt from the equation: "<<(4+13)*15=255>>\\n#### 255".
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from trainers.tasks.arithmetic import LITERAL, annotations_of, parse, tokenize, value_of
from trainers.tasks.clustering import cluster
from trainers.tasks.numbers import ANSWER_MARK, ends_with_answer_line, parse_number, strict_number, write_number
from trainers.tasks.sources import check_file, read_jsonl

# style of a solution -> what the prompt asks for, so that a model that learned several knows which one is wanted
STYLES = {"full": "Answer:", "equations": "Equations:"}
PLAIN = "full"

GSM8K_FILE = "a GSM8K jsonl file"
SVAMP_FILE = "an SVAMP.json file"
SVAMP_TEST_SIZE = 300  # as many as in the usual 700 / 300 split, which however divides clusters
SVAMP_VALIDATION_SIZE = 100


def build_prompt(question: str, style: str = PLAIN) -> str:
    """Return the prompt of a question; the completion starts right after it."""
    return f"{question}\n{STYLES[style]}"


@dataclass(frozen=True)
class WordProblem:
    """A question and its solution.

    Args:
        question: the text.
        solution: ends with the answer line.
        cluster: which problems it is a variation of.
    """

    question: str
    solution: str
    cluster: str

    @property
    def key(self) -> str:
        """The question without case and spacing: two problems with equal keys are the same problem."""
        return " ".join(self.question.casefold().split())

    @property
    def answer(self) -> str:
        """The number of the answer line, without commas or trailing zeros."""
        return write_number(_number_of(self.solution)) or ""  # its decimals end: it was written as a decimal

    def equations(self) -> str | None:
        """The annotations, one a line, and the answer line; None unless all are true and the last gives the answer."""
        annotations = annotations_of(self.solution)
        if not annotations or not all(annotation.is_true() for annotation in annotations):
            return None
        if Fraction(annotations[-1].result) != _number_of(self.solution):
            return None
        lines = [f"<<{''.join(annotation.tokens)}={annotation.result}>>" for annotation in annotations]
        return "\n".join([*lines, f"{ANSWER_MARK} {self.answer}"])

    def to_row(self, style: str, completion: str) -> dict[str, str]:
        """The columns of a data set."""
        prompt = build_prompt(self.question, style)
        return {"prompt": prompt, "completion": completion, "answer": self.answer, "cluster": self.cluster}


def _number_of(solution: str) -> Fraction:
    number = strict_number(solution)
    if number is None:
        raise ValueError(f"solution {solution!r}: expected the answer line {ANSWER_MARK} <number>")
    return number


# --- GSM8K ----------------------------------------------------------------------------------------


def to_gsm8k(raw: object, where: str) -> WordProblem:
    """Read one GSM8K record {"question", "answer"}; every problem is a cluster of its own."""
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), str) for key in ("question", "answer")):
        raise ValueError(f'{where}: expected an object with the text keys "question" and "answer"')
    solution = raw["answer"].strip()
    if not ends_with_answer_line(solution):
        raise ValueError(f'{where}: expected an "answer" that ends with the line "#### <number>"')
    return WordProblem(raw["question"], solution, cluster=build_prompt(raw["question"]))


def read_gsm8k(path: str, option: str = "task.data_files") -> list[WordProblem]:
    """Read a GSM8K jsonl file; see `read_jsonl` for the errors."""
    return read_jsonl(path, to_gsm8k, GSM8K_FILE, option)


# --- SVAMP ----------------------------------------------------------------------------------------


def to_svamp(raw: object, where: str) -> WordProblem:
    """Read one SVAMP record; the cluster is left empty, see `clustered`."""
    keys = ("Body", "Question", "Equation")
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), str) for key in keys):
        raise ValueError(f"{where}: expected an object with the text keys {', '.join(keys)} and the number Answer")
    answer = parse_number(str(raw.get("Answer")))
    if answer is None:
        raise ValueError(f"{where}: Answer = {raw.get('Answer')!r}: expected a number")
    question = _joined(raw["Body"].strip(), raw["Question"].strip())
    return WordProblem(question, _rebuilt(raw["Equation"], answer), cluster="")


def _joined(body: str, question: str) -> str:
    """One text; the file cut "If ..., how many ...?" in two at the comma, and lost some full stops."""
    if not body or body[-1] in ".?!,":
        return f"{body} {question}".strip()
    last_sentence = body.rpartition(". ")[2]
    if last_sentence.startswith("If "):
        return f"{body}, {question[:1].lower()}{question[1:]}"
    return f"{body}. {question}"


def _rebuilt(equation: str, answer: Fraction) -> str:
    """The solution: the equation as an annotation, or the answer line alone where the equation does not give the
    answer."""
    answer_line = f"{ANSWER_MARK} {write_number(answer)}"
    tokens = tokenize(equation)
    term = parse(tokens)
    if term is None or value_of(term) != answer:
        return answer_line
    numbers = [write_number(Fraction(token)) if LITERAL.fullmatch(token) else token for token in _bare(tokens)]
    return f"<<{''.join(map(str, numbers))}={write_number(answer)}>>\n{answer_line}"


def _bare(tokens: list[str]) -> list[str]:
    """An expression without parentheses around the whole of it."""
    inner = tokens[1:-1]
    return inner if tokens[0] == "(" and parse(inner) is not None else tokens


def read_svamp(path: str, option: str = "task.data_files") -> list[WordProblem]:
    """Read an SVAMP.json file, without clusters.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a JSON list, or a record is malformed.
    """
    check_file(path, SVAMP_FILE, option)
    try:
        with open(path, "rb") as file:
            records = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{option}: {path} is not JSON; expected {SVAMP_FILE}") from error
    if not isinstance(records, list) or not records:
        raise ValueError(f"{option}: {path} is no JSON list of records; expected {SVAMP_FILE}")
    return [to_svamp(raw, f"{path}, record {number}") for number, raw in enumerate(records, start=1)]


def clustered(*sources: Iterable[WordProblem]) -> list[list[WordProblem]]:
    """Problems with the cluster of each, over all sources together."""
    lists = [list(source) for source in sources]
    questions = sorted({problem.question for problems in lists for problem in problems})
    names = dict(zip(questions, cluster(questions), strict=True))
    return [[replace(problem, cluster=names[problem.question]) for problem in problems] for problems in lists]


def carve_clusters(
    source: list[WordProblem], test: list[WordProblem] | None, sizes: dict[str, int | None]
) -> tuple[dict[str, list[WordProblem]], set[str]]:
    """Split SVAMP problems so that no two splits share a cluster; also, which clusters are held out.

    Clusters are taken in an order that is fixed by their names, for test first, then for validation; what a size cuts
    off of the last cluster is left out. Training problems are the rest, without those whose equation does not give the
    answer. At least the default sizes are held out, whatever fewer are asked for: a quick look at a few test problems
    leaves the others as they were, to be tested later.

    Args:
        source: problems with clusters.
        test: a test source, used whole up to `sizes["test"]`; None: test is carved out as well.
        sizes: problems a split; None: what is held out at least, `SVAMP_TEST_SIZE` and `SVAMP_VALIDATION_SIZE`, or
            less of a small source.

    Raises:
        ValueError: nothing is left to train on.
    """
    taken = {problem.cluster for problem in test or ()}
    members: dict[str, list[WordProblem]] = {}
    for problem in {problem.key: problem for problem in source}.values():
        if problem.cluster not in taken:
            members.setdefault(problem.cluster, []).append(problem)
    order = sorted(members, key=lambda name: hashlib.sha256(name.encode()).digest())
    total = sum(map(len, members.values()))
    least = {
        "test": min(SVAMP_TEST_SIZE, total // 3) if test is None else 0,
        "validation": min(SVAMP_VALIDATION_SIZE, max(1, total // 10)),
    }
    wanted = {split: (least[split] and sizes[split]) or least[split] for split in least}
    splits: dict[str, list[WordProblem]] = {}
    for split, size in wanted.items():
        held_out: list[WordProblem] = []
        while order and len(held_out) < max(size, least[split]):
            held_out += members[order.pop(0)]
        splits[split] = held_out[:size]
    rest = [problem for name in order for problem in members[name] if problem.equations() is not None]
    if not rest:
        raise ValueError(
            f"task.test_size = {wanted['test']} and task.validation_size = {wanted['validation']} leave nothing to "
            f"train on: they take whole clusters of the {total} problems that are not variations of a test file's"
        )
    if test is not None:
        splits["test"] = test[: sizes["test"]]
    return splits | {"train": rest[: sizes["train"]]}, taken | (members.keys() - set(order))


def is_svamp(path: str, option: str) -> bool:
    """Whether a file starts like SVAMP's JSON list rather than like jsonl.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    check_file(path, f"{GSM8K_FILE} or {SVAMP_FILE}", option)
    with open(path, "rb") as file:
        return file.read(256).lstrip()[:1] == b"["
