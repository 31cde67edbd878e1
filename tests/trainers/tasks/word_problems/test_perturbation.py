"""Copies with other numbers are right, distinct, and worded as before."""

import itertools
import random
import re
from fractions import Fraction

import pytest
from traceable import SHOP, is_right

from trainers.tasks.arithmetic import annotations_of
from trainers.tasks.word_problems.perturbation import equation_truths, perturbed
from trainers.tasks.word_problems.problems import WordProblem
from trainers.tasks.word_problems.tracing import Untraceable


def problem(question: str, *annotations: str, answer: str = "") -> WordProblem:
    """A problem whose solution is nothing but annotations."""
    last = answer or annotations[-1].rpartition("=")[2]
    return WordProblem(question, "\n".join(f"<<{text}>>" for text in annotations) + f"\n#### {last}", question)


def copies_of(source: WordProblem, number: int = 20, seed: int = 0) -> list[WordProblem]:
    return list(itertools.islice(perturbed(source, random.Random(seed)), number))


def test_copies_are_right_and_distinct_and_keep_the_words():
    copies = copies_of(SHOP)
    assert len(copies) == 20 == len({copy.key for copy in copies} - {SHOP.key})
    for copy in copies:
        assert is_right(copy.solution, copy.answer)
        assert re.sub(r"[0-9]+", "#", copy.solution) == re.sub(r"[0-9]+", "#", SHOP.solution)
        pens, price, pads, cost = map(int, re.findall(r"[0-9]+", copy.question))
        assert copy.solution == (
            f"The pens cost {pens} x {price} = $<<{pens}*{price}={pens * price}>>{pens * price}.\n"
            f"The pads cost {pads}*{cost}=$<<{pads}*{cost}={pads * cost}>>{pads * cost}.\n"
            f"She pays ${pens * price} + ${pads * cost} = "
            f"$<<{pens * price}+{pads * cost}={pens * price + pads * cost}>>{pens * price + pads * cost}."
            f"\n#### {pens * price + pads * cost}"
        )


def test_copies_keep_the_order_of_the_numbers_and_stay_within_half_and_double():
    for copy in copies_of(SHOP):
        pens, price, pads, cost = map(int, re.findall(r"[0-9]+", copy.question))
        assert pads <= price <= cost <= pens
        assert 7 <= pens <= 28 and 3 <= price <= 12 and 3 <= pads <= 10 and 4 <= cost <= 16


def test_copies_depend_on_the_seed_alone_and_more_of_them_begin_alike():
    assert copies_of(SHOP, 5) == copies_of(SHOP)[:5]
    assert copies_of(SHOP, 5) != copies_of(SHOP, 5, seed=1)


def test_a_division_stays_whole_and_a_difference_positive():
    source = problem("There are 60 pens. Olga takes 15, then packs bags of 9. How many bags?", "60-15=45", "45/9=5")
    copies = copies_of(source)
    assert copies
    for copy in copies:
        assert all(Fraction(annotation.result) > 1 for annotation in annotations_of(copy.solution) or ())
        assert all("." not in annotation.result for annotation in annotations_of(copy.solution) or ())
        assert is_right(copy.solution, copy.answer)


def test_numbers_stay_that_are_spelled_or_measure_time_or_are_one():
    source = problem(
        "Olga has three bags of 40 pens for 7 days and 1 pad. How many?", "40*3=120", "120*7=840", "840+1=841"
    )
    copies = copies_of(source)
    assert 1 < len(copies) == len({copy.key for copy in copies}) < 20, "40 has six other round values in reach"
    for copy in copies:
        assert re.fullmatch(r"Olga has three bags of (\d+) pens for 7 days and 1 pad\. How many\?", copy.question)
        assert copy.solution.startswith(f"<<{re.findall('[0-9]+', copy.question)[0]}*3=")
        assert is_right(copy.solution, copy.answer)


def test_commas_and_decimal_places_are_kept():
    source = WordProblem(
        "A car costs $4,500 and wheels $300. What do they cost?",
        "They cost 4,500+300=$<<4500+300=4800.00>>4,800.00.\n#### 4,800",
        "car",
    )
    assert len(copies_of(source)) == 20
    for copy in copies_of(source):
        car, wheels = (int(number.replace(",", "")) for number in re.findall(r"[0-9][0-9,]*", copy.question))
        total = car + wheels
        assert f"${car:,} and wheels ${wheels}." in copy.question
        assert (
            copy.solution == f"They cost {car:,}+{wheels}=$<<{car}+{wheels}={total}.00>>{total:,}.00.\n#### {total:,}"
        )


NOWHERE, TWICE, PART = "comes from nowhere", "means two things", "is part of"
WORD, UNUSED, WRONG = "a word may stand for", "feeds no annotation", "do not lead to the answer"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (problem("Olga has 14 pens and loses half. How many?", "14/2=7"), NOWHERE),
        (problem("Olga has 14 pens and 5 pads. How many?", "14+5=19", "19*3=57"), NOWHERE),
        (problem("Olga has 2 cats and twice as many dogs, 9 in all?", "2*2=4", "4+9=13"), WORD),
        (problem("Olga has 3 cats, three dogs and 9 hens. How many?", "3+3=6", "6+9=15"), None),  # 3 stays
        (problem("Olga has 8 cats and 8 dogs and 64 hens. How many?", "8*8=64", "64+64=128"), TWICE),
        (problem("Olga has 8 cats, 4 dogs. How many?", "8+4=12", "8+4=12", "12+12=24"), TWICE),
        (problem("Olga has 14 pens, 5 blue ones. How many pens?", "14+14=28"), UNUSED),
        (problem("Of 50 pens, 20% are blue. How many?", "50*20=1000", "1000/100=10"), PART),
        (problem("Of 50 pens, 20 percent are blue. How many?", "50*20=1000"), PART),
        (problem("Of 50 pens 1/5 are blue. How many?", "50/5=10"), PART),
        (problem("The 2nd of 50 pens, and 7 more?", "50+7=57"), PART),
        (problem("From 7:30 on, 50 pens and 7 more?", "50+7=57"), PART),
        (problem("Olga has 14 pens and 5 pads. How many?", "14+5=20"), WRONG),
        (problem("Olga has 14 pens and 5 pads. How many?", "14+5=19", answer="20"), WRONG),
        (problem("Olga has 5 pens and loses 5. How many?", "5-5=0"), "not positive"),
        (problem("Olga has pens for 7 days and as many again?", "7+7=14"), "no number to replace"),
        (WordProblem("Has 14 and 5?", "It is 4S: <<14+5=19>>19\n#### 19", ""), PART),
        (WordProblem("Has 14 and 5?", "It is 18: <<14+5=19>>19\n#### 19", ""), NOWHERE),
        (WordProblem("Has 14 and 5?", "All nineteen: <<14+5=19>>19\n#### 19", ""), WORD),
    ],
)
def test_what_cannot_be_traced_gets_no_copy(source, reason):
    if reason is None:
        assert all(copy.question.startswith("Olga has 3 cats, three dogs") for copy in copies_of(source))
        return
    with pytest.raises(Untraceable, match=reason):
        copies_of(source)


def test_an_equation_of_the_text_that_would_turn_false_forbids_a_copy():
    """12 - 8 = 4 holds by chance: 4 is a variable of its own, so no draw keeps it but those with the same gap."""
    source = WordProblem(
        "Olga has 12 pens, Henk 8 and Ravi 4. How many?", "As 12 - 8 = 4, it is <<12+8+4=24>>24.\n#### 24", ""
    )
    copies = copies_of(source)
    assert copies and all(equation_truths(copy.solution) == [True] for copy in copies)
