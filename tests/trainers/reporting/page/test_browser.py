"""report.html in a real browser: its scripts end without an error and show what was recorded."""

import json
import re
from dataclasses import replace

import pytest
from datasets import Dataset
from pages import browse, needs_browser
from played import HOSTILE, group, playback
from reports import grpo_log, sft_log, write

from trainers.evaluating.evaluation import Evaluation
from trainers.reporting.page.content import completion_content
from trainers.reporting.page.document import write_page
from trainers.reporting.page.solved import solved_problems
from trainers.reporting.rollout_log import RolloutLog

pytestmark = needs_browser

BEFORE, AFTER = playback(8, 4, "old"), replace(playback(8, 2, "new"), steps=[1, 0, 1, 0, 1, -1, -1, -1], length=5)


def shown(player):
    """The text of every position of a canvas: empty where it is hidden."""
    return [chip.text for chip in player.one(class_="canvas").all("span")]


def revealed(written, at):
    """What a trajectory says is visible after so many steps."""
    pairs = zip(written.tokens, written.steps, strict=True)
    return [token if 0 <= step < at else "" for token, step in pairs]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a run with two recorded rollouts of two groups, and three held-out problems."""
    path = tmp_path_factory.mktemp("run")
    RolloutLog(path).add([group(step, number) for step in (0, 5) for number in (0, 1)])
    outcomes = [
        Evaluation(ok, ok, ["a", "b", "c"], [f"{w.text} {i}" for i in range(3)], 7.0, 1.0, playbacks={0: w, 2: w})
        for ok, w in (([False, True, True], BEFORE), ([True, False, True], AFTER))
    ]
    asked = Dataset.from_dict({"prompt": ["first?", "second?", "third?"], "answer": ["1", "2", "3"]})
    before, after = ({"sampled": one, "greedy": one} for one in outcomes)
    write(path, solved=solved_problems(asked, before, after))
    return path / "report.html"


@pytest.mark.parametrize("at", [0, 1, 3])
def test_the_player_shows_the_tokens_that_were_revealed_by_then(page, at):
    section = browse(page, f"at={at}").one("section", id="denoising")
    before, after = section.all(class_="player")
    assert shown(before) == revealed(BEFORE, at) and before.attributes["data-steps"] == "4"
    assert shown(after) == revealed(AFTER, at) and after.attributes["data-steps"] == "2"
    assert before.attributes["data-at"] == str(at) and after.attributes["data-at"] == str(min(at, 2))
    canvas = after.one(class_="canvas").all("span")
    assert [i for i, chip in enumerate(canvas) if "never" in chip.classes] == [5, 6, 7]
    assert [i for i, chip in enumerate(canvas) if "fill" in chip.classes] == [5, 6, 7]
    new = [i for i, chip in enumerate(before.one(class_="canvas").all("span")) if "new" in chip.classes]
    assert new == [i for i, step in enumerate(BEFORE.steps) if step == at - 1]


def test_colours_follow_the_step_or_the_probability(page):
    chips = {}
    for colour in ("step", "probability"):
        section = browse(page, f"colour={colour}").one("section", id="denoising")
        own = section.all(class_="player")[0].one(class_="canvas").all("span")
        chips[colour] = [re.search(r"background: ([^;]+);", chip.attributes["style"])[1] for chip in own]
    assert chips["step"][:4] == chips["step"][4:] and len(set(chips["step"])) == 4, "4 steps, 4 colours"
    assert chips["step"][0] == "rgb(68, 1, 84)" and chips["step"][3] == "rgb(253, 231, 37)", "viridis"
    assert len(set(chips["probability"])) == 8 and chips["probability"][0] == "rgb(254, 232, 56)", "p = 1"


def test_played_to_its_end(page):
    assert browse(page, "at=0&play").all(class_="player")[0].attributes["data-at"] == "4"


def test_the_browser_of_rollouts_shows_prompt_rewards_and_advantages(page):
    section = browse(page, "rollout=0&group=1&row=1&at=2").one("section", id="rollouts")
    assert "rollout after step 0" in section.text and "prompt of step 0, group 1" in section.text
    rows = [[cell.text for cell in row.all("td")] for row in section.one("tbody").all("tr")]
    assert rows == [
        ["1", "0", "0.5", "0.5", "-0.5", "8 (cut off)", "text 0"],
        ["2", "1", "0.5", "1.5", "0.5", "8 (cut off)", "text 1"],
    ]
    assert [cell.text for cell in section.one("thead").all("th")] == [
        "no.", "correct", "format", "total", "advantage", "tokens", "completion",
    ]  # fmt: skip
    assert shown(section.one(class_="player")) == revealed(playback(), 2)
    assert "rollout after step 5" in browse(page).one("section", id="rollouts").text, "the last one, unless asked"


def test_problems_are_counted_and_filtered(page):
    section = browse(page).one("section", id="solved")
    assert [b.text for b in section.one(class_="matrix").all("button")] == [
        "1fixed", "1broken", "1still right", "0still wrong",
    ]  # fmt: skip
    assert len(section.all("article")) == 3
    section = browse(page, "filter=fixed").one("section", id="solved")
    [pressed] = section.one(class_="matrix").all("button", aria_pressed="true")
    [fixed] = section.all("article")
    assert "fixed" in pressed.classes
    assert "first?" in fixed.text and [dd.text for dd in fixed.all("dd")] == ["1", "old 0", "new 0"]
    [found] = browse(page, "q=THIRD").one("section", id="solved").all("article")
    assert found.attributes["data-place"] == "2"


def test_charts_have_units_and_tell_their_values(page):
    html = browse(page, "read=101&theme=dark")
    assert html.attributes["data-theme"] == "dark"
    titles = [figure.attributes["data-title"] for figure in html.all("figure")]
    assert titles[0] == "Reward" and "Time of a step" in titles
    figure = html.all("figure", data_title="Bound on -log p(completion)")[0]
    assert figure.one(class_="tip").text == "step 100NELBO ± 1.96 standard errors30 ± 2.94"
    units = [text.text for text in figure.all("text", class_="unit")]
    assert units == ["nats per completion", "optimiser step"]
    timed = html.all("figure", data_title="Time of a step")[0]
    assert timed.one(class_="tip").text == "step 100rollout1.25scoring0.5backward0.625rest0.125"
    assert "40.0% [37.5%, 46.6%]" in html.one("section", id="accuracy").text


def test_settings_versions_and_command_are_there(page):
    section = browse(page).one("section", id="settings")
    for text in ("--seed 3", "alpha_schedule: linear", "TestCPU", "9.8.7", "seen once"):
        assert text in section.text


@pytest.mark.parametrize(
    "log",
    [[], [{"step": 1, "loss": 0.1}], [{"reward": 0.5}], sft_log(), grpo_log(nelbo_standard_error=0.0, reward=-1e9)],
    ids=["empty", "loss", "no step", "sft", "extreme"],
)
def test_a_run_that_logged_little_has_a_page(tmp_path, log):
    write(tmp_path, log_history=log, held_out=None, samples=[], seconds={}, notes=[], settings={})
    assert browse(tmp_path / "report.html").one("h1").text == "grpo on gsm8k"


def test_hostile_text_is_shown_and_nothing_else_happens(tmp_path):
    evil = playback(3, 1, HOSTILE, tokens=[HOSTILE, "\u2028", "</script>"])
    own = group(size=1, prompt=HOSTILE, rewards={HOSTILE: [1.0]}, completions=[vars(evil)])
    RolloutLog(tmp_path).add([own])
    outcome = {"sampled": Evaluation([True], [True], ["a"], [HOSTILE], 1.0, 1.0, playbacks={0: evil})}
    asked = Dataset.from_dict({"prompt": [HOSTILE], "answer": ["<b>7</b>"]})
    solved = solved_problems(asked, outcome, outcome)
    told = {"title": HOSTILE, "command": HOSTILE, "notes": [HOSTILE], "environment": {HOSTILE: HOSTILE}}
    log = [{"step": 1, "reward": 1.0, f"rewards/{HOSTILE}/mean": 1.0}]
    write(tmp_path, solved=solved, settings={HOSTILE: HOSTILE}, log_history=log, **told)
    html = browse(tmp_path / "report.html")
    assert html.all("img") == [] and len(html.all("script")) == 3 and html.all("b", text="7") == []
    assert html.one("h1").text == HOSTILE
    assert html.one("section", id="rollouts").all("pre", class_="prompt")[0].text == HOSTILE
    assert "<b>7</b>" in html.one("section", id="solved").text
    assert shown(html.all(class_="player")[0]) == [HOSTILE, "\u2028", "</script>"]


@pytest.mark.parametrize("greedy", [False, True])
def test_the_page_of_one_completion_plays_it(tmp_path, greedy):
    told = {"model": "tiny", "sampled": "4 forwards"}
    page = write_page(tmp_path / "out.html", "t", completion_content("2 + 2?", BEFORE, told, greedy))
    html = browse(page, "at=2&colour=probability")
    assert shown(html.one(class_="player")) == revealed(BEFORE, 2)
    assert [pre.text for pre in html.all("pre")] == ["2 + 2?", "old"] and "4 forwards" in html.text
    colours = [button.text for button in html.one(class_="choice").all("button")]
    assert colours == (["step"] if greedy else ["step", "probability"])
    assert json.loads(html.one("script", id="content").text)["completion"]["greedy"] is greedy
