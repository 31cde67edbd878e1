"""What every number of a word problem is: the groundwork for copies with other numbers.

Nouns: a *variable* is a number of the question that may be replaced, everywhere it occurs; a *quantity* is a variable
or the result of an annotation; a *slot* is a place in a text where a quantity is written; a *trace* says what every
number of a problem is.

Convention: never guess. A number of an annotation is a variable, an earlier result, or a number of the question that
stays; where two of these fit, or none, the problem has no trace (`Untraceable` says why). Numbers stay that are
spelled out, that measure time, that are 0 or 1, or that have decimals. Every variable must feed an annotation, as an
unused number may say the same as the others together. Percentages, fractions, ordinals, and any word that may stand
for a changed value ("half", "twice", "both", "three") forbid a trace.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from trainers.tasks.arithmetic import ANNOTATION, Annotation, Term, annotations_of
from trainers.tasks.word_problems.numbers import ANSWER_MARK, QUANTITY
from trainers.tasks.word_problems.problems import WordProblem
from trainers.tasks.word_problems.vocabulary import implied_in, spelled_in

TIME = re.compile(r"[ -]?(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?|[ap]\.?m\b|o'clock)", re.IGNORECASE)


class Untraceable(Exception):
    """A problem cannot be copied; the message is the reason, the same words for the same reason."""


@dataclass(frozen=True)
class Slot:
    """Where a quantity is written.

    Args:
        quantity: its index in the trace.
        text: how it was written.
    """

    quantity: int
    text: str

    def write(self, value: Fraction) -> str | None:
        """The new value in the old way (thousands commas, decimal places); None where it takes more places."""
        places = len(self.text.partition(".")[2])
        scaled = value * 10**places
        if scaled.denominator != 1:
            return None
        whole, decimals = divmod(scaled.numerator, 10**places)
        return (f"{whole:,}" if "," in self.text else str(whole)) + (f".{decimals:0{places}d}" if places else "")


Text = list[str | Slot]


@dataclass(frozen=True)
class Trace:
    """What every number of a problem is.

    Args:
        values: the quantities' values, variables in ascending order and then results.
        num_variables: how many are variables.
        steps: of each annotation the term, and for each of its literals a quantity's index or the number that stays.
        question, solution: the texts with slots.
    """

    values: list[Fraction]
    num_variables: int
    steps: list[tuple[Term, list[int | Fraction]]]
    question: Text
    solution: Text

    def compute(self, variables: list[Fraction]) -> tuple[list[Fraction], list[Fraction]]:
        """Return (quantities, results of all operations) for values of the variables.

        Raises:
            ZeroDivisionError: a division by zero.
        """
        quantities, operations = list(variables), []
        for term, sources in self.steps:
            numbers = [quantities[source] if isinstance(source, int) else source for source in sources]
            results = term.values(numbers)
            operations += results
            quantities.append(results[-1])
        return quantities, operations


@dataclass(frozen=True)
class Number:
    """A number in a text, with where it stands and whether it can be replaced."""

    text: str
    start: int
    end: int
    stays: bool

    @property
    def value(self) -> Fraction:
        """The number without its thousands commas."""
        return Fraction(self.text.replace(",", ""))


def numbers_of(text: str) -> list[Number]:
    """Every number of a text.

    Raises:
        Untraceable: a number is part of something else: 50%, 1/2, 2nd, 7:30, 4S.
    """
    found = []
    for match in QUANTITY.finditer(text):
        written = match["number"].lstrip("-\N{MINUS SIGN}$€£")
        start = match.end("number") - len(written)
        after = text[match.end() :]
        part = match["divisor"] or match["glued"] or after.lstrip().startswith(("%", "percent"))
        if part or text[: match.start()][-1:].isalpha() or "-" in match["number"]:
            raise Untraceable("a number is part of a percentage, a fraction, a time, an ordinal, a word or a sign")
        value_stays = "." in written or written in ("0", "1") or TIME.match(after) is not None
        found.append(Number(written, start, match.end("number"), value_stays))
    return found


def trace(problem: WordProblem) -> Trace:
    """Find out what every number of a problem is.

    Raises:
        Untraceable: a number has no meaning or more than one.
    """
    annotations = annotations_of(problem.solution)
    if annotations is None or problem.equations() is None:
        raise Untraceable("the annotations do not lead to the answer")
    in_question = numbers_of(problem.question)
    fixed = {number.value for number in in_question if number.stays}
    fixed |= {Fraction(value) for value in spelled_in(problem.question)}
    variables = sorted({number.value for number in in_question} - fixed)
    results = [Fraction(annotation.result) for annotation in annotations]
    quantities = [*variables, *results]
    steps = _trace_steps(annotations, quantities, len(variables), fixed)
    used = {source for _, sources in steps for source in sources if isinstance(source, int)}
    if not variables:
        raise Untraceable("the question has no number to replace")
    if not used.issuperset(range(len(variables))):
        raise Untraceable("a number of the question feeds no annotation")
    if set(quantities) & {Fraction(value) for value in implied_in(f"{problem.question} {problem.solution}")}:
        raise Untraceable("a word may stand for a number that would change")
    return Trace(
        values=quantities,
        num_variables=len(variables),
        steps=steps,
        question=_with_slots(problem.question, quantities, fixed),
        solution=_trace_solution(problem.solution, annotations, steps, quantities, fixed),
    )


def _trace_steps(
    annotations: list[Annotation], quantities: list[Fraction], num_variables: int, fixed: set[Fraction]
) -> list[tuple[Term, list[int | Fraction]]]:
    steps = []
    for position, annotation in enumerate(annotations):
        known = quantities[: num_variables + position]
        sources = [_source(number, known, fixed) for number in annotation.term.numbers()]
        steps.append((annotation.term, sources))
    return steps


def _source(value: Fraction, quantities: list[Fraction], fixed: set[Fraction]) -> int | Fraction:
    """The one quantity, or number that stays, with this value."""
    found = [index for index, known in enumerate(quantities) if known == value]
    if len(found) + (value in fixed) > 1:
        raise Untraceable("a number means two things")
    if found:
        return found[0]
    if value not in fixed:
        raise Untraceable("a number of the solution comes from nowhere")
    return value


def _with_slots(
    text: str, quantities: list[Fraction], fixed: set[Fraction], *, first: int | None = None, last: int | None = None
) -> Text:
    """A text without annotations, cut at its numbers.

    `first` is the quantity that a number at the very start repeats if it has its value: "<<48/2=24>>24 clips". `last`
    is the quantity that the last number is.
    """
    parts: Text = []
    end = 0
    numbers = numbers_of(text)
    for position, number in enumerate(numbers):
        if last is not None and position == len(numbers) - 1:
            source = last
        elif first is not None and number.start == 0 and number.value == quantities[first]:
            source = first
        else:
            source = _source(number.value, quantities, fixed)
        parts += [text[end : number.start], Slot(source, number.text) if isinstance(source, int) else number.text]
        end = number.end
    return [*parts, text[end:]]


def _trace_solution(
    solution: str,
    annotations: list[Annotation],
    steps: list[tuple[Term, list[int | Fraction]]],
    quantities: list[Fraction],
    fixed: set[Fraction],
) -> Text:
    body, mark, answer = solution.partition(ANSWER_MARK)
    before, *between = ANNOTATION.split(body)[::3]  # each annotation leaves its two groups in between
    parts = _with_slots(before, quantities, fixed)
    first_result = len(quantities) - len(annotations)
    for position, text in enumerate(between):
        result = first_result + position
        parts += _annotation_slots(annotations[position], steps[position][1], result)
        parts += _with_slots(text, quantities, fixed, first=result)
    return [*parts, mark, *_with_slots(answer, quantities, fixed, last=len(quantities) - 1)]


def _annotation_slots(annotation: Annotation, sources: list[int | Fraction], result: int) -> Text:
    parts: Text = ["<<"]
    remaining = iter(sources)
    for token in annotation.tokens:
        source = next(remaining) if token[0].isdigit() or token[0] == "." else token
        parts.append(Slot(source, token) if isinstance(source, int) else token)
    return [*parts, "=", Slot(result, annotation.result), ">>"]
