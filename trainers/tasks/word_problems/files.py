r"""The two file formats that word problems are read from.

GSM8K (Cobbe et al. 2021, arXiv:2110.14168) is jsonl with the keys question and answer. SVAMP (Patel et al. 2021,
arXiv:2103.07191) is one JSON list with the keys Body, Question, Equation and Answer; it has no worked solutions, so a
solution is rebuilt from the equation: "<<(4+13)*15=255>>\n#### 255".
"""

import json
from collections.abc import Collection
from fractions import Fraction

from trainers.tasks.arithmetic import LITERAL, parse, tokenize, value_of
from trainers.tasks.sources import OTHER, check_file, read_jsonl
from trainers.tasks.word_problems.numbers import ANSWER_MARK, ends_with_answer_line, parse_number, write_number
from trainers.tasks.word_problems.problems import WordProblem, build_prompt

GSM8K_FILE = "a GSM8K jsonl file"
SVAMP_FILE = "an SVAMP.json file"


def is_svamp(path: str, option: str) -> bool:
    """Whether a file starts like SVAMP's JSON list rather than like jsonl.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    check_file(path, f"{GSM8K_FILE} or {SVAMP_FILE}", option)
    with open(path, "rb") as file:
        return file.read(256).lstrip()[:1] == b"["


def read_extra(paths: Collection[str]) -> tuple[list[WordProblem], list[WordProblem]]:
    """Return the problems of GSM8K files and those of SVAMP files, these without clusters.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is neither.
    """
    gsm8k, svamp = [], []
    for path in paths:
        if is_svamp(path, "task.extra_files"):
            svamp += read_svamp(path, "task.extra_files")
        else:
            gsm8k += read_gsm8k(path, "task.extra_files")
    return gsm8k, svamp


# --- GSM8K ----------------------------------------------------------------------------------------


def to_gsm8k(raw: object, where: str) -> WordProblem:
    """Read one GSM8K record {"question", "answer"}; every problem is a cluster of its own."""
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), str) for key in ("question", "answer")):
        raise ValueError(f'{where}: expected an object with the text keys "question" and "answer"; {OTHER}')
    solution = raw["answer"].strip()
    if not ends_with_answer_line(solution):
        raise ValueError(f'{where}: expected an "answer" that ends with the line "#### <number>"')
    return WordProblem(raw["question"], solution, cluster=build_prompt(raw["question"]))


def read_gsm8k(path: str, option: str = "task.data_files") -> list[WordProblem]:
    """Read a GSM8K jsonl file; see `read_jsonl` for the errors."""
    return read_jsonl(path, to_gsm8k, GSM8K_FILE, option)


# --- SVAMP ----------------------------------------------------------------------------------------


def to_svamp(raw: object, where: str) -> WordProblem:
    """Read one SVAMP record; the cluster is left empty, see `trainers.tasks.word_problems.splitting`."""
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
