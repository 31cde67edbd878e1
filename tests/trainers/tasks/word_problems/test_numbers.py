"""The verifier of one-number answers, against a table of awkward answers; numbers survive being written and read."""

import time
from fractions import Fraction

import pytest

from trainers.tasks import TASKS
from trainers.tasks.verdicts import Verdict
from trainers.tasks.word_problems.numbers import REWARDS, format_reward, parse_number, verify, write_number

# completion, reference, strict, lenient, why
AWKWARD = [
    # units
    ("#### 18 dollars", "18", False, True, "a unit is not the line's number; lenient knows units"),
    ("She has 18 apples.", "18", False, True, "no answer line; a unit and a full stop"),
    ("It weighs 18kg", "18", False, True, "a unit glued to the number"),
    ("He runs 18km/h", "18", False, True, "a unit with a slash and letters"),
    ("It costs $18/day", "18", False, True, "dollars per day are no fraction"),
    ("#### 18m2", "18", False, False, "a unit with a digit could be anything"),
    ("18 apples and 3 pears", "18", False, False, "the last number counts"),
    # commas
    ("#### 1,234", "1234", True, True, "thousands comma"),
    ("#### 1,234,567.50", "1234567.5", True, True, "two thousands commas and decimals"),
    ("#### 12,34", "1234", False, False, "a misplaced comma"),
    ("#### 12,34", "34", False, False, "the tail behind a misplaced comma is no number"),
    ("The answers are 1, 2, 18", "18", False, True, "a list with blanks: the last number"),
    ("1,2,18", "18", False, False, "a list without blanks is no number"),
    ("18,then more", "18", False, True, "a comma before a word ends the number"),
    # currency and percent
    ("#### $18", "18", True, True, "a dollar sign"),
    ("#### 18$", "18", False, True, "the dollar sign behind is no GSM8K form"),
    ("#### €18", "18", False, True, "only the dollar sign is tolerated in the line"),
    ("That is US$18.", "18", False, True, "letters before the dollar sign"),
    ("#### 18%", "18", False, True, "percent is a unit"),
    ("#### 18%", "0.18", False, False, "and does not divide by 100"),
    # negatives
    ("#### -7", "-7", True, True, "ASCII minus"),
    ("#### \N{MINUS SIGN}7", "-7", True, True, "typographical minus U+2212"),
    ("#### -$7", "-7", True, True, "minus before the dollar sign"),
    ("#### $\N{MINUS SIGN}7", "-7", True, True, "minus behind the dollar sign"),
    ("#### -7", "7", False, False, "the sign counts"),
    ("#### - 7", "-7", False, False, "a dash with a blank is no sign"),
    ("The result is 20-7", "7", False, True, "a minus right after a digit subtracts"),
    ("#### --7", "-7", False, True, "two signs are no number; lenient reads the second"),
    # decimals
    ("#### 18.0", "18", True, True, "equal as numbers"),
    ("#### 18.000", "18.0", True, True, "equal as numbers, both written long"),
    ("#### 18.", "18", True, True, "a final period"),
    ("#### .5", "0.5", True, True, "no leading zero"),
    ("#### 0.1", "0.1000000000000000055511151231257827", False, False, "exact, not as floats"),
    ("#### 33.33", "33.333", False, False, "no rounding"),
    ("version 1.8.0", "8", False, False, "two points are no number"),
    # fractions
    ("#### 3/4", "0.75", False, True, "strict wants one number, lenient reads a fraction"),
    ("#### 3/4", "4", False, False, "a fraction does not state its denominator"),
    ("#### 36/2", "18", False, True, "a fraction with a whole value"),
    ("The share is -3/4.", "-0.75", False, True, "a negative fraction"),
    ("It is 18/0", "18", False, False, "a division by zero is no number"),
    ("On 1/2/2020", "0.5", False, False, "a date is no fraction"),
    # LaTeX
    (r"\boxed{18}", "18", False, True, "a box"),
    (r"So \boxed{18}. Check: 20 - 2.", "18", False, True, "a box goes before later numbers"),
    (r"\boxed{17} no, \boxed{18}", "18", False, True, "the last box"),
    (r"\boxed{x = 3 \cdot 6 = 18}", "18", False, True, "a box states what follows its last ="),
    (r"\boxed{\frac{3}{4}}", "0.75", False, True, "braces within a box, and a LaTeX fraction"),
    (r"It is \dfrac{36}{2}", "18", False, True, "a display fraction"),
    (r"\boxed{18 \text{ dollars}}", "18", False, True, "a unit in LaTeX"),
    (r"\boxed{\text{none}} but 18", "18", False, True, "a box without a number is passed over"),
    (r"\boxed{18", "18", False, True, "a box that was cut off"),
    (r"#### \$18", "18", False, True, "an escaped dollar sign is not the line's"),
    (r"#### 1{,}234", "1234", False, True, "a LaTeX thousands comma"),
    (r"$1\,234$", "1234", False, True, "a LaTeX thin space between thousands"),
    (r"\(18\%\)", "18", False, True, "an escaped percent sign"),
    # markdown and trailing text
    ("#### **18**", "18", False, True, "bold is not the line's"),
    ("**18**", "18", False, True, "bold"),
    ("**Answer:** 18\n\nNote 5.", "18", False, True, "a bold label"),
    ("#### 18\nI hope this helps, 100%!", "18", True, True, "text after the answer line"),
    ("#### 18 because 20-2", "18", False, False, "text on the answer line: the last number is 2"),
    ("#### 18\r\n", "18", True, True, "a carriage return"),
    ("\t####\t18\t", "18", True, True, "blanks around"),
    ("| 18 |", "18", False, True, "a table cell"),
    # several answer lines
    ("#### 18\n#### 5", "18", True, True, "the first answer line counts"),
    ("#### 5\n#### 18", "18", False, False, "not the last"),
    ("####\n#### 18", "18", False, True, "an empty first line is the answer line"),
    ("#### Step 1\nso 18", "18", False, True, "a heading is no answer line for lenient"),
    ("####18", "18", True, True, "no blank"),
    ("##### 18", "18", False, True, "five signs leave one on the line"),
    ("### 18", "18", False, True, "three signs are a heading"),
    ("######## 18", "18", False, True, "eight signs are two marks"),
    # phrases
    ("The answer is 18.", "18", False, True, "the usual phrase"),
    (
        "The answer is: $18. I checked 3 times.",
        "18",
        False,
        True,
        "the sentence after the phrase, not the last number",
    ),
    ("The answer is 12 + 6 = 18 apples", "18", False, True, "an equation states its right side"),
    ("The answer is 17. Wait, the answer is 18.", "18", False, True, "the last phrase"),
    ("The answer is clear. 18", "18", False, True, "a phrase without a number is passed over"),
    ("The answer is not 17 but 18", "18", False, False, "a limit: the first number after the phrase is read"),
    ("eighteen", "18", False, False, "words are not read"),
    # what looks like a number and is none
    ("#### 1.8e1", "18", False, False, "scientific notation is not read"),
    ("#### 1e1", "1", False, False, "nor is its first digit"),
    ("Meet at 7:30", "30", False, False, "a time is no number"),
    ("18 apples at 7:30", "18", False, True, "and is passed over"),
    ("18 apples on the 2nd day", "18", False, True, "an ordinal is passed over"),
    ("From 15 to 18", "18", False, True, "a range ends with its last number"),
    ("15-18", "18", False, True, "a range without blanks"),
    ("2^18", "18", False, False, "a power is not read"),
    ("18_000", "18", False, False, "an underscore is no unit"),
    # digits of other scripts
    ("#### ١٨", "18", False, False, "Arabic-Indic digits"),
    ("#### \uff11\uff18", "18", False, False, "full-width digits"),
    ("1٨", "1", False, False, "mixed digits are no number"),
    ("#### 18²", "18", False, False, "a superscript is a power"),
    # sizes
    ("#### 00018", "18", True, True, "leading zeros"),
    ("#### 9007199254740993", "9007199254740992", False, False, "equal as floats only"),
    ("#### " + "9" * 400, "18", False, False, "overflows a float"),
    ("#### " + "9" * 5000, "18", False, False, "more digits than Python reads"),
    ("18 " * 50_000, "18", False, True, "a long text"),
    ("#### 1e999999999", "18", False, False, "an exponent that would fill the memory"),
    # nothing, and code
    ("", "18", False, False, "empty"),
    ("####", "18", False, False, "an empty answer line"),
    ("#### ", "0", False, False, "nothing is not zero"),
    ("#### -0", "0", True, True, "minus zero"),
    ("#### nan", "18", False, False, "not a number"),
    ("#### inf", "18", False, False, "no infinity"),
    ("#### (lambda: 18)()", "18", False, True, "code is text"),
    ("#### __import__('os').getpid()", "18", False, False, "code is never run"),
    ("#### 9+9", "18", False, False, "nor is arithmetic"),
]


def test_the_table_is_long_and_has_no_row_twice():
    assert len({row[:2] for row in AWKWARD}) == len(AWKWARD) >= 60


@pytest.mark.parametrize(
    ("completion", "answer", "strict", "lenient"), [row[:4] for row in AWKWARD], ids=[row[4] for row in AWKWARD]
)
def test_awkward_answers(completion, answer, strict, lenient):
    assert verify(completion, answer) == Verdict(strict, lenient)


@pytest.mark.parametrize("name", ["gsm8k", "svamp"])
def test_tasks_with_one_number_as_answer_share_the_verifier(name):
    assert TASKS[name].verify is verify


@pytest.mark.parametrize("numerator", [0, 1, 7, -18, 123456789, -50])
@pytest.mark.parametrize("places", [0, 1, 2, 5])
def test_a_written_number_is_read_back(numerator, places):
    value = Fraction(numerator, 10**places)
    text = write_number(value)
    assert text is not None and parse_number(text) == value
    assert "," not in text and not ("." in text and text.endswith("0"))


def test_a_number_without_last_decimal_cannot_be_written():
    assert write_number(Fraction(1, 3)) is None


UNITS = [
    "1/",
    "1e",
    "1e-",
    "1:",
    "1^",
    "answer ",
    "answer is ",
    "answer*",
    r"\boxed{",
    "{",
    r"\frac{1}",
    "$1$ ",
    "=",
    ".",
]


@pytest.mark.parametrize("unit", UNITS)
def test_a_huge_text_is_judged(unit):
    """No clock: where a pattern takes quadratic time, this does not come back for minutes."""
    text = unit * (200_000 // len(unit))
    assert not verify(text, "19").lenient
    assert not verify(f"#### {text}x", "19").lenient


# --- forms of a completion, and rewards ------------------------------------------------------------

VERDICTS = [  # completion, answer, strict, lenient
    ("<<12+7=19>>\n#### 19", "19", True, True),
    ("#### 19", "19", True, True),
    ("####19", "19", True, True),
    ("####   19  \n", "19", True, True),
    ("#### 19\r\n", "19", True, True),
    ("#### 20", "19", False, False),
    ("19 is wrong\n#### 20", "19", False, False),
    ("#### 20 and then 19", "19", False, True),
    ("The answer is 19", "19", False, True),
    ("19 or 20", "19", False, False),
    ("#### 1,234", "1234", True, True),
    ("#### 1234", "1,234", True, True),
    ("#### 1,23", "123", False, False),
    ("#### 12345,678", "12345678", False, False),
    ("#### $18.00", "18", True, True),
    ("#### 18.", "18", True, True),
    ("#### 18..", "18", False, True),
    ("#### 18.5", "18", False, False),
    ("#### .5", "0.5", True, True),
    ("#### -5", "-5", True, True),
    ("#### -$5", "-5", True, True),
    ("#### $-5", "-5", True, True),
    ("#### 5", "-5", False, False),
    ("#### -0", "0", True, True),
    ("It is 20-7", "7", False, True),
    ("It is -7", "-7", False, True),
    ("It costs $1,250.50 now.", "1250.5", False, True),
    ("#### 19\n#### 20", "19", True, True),
    ("#### 20\n#### 19", "19", False, False),
    ("#### 18 dollars", "18", False, True),
    ("#### 9+9", "18", False, False),
    ("#### 1e1", "10", False, False),
    ("#### \n19", "19", False, True),
    ("##### 19", "19", False, True),
    ("### 19", "19", False, True),
    ("so 19 #### 19", "19", True, True),
    ("#### NaN", "19", False, False),
    ("#### inf", "19", False, False),
    ("#### __import__('os').getcwd()", "19", False, False),
    ("#### ١٩", "19", False, False),  # Arabic-Indic digits are no GSM8K number
    ("#### 00019", "19", True, True),
    ("#### 9007199254740993", "9007199254740992", False, False),  # equal as floats
    ("####", "19", False, False),
    ("", "19", False, False),
]


@pytest.mark.parametrize(("completion", "answer", "strict", "lenient"), VERDICTS)
def test_verdict(completion, answer, strict, lenient):
    assert verify(completion, answer) == Verdict(strict, lenient)


@pytest.mark.parametrize("answer", ["", "nan", "12 apples", "#### 12"])
def test_a_reference_that_is_no_number_is_an_error(answer):
    with pytest.raises(ValueError, match="expected a number"):
        verify("#### 12", answer)


@pytest.mark.parametrize("unit", ["9", "1,", ",123", "$", "-", "$-", ".1", "1.", "#", "####", "#### 1", "\n", " "])
def test_verifier_takes_linear_time_on_long_text(unit):
    text = unit * (200_000 // len(unit))
    start = time.perf_counter()
    for adversarial in (text, text + "x", "#### " + text + "x"):
        assert verify(adversarial, "19") == Verdict(strict=False, lenient=False)
        format_reward([adversarial])
    assert time.perf_counter() - start < 2.0  # quadratic time would take minutes


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<<12+7=19>>\n#### 19", 1.0),
        ("#### 19 \n", 1.0),
        ("#### 1,234.", 1.0),
        ("#### 19\nmore", 0.0),
        ("#### 19\n#### 19", 0.0),
        ("########19", 0.0),
        ("#### nineteen", 0.0),
        ("####\n19", 0.0),
        ("19", 0.0),
        ("", 0.0),
    ],
)
def test_format_reward_wants_one_final_answer_line(text, reward):
    assert format_reward([text]) == [reward]


def test_rewards_agree_on_plain_and_conversational_completions():
    texts, answers = ["<<12+7=19>>\n#### 19", "#### 20", "19"], ["19", "19", "19"]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    for completions in (texts, chats):
        extra = {"completions": completions, "prompts": texts, "answer": answers, "trainer_state": None}
        assert REWARDS["correctness"](**extra) == [1.0, 0.0, 0.0]
        assert REWARDS["format"](**extra) == [1.0, 1.0, 0.0]
