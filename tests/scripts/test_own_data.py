"""Prompts, answers and a reward of one's own, by command line alone: train, evaluate, compare, generate."""

import json
import re

import pytest
import yaml
from running import fork

CONFIG = {
    "trainer": "grpo",
    "generation": {"steps": 5, "max_completion_length": 10},
    "masking": {"p_mask_prompt": 0.0},
    "training": {"max_steps": 2, "num_generations": 4, "per_device_train_batch_size": 8, "report_to": "none"},
}
QUIET = {"disable_tqdm": True, "save_strategy": "no", "logging_steps": 1, "output_dir": "out"}
REWARD = "def digits(completions):\n    return [float(sum(c.isdigit() for c in text)) for text in completions]\n"
OWN = ("--task.data_files", "my.jsonl", "--task.columns", '{"prompt": "question", "completion": "text"}')
MINE = (*OWN, "--task.reward", "my_rewards.py:digits")


@pytest.fixture(scope="module")
def work(model, tmp_path_factory):
    """A folder as a user has it: a config, data and a reward."""
    path = tmp_path_factory.mktemp("own")
    config = CONFIG | {"model": {"name_or_path": str(model)}, "training": CONFIG["training"] | QUIET}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [{"question": f"Tom has {i} pens and buys 2.\nAnswer:", "text": f"#### {i + 2}"} for i in range(30)]
    (path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "my_rewards.py").write_text(REWARD)
    return path


def test_a_reward_is_trained_on_and_measured(work):
    said = fork("train.py", "config.yaml", *MINE, cwd=work)
    assert "rows of my.jsonl: 24 train, 3 validation, 3 test (split by task.seed=0)" in " ".join(said.split())
    assert re.search(r"sampled, reward digits +[\d.]+ \[.*\] +[\d.]+ \[", said) and "strict" not in said
    results = json.loads((work / "out/results.json").read_text())
    assert list(results["held_out"]["difference"]) == ["sampled reward digits", "greedy reward digits"]
    assert [row["rewards/digits/mean"] for row in results["log_history"][:2]]
    report, card = (work / "out/report.md").read_text(), (work / "out/model/README.md").read_text()
    *_, row = report.split("## Held-out rewards")[1].split("##")[0].strip().splitlines()
    assert row.startswith("| greedy reward digits | ") and "%" not in row
    assert "## Held-out reward\n" in card and "from local files (my.jsonl)" in card
    for name, model in {"before": (), "after": ("--model.name_or_path", "out/model")}.items():
        fork("evaluate.py", "config.yaml", *MINE, *model, "--json", f"{name}.json", "--decodings", "greedy", cwd=work)
    after = json.loads((work / "after.json").read_text())["rows"][0]["accuracy"]["greedy reward digits"]
    assert after == results["held_out"]["after"]["greedy reward digits"]
    compared = fork("compare.py", "before.json", "after.json", cwd=work)
    assert "in the reward's unit" in compared and "McNemar" not in compared


def test_the_same_data_is_learned_from_by_sft(work):
    options = (
        "--trainer",
        "sft",
        "--max_steps",
        "1",
        "--output_dir",
        "sft",
        "--generation.max_completion_length",
        "20",
    )
    config = yaml.safe_load((work / "config.yaml").read_text()) | {"trainer": "sft"}
    del config["training"]["num_generations"]
    (work / "sft.yaml").write_text(yaml.safe_dump(config))
    said = fork("train.py", "sft.yaml", *OWN, *options, cwd=work)
    assert "held-out texts: in the report; no reward and no answer scores them" in said
    assert json.loads((work / "sft/results.json").read_text())["held_out"] == {
        "after": {},
        "before": {},
        "difference": {},
    }


def test_a_prompt_needs_no_data(work):
    told = ("--task.name", "own", "--task.data_files", "nowhere.jsonl", "--task.reward", "nowhere.py:none")
    said = fork("generate.py", "config.yaml", *told, "--prompt", "As it is:", cwd=work)
    assert said.startswith("As it is:\n") and "greedy" in said
