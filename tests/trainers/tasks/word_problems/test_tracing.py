"""What every number of a problem is, and which words stand for one."""

from fractions import Fraction

from traceable import SHOP

from trainers.tasks.word_problems.tracing import Slot, numbers_of, trace
from trainers.tasks.word_problems.vocabulary import IMPLIED


def test_every_number_of_a_solution_becomes_a_slot_of_the_right_quantity():
    traced = trace(SHOP)
    assert [str(value) for value in traced.values] == ["5", "6", "8", "14", "84", "40", "124"]
    slots = [part for part in traced.solution if isinstance(part, Slot)]
    assert all(Fraction(slot.text) == traced.values[slot.quantity] for slot in slots)
    assert "".join(part if isinstance(part, str) else part.text for part in traced.solution) == SHOP.solution


def test_words_imply_values():
    assert IMPLIED["twice"] == {2} and IMPLIED["seven"] == IMPLIED["week"] == {7} and IMPLIED["quarter"] == {4, 25}


def test_numbers_of_a_text_stand_where_they_are_written():
    text = "He pays $1,200 for 3 bags (12 pens)."
    assert [text[number.start : number.end] for number in numbers_of(text)] == ["1,200", "3", "12"]
