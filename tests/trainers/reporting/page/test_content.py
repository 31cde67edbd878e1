"""What goes into report.html is what was logged and recorded, within its limits."""

import random
from itertools import pairwise

import pytest
from datasets import Dataset
from pages import content_of
from played import HOSTILE, group, playback
from reports import grpo_log, held_out, sft_log, write

from trainers.evaluating.evaluation import Evaluation
from trainers.reporting.page.budget import CURVES, HELD_OUT, LIMIT, PLAYED, PROBLEMS, ROLLOUTS, TEXT, Budget, clipped
from trainers.reporting.page.content import SETTINGS, run_content
from trainers.reporting.page.document import document, write_page
from trainers.reporting.page.panels import POINTS, REST, curves
from trainers.reporting.page.rollouts import browsed, spread
from trainers.reporting.page.solved import solved_problems
from trainers.reporting.rollout_log import RolloutLog


def lines_of(found):
    return {panel["title"]: [line["key"] for line in panel["lines"]] for panel in found["panels"]}


# ---- curves ---------------------------------------------------------------------------------------------------------


def test_a_panel_has_the_lines_that_were_logged():
    found = curves(grpo_log(frac_reward_zero_std=0.25, kl=None))
    lines = lines_of(found)
    assert lines["Reward"] == ["reward", "rewards/correctness/mean"]
    assert lines["Evaluation during training"] == ["eval_reward"]
    assert lines["Groups without a signal"] == ["frac_reward_zero_std"]
    assert lines["Time of a step"] == ["time/rollout", "time/scoring", "time/backward", REST]
    assert not {"KL to the reference policy", "Loss", "Implicit reward"} & lines.keys()
    steps, values = found["metrics"]["reward"]
    assert steps == list(range(10, 210, 10)) and values == pytest.approx([0.3 + i / 40 for i in range(1, 21)])
    assert found["metrics"][REST][1] == [0.125] * 20
    assert found["metrics"]["eval_reward"] == [[200], [0.77]]
    assert found["metrics"]["nelbo_standard_error"][1] == [1.5] * 20
    assert "train_runtime" not in found["metrics"]


def test_supervised_and_preference_runs_have_their_panels():
    assert lines_of(curves(sft_log()))["Loss"] == ["loss", "eval_loss"]
    log = [{"step": 1, "loss": 0.7, "rewards/margins": 0.1, "rewards/chosen": 0.3, "rewards/accuracies": 0.5}]
    lines = lines_of(curves(log))
    assert lines["Implicit reward"] == ["rewards/margins", "rewards/chosen"]
    assert lines["Pairs ranked right"] == ["rewards/accuracies"] and lines["Loss"] == ["loss"]


def test_no_metrics_are_no_panels():
    assert curves([]) == {"panels": [], "metrics": {}, "errors": {"nelbo": "nelbo_standard_error"}}
    assert curves([{"step": 1, "reward": float("nan")}])["panels"] == []


def test_a_long_log_is_thinned_and_keeps_its_ends():
    log = [{"step": i, "reward": i / 7} for i in range(100_000)]
    steps, values = curves(log)["metrics"]["reward"]
    assert len(steps) == len(values) == POINTS
    assert (steps[0], steps[-1]) == (0, 99_999) and values[-1] == pytest.approx(99_999 / 7, rel=1e-5)


# ---- rollouts -------------------------------------------------------------------------------------------------------


def test_rollouts_keep_rewards_advantages_and_how_they_were_written():
    groups = [group(step, number) for step in (0, 5) for number in (0, 1)]
    found = browsed(groups, {"correct": 2.0, "format": 1.0})
    assert [(own["step"], own["group"]) for own in found] == [(0, 0), (0, 1), (5, 0), (5, 1)]
    one = found[3]["completions"][1]
    assert one["rewards"] == {"correct": 1.0, "format": 0.5} and one["total"] == 2.5
    assert one["advantage"] == 0.5 and one["text"] == "text 1" and one["finish"] == "length"
    written = playback()
    assert one["play"] == {key: getattr(written, key) for key in ("tokens", "steps", "logps", "length", "finish")}


def test_where_room_is_short_every_group_can_still_be_played(monkeypatch):
    groups = [group(step, size=8) for step in range(20)]
    for own in groups:
        own["completions"] = [vars(playback(length=600, count=100)) for _ in range(8)]
    found = browsed(groups, {})
    plays = [[("play" in one) for one in own["completions"]] for own in found]
    assert all(own[0] for own in plays) and not all(map(all, plays))
    assert {sum(own) for own in plays} <= {(n := min(map(sum, plays))), n + 1}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 41])
def test_every_beginning_of_the_order_is_spread(count):
    order = spread(count)
    assert sorted(order) == list(range(count))
    assert order[:2] == list(range(count)) if count < 3 else [0, count - 1]
    for size in range(3, count):
        places = sorted(order[:size])
        assert max(b - a for a, b in pairwise(places)) <= 2 * (count - 1) / (size - 1) + 1


def test_where_there_is_no_room_for_all_groups_the_first_and_the_last_are_shown():
    found = browsed([group(step, prompt="大" * 3000, size=4, **texts(4)) for step in range(200)], {})
    steps = [own["step"] for own in found]
    assert len(steps) < 100 and steps == sorted(steps) and steps[0] == 0 and steps[-1] == 199
    assert max(b - a for a, b in pairwise(steps)) < 20


def texts(size):
    return {"completions": [vars(playback(text="大" * 2000)) for _ in range(size)]}


# ---- held-out problems ----------------------------------------------------------------------------------------------


def outcome(strict, playbacks=None, text="text"):
    size = len(strict)
    texts = [f"{text} {i}" for i in range(size)]
    return Evaluation(strict, strict, [str(i) for i in range(size)], texts, 7.0, 1.0, playbacks=playbacks or {})


def problems(size):
    return Dataset.from_dict({"prompt": [f"question {i}" for i in range(size)], "answer": ["7"] * size})


def test_every_problem_is_in_its_class():
    played = {0: playback(count=3)}
    before = {"sampled": outcome([False, True, True, False, False], played, "old")}
    after = {"sampled": outcome([True, False, True, False, True], {0: playback(count=4)}, "new")}
    found = solved_problems(problems(5), before, after)
    assert found["counts"]["sampled"] == {"fixed": 2, "broken": 1, "still right": 1, "still wrong": 1}
    classes = ["fixed", "broken", "still right", "still wrong", "fixed"]
    assert [row["class"]["sampled"] for row in found["rows"]] == classes
    assert found["rows"][1]["texts"] == {"before": {"sampled": "old 1"}, "after": {"sampled": "new 1"}}
    [own] = found["played"]
    assert own["play"]["before"]["sampled"]["steps"] == playback(count=3).steps
    assert own["play"]["after"]["sampled"]["steps"] == playback(count=4).steps


def test_without_a_before_problems_are_right_or_wrong():
    found = solved_problems(problems(3), None, {"greedy": outcome([True, False, True])})
    assert found["counts"] == {"greedy": {"right": 2, "wrong": 1}} and found["played"] == []
    assert found["rows"][2]["texts"] == {"after": {"greedy": "text 2"}}


def test_messages_are_shown_as_texts():
    rows = Dataset.from_dict({"prompt": [[{"role": "user", "content": "2 + 2?"}]], "answer": ["4"]})
    assert solved_problems(rows, None, {"greedy": outcome([True])})["rows"][0]["prompt"] == "2 + 2?"


def test_problems_that_changed_are_kept_before_others():
    size = 4000
    right = [i % 2 == 0 for i in range(size)]
    moved = [not ok if i % 100 == 99 else ok for i, ok in enumerate(right)]
    long = {"text": "x" * 1200}
    found = solved_problems(problems(size), {"sampled": outcome(right, **long)}, {"sampled": outcome(moved, **long)})
    assert found["total"] == size == sum(found["counts"]["sampled"].values()) > len(found["rows"])
    classes = [row["class"]["sampled"] for row in found["rows"]]
    assert classes.count("fixed") == 40 and found["counts"]["sampled"]["fixed"] == 40


# ---- the whole ------------------------------------------------------------------------------------------------------


def test_the_page_of_a_run_holds_the_numbers_of_its_report(tmp_path):
    RolloutLog(tmp_path).add([group()])
    solved = solved_problems(problems(2), None, {"sampled": outcome([True, False])})
    write(tmp_path, solved=solved, title=HOSTILE, notes=[HOSTILE])
    found = content_of(tmp_path / "report.html")
    assert found["title"] == HOSTILE and found["notes"] == [HOSTILE]
    assert found["held_out"] == held_out() and found["solved"] == solved
    assert found["environment"] == {"device": "TestCPU", "torch": "9.8.7"}
    assert "alpha_schedule: linear" in found["settings"] and "--seed 3" in found["command"]
    assert found["rollouts"] == browsed([group()], {})
    assert found["curves"]["metrics"]["reward"][1][-1] == 0.8


def test_a_supervised_run_in_the_same_folder_shows_no_rollouts_of_an_older_one(tmp_path):
    RolloutLog(tmp_path).add([group()])
    write(tmp_path, settings={"trainer": "sft"}, log_history=sft_log())
    assert content_of(tmp_path / "report.html")["rollouts"] == []


def test_the_page_of_a_long_run_on_large_canvases_stays_within_its_limit(tmp_path):
    draw = random.Random(0)
    words = ["".join(chr(draw.randrange(0x4E00, 0x9FFF)) for _ in range(4)) for _ in range(50_000)]

    def canvas(length=256):
        text = "".join(draw.choices(words, k=length))
        return vars(playback(length, 128, text, tokens=draw.choices(words, k=length)))

    RolloutLog(tmp_path).add(
        [group(step, number, 16, completions=[canvas() for _ in range(16)]) for step in range(20) for number in (0, 1)]
    )
    texts = ["".join(draw.choices(words, k=256)) for _ in range(1319)]
    when = Evaluation(
        [draw.random() < 0.5 for _ in texts], [True] * 1319, texts, texts, 1.0, 1.0,
        playbacks={i: playback(256, 128, tokens=draw.choices(words, k=256)) for i in range(8)},
    )  # fmt: skip
    asked = Dataset.from_dict({"prompt": texts, "answer": texts})
    solved = solved_problems(asked, {"sampled": when, "greedy": when}, {"sampled": when, "greedy": when})
    log = [{"step": i, **{f"rewards/{n}/mean": draw.random() for n in range(150)}, "reward": 1.0} for i in range(3000)]
    told = dict.fromkeys(("title", "command"), texts[0] * 1000)
    results = {"log_history": log, "settings": {"trainer": "grpo", "task": {"note": texts[0] * 1000}}, "rewards": {}}
    results |= {**told, "environment": {}, "notes": [], "held_out": {}, "seconds": {}}
    page = write_page(tmp_path / "report.html", "t", run_content(tmp_path, results, solved))
    assert LIMIT / 2 < page.stat().st_size < LIMIT
    rollouts = content_of(page)["rollouts"]
    assert rollouts and all(any("play" in one for one in own["completions"]) for own in rollouts)


def test_the_parts_of_a_page_fit_into_it():
    parts = sum((ROLLOUTS, PLAYED, PROBLEMS, HELD_OUT, CURVES))
    frame = len(document("", {}))  # style and scripts
    others = 6 * (SETTINGS + 10 * TEXT)  # title, command, notes; a character takes up to 6 bytes
    assert parts + frame + others < LIMIT


def test_a_budget_is_used_up_and_long_texts_are_cut():
    budget = Budget(11)
    assert budget.takes("1234") and not budget.takes("1234") and budget.takes("1")
    assert clipped("abc", 3) == "abc" and clipped("abcd", 3) == "abc […]"
