r"""Answers that are one number: how a text is read, how a number is written, and the verifier and rewards on top.

Nouns: a *verdict* says whether a completion states the right number; the *answer line* is GSM8K's last line,
"#### <number>" (Cobbe et al. 2021, arXiv:2110.14168).

Convention: two parsers side by side, because published accuracies differ by which one is used. Numbers are compared
as exact fractions, and no text of a model is ever evaluated.

Strict reads the rest of the line after the first "####". That must be one number and nothing else but blanks;
tolerated in it are thousands commas (1,234), one "$" before or after the sign, a minus sign (ASCII or U+2212) and a
final period. Units, "%", fractions, LaTeX, bold and a second number are not.

Lenient reads the first of these that states a number: the answer line; the last \boxed{...}; the rest of the sentence
after the last "answer is" or "answer:"; the last number anywhere. A sentence or box states the first number after its
last "=". Beyond strict it knows units, "%" (18% states 18), simple fractions (3/4 and \frac{3}{4} state 0.75), LaTeX
and markdown around a number. No quantity, and skipped: scientific notation, powers, times and ratios (7:30), ordinals
(2nd), dates (1/2/2020), badly placed commas (12,34), digits of other scripts, and numbers of more than
`MAX_NUMBER_LENGTH` characters.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

from trainers.tasks.verdicts import Verdict, text_of

ANSWER_MARK = "####"
MAX_NUMBER_LENGTH = 64  # characters; Python refuses to read a few thousand digits, and no answer has so many

# Linear time: each alternative is a plain run of digits. A minus right after a digit, letter or ")" is a subtraction.
SIGN = "(?:(?<![0-9A-Za-z)])[-\N{MINUS SIGN}])?"
DIGITS = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
MINUS = r"[-\N{MINUS SIGN}]"
NUMBER = re.compile(rf"{SIGN}\$?(?:(?<=\$){MINUS})?{DIGITS}")
# A number or fraction with what is glued to it. Anything but a unit makes the whole of it no quantity; it is taken in
# full, so that no part of it is read again.
GLUED = r"(?:[.,:/^][0-9]|(?:(?<=[0-9])[eE][-+]?)?[0-9]|\w)*"
QUANTITY = re.compile(
    rf"(?P<number>{SIGN}[$€£]?(?:(?<=[$€£]){MINUS})?{DIGITS})(?:/(?P<divisor>[0-9]+))?(?P<glued>{GLUED})"
)
UNIT = re.compile(r"(?!(?:st|nd|rd|th)\b|[⁰¹²³⁴⁵⁶⁷⁸⁹])[^\W\d_]*")

LATEX = re.compile(r"\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}")
BOXED = "\\boxed{"
STATED = re.compile(r"\banswer[\s*]*(?:is\b|:|=)", re.IGNORECASE)
SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")


def verify(completion: str, answer: str) -> Verdict:
    """Compare the number a completion states with the reference number, exactly and without evaluating any text.

    Args:
        completion: text of the model; the module docstring says what strict and lenient read.
        answer: the reference number, as in the `answer` column.

    Raises:
        ValueError: `answer` is not a number.
    """
    expected = parse_number(answer)
    if expected is None:
        raise ValueError(f"answer = {answer!r}: expected a number such as '18'")
    strict = strict_number(completion)
    lenient = _lenient_number(completion) if strict is None else strict
    return Verdict(strict=strict == expected, lenient=lenient == expected)


def correctness(completions: list, answer: list[str], **kwargs) -> list[float]:
    """Reward 1.0 for a strictly correct completion (see `verify`), else 0.0."""
    return [float(verify(text_of(c), a).strict) for c, a in zip(completions, answer, strict=True)]


def format_reward(completions: list, **kwargs) -> list[float]:
    """Reward 1.0 for a completion with one "####" whose number ends the text, else 0.0; the number may be wrong."""
    return [float(ends_with_answer_line(text_of(c))) for c in completions]


REWARDS = {"correctness": correctness, "format": format_reward}


def parse_number(text: str) -> Fraction | None:
    """Read a text that is one number and nothing else."""
    text = text.strip().removesuffix(".")
    return _to_fraction(text) if NUMBER.fullmatch(text) else None


def write_number(value: Fraction) -> str | None:
    """Write a number without commas or trailing zeros, 1234.5; None where its decimals do not end."""
    places = 0
    while value.denominator != 1:
        value, places = value * 10, places + 1
        if places > MAX_NUMBER_LENGTH:
            return None
    digits = f"{abs(value.numerator):0{places + 1}d}"
    text = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return f"-{text}" if value < 0 else text


def strict_number(text: str) -> Fraction | None:
    """The number of the answer line."""
    _, _, rest = text.partition(ANSWER_MARK)
    return parse_number(rest.partition("\n")[0])


def ends_with_answer_line(text: str) -> bool:
    """Whether the text has one "####", on an answer line with nothing after it."""
    _, _, rest = text.partition(ANSWER_MARK)
    number, _, after = rest.partition("\n")
    return text.count(ANSWER_MARK) == 1 and parse_number(number) is not None and not after.strip()


def _to_fraction(number: str) -> Fraction | None:
    if len(number) > MAX_NUMBER_LENGTH:
        return None
    return Fraction(re.sub(r"[,$€£]", "", number).replace("\N{MINUS SIGN}", "-"))


def _lenient_number(text: str) -> Fraction | None:
    text = _plain(text)
    for segment in (_boxed(text), _after_answer_is(text)):
        stated = next(_quantities(segment.rpartition("=")[2]), None)
        if stated is not None:
            return stated
    last = None
    for last in _quantities(text):  # noqa: B007 (the last one is the result)
        pass
    return last


def _plain(text: str) -> str:
    """LaTeX numbers as plain ones."""
    for mark, plain in (("{,}", ","), ("\\,", ","), ("\\!", ""), ("\\$", "$"), ("\\%", "%")):
        text = text.replace(mark, plain)
    return LATEX.sub(r"\1/\2", text)


def _boxed(text: str) -> str:
    """What stands in the last box, or an empty text; a box that was cut off reaches to the end."""
    start = text.rfind(BOXED)
    if start < 0:
        return ""
    start += len(BOXED)
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return text[start:]


def _after_answer_is(text: str) -> str:
    """The rest of the sentence after the last "answer is", or an empty text."""
    end = None
    for match in STATED.finditer(text):
        end = match.end()
    return "" if end is None else SENTENCE_END.split(text[end:], maxsplit=1)[0]


def _quantities(text: str) -> Iterator[Fraction]:
    """Every number of a text that states a quantity, in order."""
    for match in QUANTITY.finditer(text):
        number, divisor, glued = match["number"], match["divisor"], match["glued"]
        if not UNIT.fullmatch(glued):
            continue
        value = _to_fraction(number)
        below = Fraction(1) if divisor is None else _to_fraction(divisor)
        if value is not None and below:
            yield value / below
