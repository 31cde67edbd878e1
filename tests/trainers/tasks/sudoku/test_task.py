"""The sudoku task: every puzzle has one solution, which counts and nothing else does; splits share no solution, even
with other digits; bad input is named."""

import itertools
import json
import random
import re
from pathlib import Path

import datasets
import pytest
from sudoku_symmetries import every_place_symmetry, every_renaming, plain, renamed
from transformers import AutoTokenizer

from trainers.models.tiny import TINY_ASSETS
from trainers.tasks import generating
from trainers.tasks.sudoku import grids, puzzles, task

SPLITS = ("train", "validation", "test")
CANVAS = 20  # tokens, of configs/sft_sudoku.yaml
SOLUTION = "1234 3412 2143 4321"
PUZZLE = "1.34 3412 .143 43.1"
ANSWER = f"{PUZZLE}={SOLUTION}"


def load(**overrides) -> dict[str, datasets.Dataset]:
    sizes = {"train_size": 300, "validation_size": 40, "test_size": 60, "seed": 0}
    return task.load_splits(**({"data_files": None, "dataset_name": None} | sizes | overrides))


# --- splits ---------------------------------------------------------------------------------------


def test_classes_are_split_8_2_2_and_both_kinds_of_grid_are_in_every_split(all_solutions):
    splits = {split: {s for s in all_solutions if puzzles.split_of(s) == split} for split in SPLITS}
    assert [len(splits[split]) for split in SPLITS] == [8 * 24, 2 * 24, 2 * 24]
    assert all(every_renaming(grid) <= splits[split] for split in SPLITS for grid in splits[split])
    symmetries = list(every_place_symmetry())
    assert len(symmetries) == 128
    kind = {g for move in symmetries for g in every_renaming(move("1234341221434321"))}
    assert len(kind) == 96
    for split in SPLITS:
        assert kind & splits[split]
        assert splits[split] - kind


@pytest.mark.parametrize("seed", range(4))
def test_no_held_out_grid_is_a_masked_training_grid_even_with_other_digits(all_solutions, seed):
    """Whatever digits are exchanged, a held-out puzzle's clues agree with no solution that was trained on."""
    splits = load(seed=seed, min_blanks=1, max_blanks=12)
    trained = {g for s in splits["train"]["cluster"] for g in every_renaming(plain(s))}
    for split, other in itertools.permutations(SPLITS, 2):
        assert not set(splits[split]["cluster"]) & set(splits[other]["cluster"])
        assert not set(splits[split]["prompt"]) & set(splits[other]["prompt"])
    for split in ("validation", "test"):
        for answer in splits[split]["answer"]:
            puzzle, solution = map(plain, answer.split("="))
            assert solution not in trained
            assert not any(all(p in (".", d) for p, d in zip(puzzle, grid, strict=True)) for grid in trained)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (4, 8), (12, 12), (1, 12)])
def test_every_puzzle_has_one_solution_and_as_many_blanks_as_asked_for(all_solutions, low, high):
    splits = load(min_blanks=low, max_blanks=high, train_size=40, validation_size=20, test_size=20)
    for row in (row for split in splits.values() for row in split):
        puzzle, solution = row["answer"].split("=")
        grid = plain(puzzle)
        assert low <= grid.count(".") <= high
        fits = [s for s in all_solutions if all(g in (".", d) for g, d in zip(grid, s, strict=True))]
        assert fits == [plain(solution)]
        assert row == {
            "prompt": f"Sudoku: {puzzle}\nAnswer:",
            "completion": solution,
            "answer": row["answer"],
            "cluster": solution,
        }
        assert re.fullmatch(r"[1-4]{4}( [1-4]{4}){3}", solution)


def test_no_puzzle_repeats_in_a_held_out_split():
    splits = load(test_size=700, min_blanks=1, max_blanks=1)  # of 48 * 16 = 768
    assert len(set(splits["test"]["prompt"])) == 700


def test_generation_depends_on_the_seed_alone():
    test = load()["test"].to_list()
    assert load(train_size=5, validation_size=7)["test"].to_list() == test
    assert load(seed=1)["test"].to_list() != test


def test_more_held_out_puzzles_than_exist_are_refused(monkeypatch):
    monkeypatch.setattr(generating, "MAX_FRUITLESS_DRAWS", 500)
    with pytest.raises(
        ValueError, match=r"task\.test_size = 800: only about 7\d\d distinct puzzles with 1 to 1 blanks"
    ):
        load(test_size=800, min_blanks=1, max_blanks=1)


def test_texts_have_one_length_and_fit_the_canvas_with_a_token_a_cell():
    tokenizer = AutoTokenizer.from_pretrained(TINY_ASSETS)
    rows = load(min_blanks=1, max_blanks=12)["train"]
    completions = tokenizer(list(rows["completion"]))["input_ids"]
    assert {len(ids) + 1 for ids in completions} == {CANVAS}  # with EOS
    assert len({len(ids) for ids in tokenizer(list(rows["prompt"]))["input_ids"]}) == 1
    assert tokenizer.convert_ids_to_tokens(completions[0])[:4] == list(rows["completion"][0][:4])


# --- verifier -------------------------------------------------------------------------------------

OTHER = "1234 3412 4321 2143"  # a solution too, of other puzzles
VERDICTS = [  # completion, strict, lenient
    (SOLUTION, True, True),
    (f" {SOLUTION}\n", True, True),
    (plain(SOLUTION), False, True),
    (SOLUTION.replace(" ", "\n"), False, True),
    (SOLUTION.replace(" ", "  "), False, True),
    ("|1 2|3 4|\n|3 4|1 2|\n+---+---+\n|2 1|4 3|\n|4 3|2 1|", False, True),
    ("[[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]]", False, True),
    (f"The answer is {SOLUTION}.", False, True),
    (f"{PUZZLE}\n{SOLUTION}", False, True),
    (f"{OTHER}\n{SOLUTION}", False, True),  # the last grid counts
    (f"{SOLUTION}\n{OTHER}", False, False),
    (f"{SOLUTION} done in 5 steps", False, True),  # too few digits for a grid
    (f"{SOLUTION} 5", False, False),  # the last 16 digits are another grid
    (f"1 {SOLUTION}", False, True),
    (OTHER, False, False),
    (PUZZLE, False, False),
    ("1134 3412 2143 4321", False, False),
    ("1234 3412 2143 432", False, False),
    ("1234 3412 2143 4321 4321", False, False),
    ("1234 3412 2143", False, False),
    ("0234 3412 2143 4321", False, False),
    ("1111 1111 1111 1111", False, False),
    ("\u0661234 3412 2143 4321", False, False),  # Arabic-Indic one
    ("\uff11234 3412 2143 4321", False, False),  # full-width one
    ("", False, False),
]


@pytest.mark.parametrize(("completion", "strict", "lenient"), VERDICTS)
def test_verdict(completion, strict, lenient):
    verdict = task.verify(completion, ANSWER)
    assert (verdict.strict, verdict.lenient) == (strict, lenient)


def test_of_all_solutions_only_the_one_with_every_clue_is_right(all_solutions):
    for row in load(min_blanks=8, max_blanks=12)["test"].select(range(20)):
        puzzle, _ = row["answer"].split("=")
        for grid in all_solutions:
            keeps = all(clue in (".", digit) for clue, digit in zip(plain(puzzle), grid, strict=True))
            assert task.verify(grids.in_rows(grid), row["answer"]).strict == keeps


@pytest.mark.parametrize("unit", ["1", "1 ", "1234 ", "|", " ", "\n", "-", "1x", "[", SOLUTION])
def test_long_text_is_wrong_and_no_error(unit):
    text = unit * (100_000 // len(unit))
    assert task.verify(f"{text}\x00 2", ANSWER).strict is False
    assert task.format_reward([text]) == [0.0]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        SOLUTION,
        f"{PUZZLE}={OTHER}",
        f"{SOLUTION}={SOLUTION}",
        f".... .... .... ....={SOLUTION}",  # more than one solution
        f"{plain(PUZZLE)}={SOLUTION}",
        f"2{PUZZLE[1:]}={SOLUTION}",
        f"{ANSWER}\n",
    ],
)
def test_a_reference_that_is_no_puzzle_with_its_solution_is_an_error(answer):
    with pytest.raises(ValueError, match="expected a puzzle and its solution"):
        task.verify(SOLUTION, answer)


# --- rewards --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "format_reward", "cells"),
    [
        (SOLUTION, 1.0, 1.0),
        ("1134 3412 2143 4321", 1.0, 5 / 9),  # 2 of 3 blanks
        ("1134 3412 1143 4321", 1.0, 1 / 9),
        ("1134 3412 1143 4311", 1.0, -1 / 3),
        ("2234 3412 2143 4321", 1.0, -1 / 3),  # all blanks right, but a clue was changed
        (OTHER, 1.0, -1 / 3),
        (PUZZLE, 0.0, -1 / 3),
        (plain(SOLUTION), 0.0, -1 / 3),
        ("", 0.0, -1 / 3),
    ],
)
def test_rewards_on_plain_and_conversational_completions(completion, format_reward, cells):
    for completions in ([completion], [[{"role": "assistant", "content": completion}]]):
        told = {"completions": completions, "prompts": [PUZZLE], "answer": [ANSWER], "trainer_state": None}
        assert task.REWARDS["correctness"](**told) == [float(completion == SOLUTION)]
        assert task.REWARDS["format"](**told) == [format_reward]
        assert task.REWARDS["cells"](**told) == pytest.approx([cells])


def test_no_constant_answer_earns_anything_from_cells(all_solutions):
    """A solution that is given to every puzzle changes a clue of all but its own: one of 48 held-out ones."""
    answers = list({answer.split("=")[1]: answer for answer in load(test_size=200)["test"]["answer"]}.values())
    earned = {
        grid: sum(task.cells([grids.in_rows(grid)] * len(answers), answers)) / len(answers)
        for grid in [*random.Random(0).sample(all_solutions, 40), plain(answers[0].split("=")[1]), "1" * 16]
    }
    assert max(earned.values()) == pytest.approx(-1 / 3 + 4 / 3 / len(answers))
    assert len(answers) > 40


def test_filling_in_without_reading_the_clues_earns_nothing_on_average():
    """Exactly 0 over all exchanges of a puzzle's digits: each blank is a given digit in a quarter of them."""
    fill = random.Random(0)
    for answer in load()["test"].select(range(30))["answer"]:
        guess = "".join(fill.choice("1234") for _ in range(16))
        earned = []
        for digits in itertools.permutations("1234"):
            puzzle, solution = (renamed(part, "".join(digits)) for part in answer.split("="))
            grid = "".join(g if c == "." else c for c, g in zip(plain(puzzle), guess, strict=True))
            earned += task.cells([grids.in_rows(grid)], [f"{puzzle}={solution}"])
        assert sum(earned) == pytest.approx(0, abs=1e-12)


# --- records --------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def records(split: str, size: int, seed: int = 5) -> list[dict]:
    drawn = puzzles.generate(split, size, seed=seed, min_blanks=4, max_blanks=6)
    return [{"puzzle": puzzle.grid, "solution": puzzle.solution} for puzzle in drawn]


def test_a_file_is_divided_as_generated_puzzles_are(tmp_path):
    rows = [row for split in SPLITS for row in records(split, 20)]
    rows += rows[:10]  # repeated
    splits = load(data_files=[write(tmp_path / "a.jsonl", rows)], train_size=None, validation_size=15, test_size=None)
    assert [splits[split].num_rows for split in ("validation", "test")] == [15, 20]
    assert splits["train"].num_rows == len({row["puzzle"] for row in records("train", 20)})
    for split in SPLITS:
        assert {puzzles.split_of(plain(solution)) for solution in splits[split]["cluster"]} == {split}


def test_the_classes_of_a_test_file_are_in_no_other_split(tmp_path):
    train = write(tmp_path / "a.jsonl", [row for split in SPLITS for row in records(split, 60)])
    held_out = renamed(records("train", 1)[0]["solution"], "4312")  # a renamed training solution
    test = write(tmp_path / "b.jsonl", [{"puzzle": held_out[:8] + "." + held_out[9:]}])
    splits = load(data_files=[train, test], train_size=None, validation_size=None, test_size=None)
    assert [plain(solution) for solution in splits["test"]["cluster"]] == [held_out]
    for split in ("train", "validation"):
        assert splits[split].num_rows > 0
        assert not {plain(solution) for solution in splits[split]["cluster"]} & every_renaming(held_out)


def test_a_test_file_with_every_class_leaves_nothing_to_train_on(tmp_path):
    rows = [row for split in SPLITS for row in records(split, 200)]
    files = [write(tmp_path / name, rows) for name in ("a.jsonl", "b.jsonl")]
    with pytest.raises(ValueError, match=r"none is left for train; .* the test source has 12 of the 12 classes"):
        load(data_files=files)


@pytest.mark.parametrize(
    "spelling", ["1.34341221434321", "1034341221434321", "1_34 3412 2143 4321", "1.34\n3412\n21434321"]
)
def test_spellings_of_a_puzzle(spelling):
    assert str(puzzles.to_puzzle({"puzzle": spelling}, "here")) == f"1.34 3412 2143 4321={SOLUTION}"


EXPECTED = 'expected {"puzzle": "1..4............"} of 16 cells'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, EXPECTED),
        ([PUZZLE], EXPECTED),
        ({"puzzle": 1234}, EXPECTED),
        ({"puzzle": PUZZLE[:-1]}, EXPECTED),
        ({"puzzle": PUZZLE.replace("4", "5")}, EXPECTED),
        ({"puzzle": SOLUTION}, EXPECTED),  # no blank
        ({"puzzle": PUZZLE, "solution": PUZZLE[:-1]}, EXPECTED),
        ({"puzzle": PUZZLE, "solution": OTHER}, f"the solution of {PUZZLE} is {SOLUTION}, not {OTHER}"),
        ({"puzzle": PUZZLE.replace("1.34", "11.4")}, "the puzzle 11.4 3412 .143 43.1 has no solution"),
        ({"puzzle": "1234 3412 .... ...."}, "the puzzle 1234 3412 .... .... has more than one solution"),
    ],
)
def test_bad_records_are_named_by_file_and_line(tmp_path, row, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(records("train", 1)[0]) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2: {message}")) as raised:
        load(data_files=[str(path)])
    assert "\n" not in str(raised.value)


def test_hub_rows_are_read_like_file_rows(tmp_path, monkeypatch):
    rows = [row for split in SPLITS for row in records(split, 20)]
    hub = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: hub)
    local = load(data_files=[write(tmp_path / "a.jsonl", rows)])
    assert all(load(dataset_name="x/sudoku")[split].to_list() == local[split].to_list() for split in SPLITS)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"test": hub["train"]})
    with pytest.raises(ValueError, match=r"task\.dataset_name = 'x/sudoku': expected a split train, got \['test'\]"):
        load(dataset_name="x/sudoku")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"min_blanks": 0}, "task.options.min_blanks = 0: must be a whole number in 1..12"),
        ({"max_blanks": 13}, "task.options.max_blanks = 13: must be a whole number in 1..12"),
        ({"max_blanks": "8"}, "task.options.max_blanks = '8': must be a whole number in 1..12"),
        ({"min_blanks": 6, "max_blanks": 5}, "task.options.min_blanks = 6: must be at most max_blanks = 5"),
        ({"test_size": 0}, "task.test_size = 0: must be at least 1"),
        ({"data_files": ["a"], "dataset_name": "b"}, "not both"),
    ],
)
def test_impossible_values_are_named(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(**overrides)
