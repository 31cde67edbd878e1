"""The folder in which blocks run: the repository as a clone has it, and the files that texts take for given."""

import json

import pytest
from paths import REPO

from trainers.tasks.word_problems.generator import generate

LINKED = ("core", "trainers", "configs", "scripts", "docs", "tests", "pyproject.toml")
REWARD = '''"""A reward and a metric of the reader's own."""


def my_reward(completions, **columns):
    """Share of digits."""
    return [sum(letter.isdigit() for letter in text) / max(len(text), 1) for text in completions]


brevity = exact_match = reward = my_reward
'''


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A folder that looks like the repository, and in which whatever is written is thrown away."""
    folder = tmp_path_factory.mktemp("workspace")
    for name in LINKED:
        (folder / name).symlink_to(REPO / name)
    pairs = generate("train", 96, seed=0, min_operations=1, max_operations=1, max_number=20)
    rows = [{"question": question, "answer": problem.completion()} for question, problem in pairs]
    own = [{"prompt": row["question"], "answer": row["answer"].rpartition(" ")[2]} for row in rows]
    for name, lines in {
        "train.jsonl": rows[:64],
        "test.jsonl": rows[64:],
        "problems.jsonl": rows,
        "my.jsonl": own,
    }.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    svamp = [
        {
            "ID": f"chal-{number}",
            "Body": body,
            "Question": "How many?",
            "Answer": 1.0,
            "Equation": "( 3.0 - 2.0 )",
            "Type": "Subtraction",
        }
        for number, body in enumerate(["Sam has 3 pens and gives 2 away."] * 8)
    ]
    (folder / "SVAMP.json").write_text(json.dumps(svamp))
    for name in ("my_rewards.py", "my.py", "rewards.py", "my_reward.py"):
        (folder / name).write_text(REWARD)
    (folder / "my_task.py").write_text((REPO / "docs" / "task_template.py").read_text())
    (folder / "my_config.yaml").write_text((REPO / "configs" / "sft_gsm8k.yaml").read_text())
    return folder
