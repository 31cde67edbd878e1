"""Held-out means of the user's own rewards: measured, written down, compared, and drawn beside accuracies."""

import io
import json
import math
import re

import pytest
from rich.console import Console

from trainers.distributed.processes import Processes
from trainers.evaluating.comparison import compare, notes
from trainers.evaluating.evaluation import Evaluation
from trainers.evaluating.record import Found, read_record, write_record
from trainers.evaluating.statistics import (
    change_of_mean,
    change_text,
    mean_of,
    means_of,
    paired_difference,
    score_text,
)
from trainers.evaluating.sweeps import rows
from trainers.evaluating.work import Work
from trainers.experiment import build_evaluator, load_experiment_policy, load_task
from trainers.reporting.held_out import held_out_scores, held_out_tables, print_held_out
from trainers.reporting.tables import held_out_table
from trainers.rewarding.held_out import RewardJudge


def evaluation(values, strict=()):
    n = len(values)
    return Evaluation(list(strict), list(strict), list(range(n)), [""] * n, 7.0, 1.0, {"length": values})


def test_a_mean_is_that_of_the_known_values_with_its_error():
    values = [3.0, None, -1.0, 4.0]
    found = mean_of(values, list("abcd"))
    assert vars(found) == vars(paired_difference([0.0] * 3, [3.0, -1.0, 4.0], list("acd")))
    assert found.value == 2.0 and str(found).startswith("2.000 [")
    assert math.isnan(mean_of([None, None], "ab").value)
    assert means_of([[1.0, None, None], [3.0, None, 5.0]]) == [2.0, None, 5.0]


def test_a_change_is_of_the_problems_that_both_know():
    found = change_of_mean([1.0, None, 2.0], [4.0, 9.0, 3.0], "abc")
    assert found.value == 2.0
    assert vars(found) == vars(paired_difference([1.0, 2.0], [4.0, 3.0], "ac"))


def test_shares_are_percentages_and_rewards_are_not():
    entry = {"value": 0.5, "low": -0.25, "high": 1.5}
    assert score_text("sampled strict", entry) == "50.0% [-25.0, 150.0]"
    assert score_text("sampled reward length", entry) == "0.500 [-0.250, 1.500]"
    assert change_text("greedy lenient", entry) == "+50.0 [-25.0, +150.0]"
    assert change_text("greedy reward x", entry) == "+0.500 [-0.250, +1.500]"


def shown(printed):
    """The lines that a terminal of 80 columns has of it."""
    console = Console(width=80, file=io.StringIO())
    console.print(printed)
    return [line for line in console.file.getvalue().splitlines() if line.strip()]


def test_only_what_was_measured_is_said():
    rewards, both = evaluation([1.0, 2.0]), evaluation([1.0, 2.0], [True, False])
    alone = shown(held_out_scores({"sampled": rewards}, None))
    assert "held out" in alone[0] and "before" in alone[0]
    assert [line.split("[")[0].split() for line in alone[2:]] == [["sampled,", "reward", "length", "1.500"]]
    _, _, strict, lenient, mean = shown(held_out_scores(None, {"greedy": both}))
    assert strict.split()[:3] == ["greedy,", "strict", "50.0%"] and lenient.split()[1] == "lenient"
    assert mean.split()[:4] == ["greedy,", "reward", "length", "1.500"]
    nothing = Evaluation([], [], [0], [""], 1.0, 1.0)
    assert "no reward and no answer scores them" in shown(held_out_scores(None, {"sampled": nothing}))[0]
    tables = held_out_tables({"sampled": rewards}, {"sampled": evaluation([2.0, 5.0])})
    assert list(tables["after"]) == ["sampled reward length"]
    assert tables["difference"]["sampled reward length"]["value"] == 2.0
    _, *lines = held_out_table(tables).splitlines()
    assert lines[1].startswith("| sampled reward length | 1.500 [") and "%" not in "".join(lines)


def test_a_judge_calls_rewards_as_trl_does_and_leaves_failures_out(caplog):
    seen = {}

    def near(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, answer, **kwargs):
        seen.update(kwargs, prompts=prompts, ids=completion_ids, answer=answer, step=trainer_state.global_step)
        log_extra("column", answer)
        return [None if text == "none" else float(1 / len(text)) for text in completions]

    async def slow(completions):
        return [2.0 for _ in completions]

    columns = {"prompt": ["P", "Q", "R"], "answer": [1, 2, 3], "cluster": list("abc"), "completion": ["x"] * 3}
    judge = RewardJudge({"near": near, "slow": slow}, 5.0)
    found = judge(["<P>", "<Q>", "<R>"], ["ab", "none", ""], [[1, 2], [3], []], columns)
    assert found == {"near": [0.5, None, None], "slow": [2.0, 2.0, 2.0]}
    assert seen["answer"] == [3] and seen["prompts"] == ["<R>"] and seen["ids"] == [[]]  # of the repetition
    assert "completion" not in seen and seen["step"] == 0
    assert re.search(r"reward 'near' failed for 1 of 3 held-out completions", caplog.text)


@pytest.fixture
def own(tmp_path):
    """Options of a task of one's own, on 40 problems in the words of the embedded model."""
    problems = [
        {"prompt": f"Tom has {a} pens and buys {b} more.\nAnswer:", "answer": str(a + b)}
        for a in range(2, 10)
        for b in range(2, 7)
    ]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    (tmp_path / "my_rewards.py").write_text("def length(completions):\n    return list(map(len, completions))\n")
    return ["--task.name", "own", "--task.data_files", str(tmp_path / "my.jsonl")]


def test_an_evaluation_measures_rewards_and_two_are_compared(own, tmp_path, model_dir):
    config = tmp_path / "config.yaml"
    config.write_text("trainer: grpo\ngeneration: {steps: 5, max_completion_length: 10}\n")
    told = [str(config), *own, "--task.reward", f"{tmp_path / 'my_rewards.py'}:length"]
    swept = rows([*told, "--model.name_or_path", str(model_dir)], [])
    task, splits = load_task(swept[0].config.task)
    policy = load_experiment_policy(swept[0].config)
    work = Work([build_evaluator(swept[0].config, task, splits["test"])], policy, ["sampled", "greedy"], 2)
    found = Found.of(swept, work, work.do(None, Processes.current()), [1], "test")
    described = found.describe("data", "weights", texts=True)
    row = described["rows"][0]
    assert set(row["accuracy"]) == {"sampled reward length", "greedy reward length"}
    assert row["outcomes"] == {"sampled": {}, "greedy": {}} and row["pass_at"] == {}
    texts, values = row["completions"]["sampled"], row["rewards"]["sampled"]["reward length"]
    assert values == [[float(len(text)) for text in run] for run in texts] and len(values) == 2
    assert row["settings"]["task.rewards"][0].startswith("length ")
    write_record(tmp_path / "a.json", described)
    shifted = json.loads((tmp_path / "a.json").read_text())
    for decoding in shifted["rows"][0]["rewards"].values():
        decoding["reward length"] = [[value + 3 for value in run] for run in decoding["reward length"]]
    pairs = compare(read_record(tmp_path / "a.json"), shifted)
    assert [(pair.decoding, pair.parser) for pair in pairs] == [
        ("sampled", "reward length"),
        ("greedy", "reward length"),
    ]
    assert all(pair.gain.value == pytest.approx(3.0) and pair.p is None for pair in pairs)
    assert "in the reward's unit" in notes(described, shifted)[0]


def test_a_reward_with_a_long_name_is_shown_whole_at_80_columns():
    rewards = evaluation([1.0, 2.0])
    long = Evaluation([], [], [0, 1], ["", ""], 7.0, 1.0, {"share_of_the_steps_shown": rewards.rewards["length"]})
    console = Console(width=80, file=io.StringIO())
    print_held_out(console, {"sampled": long}, {"sampled": long})
    printed = console.file.getvalue()
    assert "sampled, reward share_of_the_steps_shown" in printed and "…" not in printed and "gained" in printed
