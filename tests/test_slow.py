"""The table of slow tests names tests that are there."""

import ast
from fnmatch import fnmatchcase

import pytest
from paths import REPO
from slow import SLOW, reason


def fits(nodeid: str, test: str, pattern: str) -> bool:
    return nodeid.startswith(test) and fnmatchcase(nodeid.removeprefix(test).removesuffix("]"), pattern)


def functions(file: str) -> set[str]:
    tree = ast.parse((REPO / "tests" / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", SLOW)
def test_a_row_names_a_file_or_a_test_in_it(row):
    file, _, name = row.partition("::")
    assert (REPO / "tests" / file).is_file()
    assert not name or name in functions(file)


def test_what_stays_fast_is_a_parameter_of_its_test(request):
    """Of the files that were collected together with this one."""
    collected = {item.nodeid for item in request.session.items}
    files = {nodeid.partition("::")[0] for nodeid in collected}
    fast = [(f"tests/{row}[", one) for row, slow in SLOW.items() for one in slow.fast]
    there = [(test, one) for test, one in fast if test.partition("::")[0] in files]
    assert [test + one for test, one in there if not any(fits(nodeid, test, one) for nodeid in collected)] == []


def test_rows_are_read_by_file_by_test_and_by_parameter():
    assert (
        reason("tests/trainers/faults/test_faults.py::test_anything[x]")
        == SLOW["trainers/faults/test_faults.py"].reason
    )
    row = "trainers/models/test_adapters.py::test_every_family_trains_an_adapter_and_reads_it_again"
    assert reason(f"tests/{row}[dream]") is None
    assert reason(f"tests/{row}[bert]") == SLOW[row].reason
    assert reason("tests/test_slow.py::test_rows_are_read_by_file_by_test_and_by_parameter") is None
