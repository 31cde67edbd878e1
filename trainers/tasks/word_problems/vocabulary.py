"""Words that say a number: those that spell it, and those that may stand for it.

A copy of a problem with other numbers must not change a number that a word also says: "half" stands for a 2, "week"
for a 7. See `trainers.tasks.word_problems.tracing`.
"""

import re

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
SPELLED = {word: value for value, word in enumerate(_UNITS.split())} | {
    **{"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90},
    **{"hundred": 100, "thousand": 1000, "million": 1000000, "dozen": 12, "dozens": 12},
}
# value -> words that may stand for it; a copy that changes the value would contradict the word
_IMPLYING = {
    2: "half halves halved twice double doubles doubled doubling pair pairs couple couples both twins second either "
    "other square squares rectangle rectangles rectangular weekend weekends",
    3: "third thirds triple triples tripled thrice triplets yard yards triangle triangles triangular",
    4: "quarter quarters fourth fourths quadruple quadruples quadrupled season seasons month months monthly square "
    "squares rectangle rectangles rectangular",
    5: "fifth fifths nickel nickels weekday weekdays",
    6: "sixth sixths",
    7: "seventh week weeks weekly",
    8: "eighth eighths",
    9: "ninth ninths",
    10: "tenth tenths dime dimes decade decades",
    12: "foot feet inch inches month months monthly year years yearly annual annually",
    16: "pound pounds ounce ounces",
    24: "day days daily",
    25: "quarter quarters",
    30: "month months monthly",
    52: "year years yearly annual annually",
    60: "hour hours hourly minute minutes",
    100: "cent cents century centuries meter meters",
    365: "year years yearly annual annually",
}
IMPLIED: dict[str, set[int]] = {word: {value} for word, value in SPELLED.items()}
for _value, _words in _IMPLYING.items():
    for _word in _words.split():
        IMPLIED.setdefault(_word, set()).add(_value)

WORD = re.compile(r"[A-Za-z]+")


def words_of(text: str) -> list[str]:
    """The words of a text, without case."""
    return WORD.findall(text.lower())


def spelled_in(text: str) -> set[int]:
    """The numbers that the words of a text spell."""
    return {SPELLED[word] for word in words_of(text) if word in SPELLED}


def implied_in(text: str) -> set[int]:
    """The numbers that a word of a text spells or may stand for."""
    return {value for word in words_of(text) for value in IMPLIED.get(word, ())}
