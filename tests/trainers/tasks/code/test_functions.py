"""Generated functions: words, Python and values agree; equal tables are in one split."""

from trainers.tasks.code import functions
from trainers.tasks.code.functions import CONSTANTS, GRID, SHAPES, Function, behaviour


def test_the_words_and_the_python_of_every_shape_agree_with_its_values():
    for shape in SHAPES:
        for c, d in ((2, 3), (20, 19), (7, 7)):
            compiled = eval(f"lambda a, b: {shape.code.format(c=c, d=d)}")  # text of the task, not of a model
            assert all(compiled(a, b) == shape.value(a, b, c, d) for a, b in GRID)
            assert ("{c}" in shape.code, "{d}" in shape.code) == ("{c}" in shape.words, "{d}" in shape.words)


def test_the_split_of_all_functions_is_by_their_tables():
    """Over every function there is: equal tables, told apart by nothing but their wording, are in one split."""
    tables: dict[tuple[int, ...], set[str]] = {}
    for shape in range(len(SHAPES)):
        for c in CONSTANTS[::3]:
            for d in CONSTANTS[::3]:
                function = Function(shape, c, d)
                table = tuple(function(a, b) for a, b in GRID)
                tables.setdefault(table, set()).add(functions.split_of(function))
    assert all(len(splits) == 1 for splits in tables.values())
    assert len({behaviour(Function(0, c, 2)) for c in CONSTANTS}) == len(CONSTANTS)
    assert behaviour(Function(0, 7, 2)) == behaviour(Function(0, 7, 3))  # the sum has no second constant


def test_examples_are_no_tests_and_no_constant_passes_all():
    for shape in range(len(SHAPES)):
        for c in (2, 11, 20):
            function = Function(shape, c, 9)
            pairs = function.pairs()
            assert len(set(pairs)) == functions.EXAMPLES + functions.TESTS
            assert len({function(a, b) for a, b in pairs[functions.EXAMPLES :]}) > 1
            assert not any(test.removeprefix("assert ") in function.prompt() for test in function.tests())
