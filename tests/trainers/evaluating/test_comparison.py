"""Two records are compared problem by problem, row by row, and only where they are of the same problems."""

import pytest

from trainers.evaluating.comparison import compare, notes
from trainers.evaluating.record import read_record
from trainers.evaluating.statistics import clustered_mean, gain, mcnemar
from trainers.settings.options import ConfigError


def record(strict, lenient=None, clusters="0 1 2 3 4 5", changes=None, **more):
    outcomes = {"strict": strict, "lenient": lenient or strict}
    row = {"changes": changes or {}, "outcomes": {"greedy": outcomes}, "settings": {"training.seed": 0}}
    base = {"data": "d" * 64, "weights": "w", "problems": 6, "independent_clusters": len(set(clusters.split())),
            "split": "test", "interval": "Wilson", "repeats": 1, "clusters": clusters, "rows": [row]}  # fmt: skip
    return base | more


def test_the_table_counts_problems_by_who_solves_them():
    strict, lenient = compare(record(["110100"], ["111100"]), record(["101111"], ["111111"]))
    assert (strict.both, strict.only_before, strict.only_after, strict.neither) == (2, 1, 3, 0)
    assert (lenient.both, lenient.only_before, lenient.only_after, lenient.neither) == (4, 0, 2, 0)
    assert strict.p == mcnemar(1, 3) and (strict.decoding, strict.parser) == ("greedy", "strict")
    assert strict.gain == gain([1, 1, 0, 1, 0, 0], [1, 0, 1, 1, 1, 1], range(6))
    assert (strict.before.value, strict.after.value) == (pytest.approx(3 / 6), pytest.approx(5 / 6))


def test_intervals_are_clustered_where_problems_are_and_the_reader_is_told():
    clusters = "0 0 0 1 1 1"
    old, new = record(["111000"], clusters=clusters), record(["111110"], clusters=clusters)
    paired = compare(old, new)[0]
    assert paired.before == clustered_mean([1, 1, 1, 0, 0, 0], clusters.split())
    assert paired.gain == gain([1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0], clusters.split())
    assert any("2 independent clusters" in note and "trust the interval" in note for note in notes(old, new))
    assert not any("trust" in note for note in notes(record(["111000"]), record(["111100"])))


def test_repetitions_are_averaged_and_have_no_one_table():
    paired = compare(record(["110000", "100000"], repeats=2), record(["111111"]))[0]
    assert paired.gain == gain([1, 0.5, 0, 0, 0, 0], [1] * 6, range(6))
    assert (paired.both, paired.p) == (None, None) and paired.cells()[-1] == "-"


def test_rows_of_a_sweep_meet_their_like():
    old = record(["111000"], changes={"generation.steps": 4})
    new = record(["111111"], changes={"generation.steps": 8})
    new["rows"].append(record(["000000"], changes={"generation.steps": 4})["rows"][0])
    strict, _ = compare(old, new)
    assert strict.changes == {"generation.steps": 4} and strict.after.value == 0


def test_what_else_differs_is_said():
    old, new = record(["111000"]), record(["111000"])
    new["rows"][0]["settings"] = {"training.seed": 1}
    assert "training.seed: 0 before, 1 after." in notes(old, new)
    assert "Both records are of the same weights." in notes(old, new)
    assert "Both records are of the same weights." not in notes(old, new | {"weights": "v"})


@pytest.mark.parametrize(
    ("other", "fragments"),
    [
        (record(["111000"], data="e" * 64), ["different problems", "sha256 dddddddddddd", "sha256 eeeeeeeeeeee"]),
        (record(["111000"], changes={"generation.steps": 4}), ["no row and decoding in common", "generation.steps"]),
    ],
)
def test_records_without_common_problems_are_refused(other, fragments):
    with pytest.raises(ConfigError) as error:
        compare(record(["111000"]), other)
    assert all(fragment in str(error.value) for fragment in fragments)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0, "rows": []}', "# title"])
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"a\.json: expected"):
        read_record(path)
    with pytest.raises(ConfigError, match=r"b\.json: No such file"):
        read_record(tmp_path / "b.json")
