"""An unknown name is refused with its option and all known ones."""

import pytest

from core.names import check_known, look_up


@pytest.mark.parametrize("known", [("one", "two"), {"one": 1, "two": 2}], ids=["list", "registry"])
def test_an_unknown_name_is_named_with_the_known_ones(known):
    check_known("some.option", "one", known)
    with pytest.raises(ValueError, match=r"^some\.option='three' is unknown; known: one, two$"):
        check_known("some.option", "three", known)


def test_a_known_name_stands_for_its_entry():
    assert look_up("some.option", "two", {"one": 1, "two": 2}) == 2
    with pytest.raises(ValueError, match=r"some\.option='three' is unknown"):
        look_up("some.option", "three", {"one": 1})
