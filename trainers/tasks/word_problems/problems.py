"""Word problems with one number as answer.

Nouns: a *solution* is a text that ends with the answer line "#### <number>"; its *equations* are its calculator
annotations alone; a *style* is how a training text is made of a solution, see `trainers.tasks.training_data`.
"""

from dataclasses import dataclass
from fractions import Fraction

from trainers.tasks.arithmetic import annotations_of
from trainers.tasks.training_data import PLAIN, STYLES
from trainers.tasks.word_problems.numbers import ANSWER_MARK, strict_number, write_number


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
