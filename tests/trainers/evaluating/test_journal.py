"""A journal gives back what was written, drops a line that a kill truncated, and refuses what is not its own."""

import pytest

from trainers.evaluating.evaluation import Answer
from trainers.evaluating.journal import Journal, Place, journal_path
from trainers.settings.options import ConfigError

IDENTITY = {"data": "d", "weights": "w", "rows": {"0": {"generation.steps": 7}}}
ANSWERS = {
    Place(0, "sampled", repetition, problem): Answer(problem, problem == 1, True, f'"é"\n{problem}\u2028', 7, 0.1)
    for repetition in (0, 1)
    for problem in (2, 0, 1)
}


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "a.jsonl", IDENTITY)
    assert journal.open() == {}
    journal.append(ANSWERS.items())
    return journal


def test_what_was_written_is_read(journal):
    assert Journal(journal.path, IDENTITY).open() == ANSWERS


@pytest.mark.parametrize("lost", [1, 2, 40])
def test_a_truncated_last_line_is_dropped_and_writing_goes_on_after_it(journal, lost):
    text = journal.path.read_bytes()
    journal.path.write_bytes(text[:-lost])
    *kept, last = ANSWERS.items()
    again = Journal(journal.path, IDENTITY)
    assert again.open() == dict(kept)
    again.append([last])
    assert journal.path.read_bytes() == text


@pytest.mark.parametrize("text", [b"", b'{"identity": {"da'])
def test_a_journal_without_a_first_line_starts_anew(tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_bytes(text)
    assert Journal(path, IDENTITY).open() == {}
    assert Journal(path, IDENTITY).open() == {}


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"weights": "other"}, ["weights is 'other' here and 'w' there"]),
        ({"data": "other"}, ["data is 'other' here and 'd' there"]),
        ({"rows": {"0": {"generation.steps": 9}}}, ["rows 0 generation.steps is 9 here and 7 there"]),
        ({"rows": {**IDENTITY["rows"], "1": {}}}, ["rows 1 is {} here and None there"]),
    ],
)
def test_another_evaluation_is_refused_and_left_alone(journal, change, fragments):
    text = journal.path.read_bytes()
    with pytest.raises(ConfigError) as error:
        Journal(journal.path, IDENTITY | change).open()
    for fragment in (*fragments, "a.jsonl", "--json"):
        assert fragment in str(error.value)
    assert journal.path.read_bytes() == text


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"row": 0}', b"7"])
def test_a_damaged_line_inside_is_named(journal, line):
    lines = journal.path.read_bytes().splitlines(keepends=True)
    lines[2] = line + b"\n"
    journal.path.write_bytes(b"".join(lines))
    with pytest.raises(ConfigError, match=r"a\.jsonl, line 3: damaged"):
        Journal(journal.path, IDENTITY).open()


@pytest.mark.parametrize("head", [b"{}", b"7", b"text", b'{"question": "?"}'])
def test_another_kind_of_file_is_refused(tmp_path, head):
    path = tmp_path / "a.jsonl"
    path.write_bytes(head + b"\n")
    with pytest.raises(ConfigError, match="expected the journal of an evaluation"):
        Journal(path, IDENTITY).open()


def test_the_journal_lies_beside_its_record(tmp_path):
    assert journal_path(tmp_path / "steps.4.json") == tmp_path / "steps.4.jsonl"
    assert journal_path(tmp_path / "steps.4") == tmp_path / "steps.4.jsonl"
