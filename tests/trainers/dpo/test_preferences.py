"""Where preference pairs come from: files, or right and wrong completions of the policy's own."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from datasets import Dataset
from processes import launch

from trainers.dpo import preferences
from trainers.dpo.preferences import BROKEN, FOLDER, own_pairs, pair_up, preference_pairs, read_pairs
from trainers.evaluating.evaluation import Answer, Evaluator
from trainers.experiment import build_evaluator, build_trainer, load_experiment_policy
from trainers.settings.config import parse
from trainers.settings.options import ConfigError
from trainers.task_loading import Task
from trainers.tasks import gsm8k
from trainers.tasks.verdicts import Verdict

PROBLEMS, SAMPLES = 8, 3  # the embedded model solves about half of the problems

GSM8K = Task(gsm8k, gsm8k.REWARDS, gsm8k.verify)


@pytest.fixture
def experiment(tmp_path):
    """Keywords of section preferences -> a parsed experiment on the embedded model."""

    def build(*options, **preferred):
        document = {
            "trainer": "dpo",
            "generation": {"steps": 7, "max_completion_length": 14},
            "masking": {"p_mask_prompt": 0.0},
            "model": {"name_or_path": "tiny"},
            "preferences": preferred,
            "training": {
                "output_dir": str(tmp_path / "out"),
                "max_steps": 1,
                "report_to": "none",
                "save_strategy": "no",
            },
        }
        path = tmp_path / f"config-{os.getpid()}.yaml"
        path.write_text(json.dumps(document))
        return parse([str(path), "--disable_tqdm", "true", "--save_strategy", "no", *options])

    return build


@pytest.fixture
def own(experiment):
    return lambda *options, **more: experiment(*options, **{"problems": PROBLEMS, "samples": SAMPLES, **more})


def made(config, splits, policy=None):
    policy = policy or load_experiment_policy(config, splits["train"])
    return preference_pairs(config, splits, policy, build_evaluator(config, GSM8K, splits["validation"]))


def written(tmp_path, rows, name="pairs.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# ---- own completions ------------------------------------------------------------------------------------------------


def answers(*texts):
    """Upper case is right."""
    return [Answer(0, text.isupper(), text.isupper(), text, 1, 0.0) for text in texts]


@pytest.mark.parametrize(
    ("texts", "most", "pairs"),
    [
        (["A", "b"], 1, [("A", "b")]),
        (["b", "A", "c", "D"], 1, [("A", "b")]),
        (["b", "A", "c", "D"], 5, [("A", "b"), ("D", "c")]),
        (["A", "A", "b", "b"], 5, [("A", "b")]),  # no text in two pairs
        (["A", "B", "c"], 5, [("A", "c")]),
        (["A", "B"], 5, []),
        (["a", "b"], 5, []),
    ],
)
def test_right_texts_are_paired_with_wrong_ones_in_order(texts, most, pairs):
    assert pair_up(answers(*texts), most) == pairs


def test_own_pairs_are_right_against_wrong_on_training_problems_alone(own, splits):
    config = own("--eval_strategy", "steps", pairs_per_problem=2)
    found = made(config, splits)
    asked = {"train": list(splits["train"]["prompt"][:PROBLEMS]), "validation": list(splits["validation"]["prompt"])}
    assert found.keys() == asked.keys()
    answers = {problem["prompt"]: problem["answer"] for split in splits.values() for problem in split}
    for name, pairs in found.items():
        assert len(pairs) >= 2
        assert set(pairs["prompt"]) <= set(asked[name])
        assert max(pairs["prompt"].count(prompt) for prompt in pairs["prompt"]) <= 2
        for pair in pairs:
            assert gsm8k.verify(pair["chosen"], answers[pair["prompt"]]).strict
            assert not gsm8k.verify(pair["rejected"], answers[pair["prompt"]]).strict
    assert not set(found["train"]["prompt"]) & {*splits["validation"]["prompt"], *splits["test"]["prompt"]}


def test_problems_without_a_pair_are_counted(own, splits):
    found = made(own(), splits)["train"]
    words = found.info.description.split(": ")[1].split(", ")
    counts = {name: int(number) for number, name in (text.split(" ", 1) for text in words)}
    assert counts["problems"] == PROBLEMS == counts["with a pair"] + counts["all right"] + counts["all wrong"]
    assert counts["with a pair"] == len(found) and counts["all right"] + counts["all wrong"] > 0


def test_own_pairs_are_those_of_the_samples_of_an_evaluation(own, splits):
    config = own()
    policy = load_experiment_policy(config, splits["train"])
    problems = splits["train"].select(range(PROBLEMS))
    evaluator = build_evaluator(config, GSM8K, problems)
    rounds = [evaluator.answer(policy, 1.0, range(PROBLEMS), repetition) for repetition in range(SAMPLES)]
    expected = [
        {"prompt": problems[i]["prompt"], "chosen": chosen, "rejected": rejected}
        for i, of_one in enumerate(zip(*rounds, strict=True))
        for chosen, rejected in pair_up([answer for answer in of_one if BROKEN not in answer.completion], 1)
    ]
    assert len(expected) >= 2
    assert made(config, splits, policy)["train"].to_list() == expected


def test_pairs_are_read_back_by_a_resumed_run_and_made_anew_for_other_weights(own, splits, monkeypatch, tmp_path):
    config = own()
    policy = load_experiment_policy(config, splits["train"])
    first = made(config, splits, policy)["train"]
    asked, answer = [], Evaluator.answer
    monkeypatch.setattr(Evaluator, "answer", lambda self, *args: asked.append(1) or answer(self, *args))

    again = made(config, splits, policy)["train"]
    assert again.to_list() == first.to_list() and again.info.description == first.info.description
    assert not asked
    file = tmp_path / "out" / FOLDER / "train.jsonl"
    assert read_pairs(file).to_list() == first.to_list()  # a file of pairs like any other

    file.write_text(file.read_text()[:-20])  # a write that was cut short
    assert made(config, splits, policy)["train"].to_list() == first.to_list() and len(asked) == SAMPLES
    made(own(pairs_per_problem=2), splits, policy)
    made(own("--generation.temperature", "0.7", pairs_per_problem=2), splits, policy)
    assert len(asked) == 3 * SAMPLES
    policy.model.lm_head.weight.data *= 1.1
    made(own("--generation.temperature", "0.7", pairs_per_problem=2), splits, policy)
    assert len(asked) == 4 * SAMPLES


def test_no_pairs_at_all_is_an_error_that_counts(own, splits):
    config = own()
    policy = load_experiment_policy(config, splits["train"])
    wrong = SimpleNamespace(verify=lambda completion, answer: Verdict(strict=False, lenient=True))
    evaluator = build_evaluator(config, Task(gsm8k, {}, wrong.verify), splits["validation"])
    with pytest.raises(ConfigError, match=rf"{PROBLEMS} problems, 0 with a pair, 0 all right, {PROBLEMS} all wrong"):
        own_pairs(config, "train", splits["train"], policy, evaluator)


@pytest.mark.parametrize("text", ["+-" * 8, "<<1+\ufffd=2>>"])
def test_texts_that_would_not_be_tokenised_as_they_were_written_are_left_out(own, splits, monkeypatch, text):
    config = own()
    policy = load_experiment_policy(config, splits["train"])
    answer = Evaluator.answer

    def other(self, *args):
        return [replace(a, completion=text if a.strict else a.completion) for a in answer(self, *args)]

    monkeypatch.setattr(Evaluator, "answer", other)
    with pytest.raises(ConfigError, match="0 with a pair"):
        made(config, splits, policy)


def test_two_processes_make_the_pairs_of_one(own, splits, tmp_path):
    def make(processes):
        config = own("--output_dir", str(tmp_path / str(processes)))
        assert config.training.world_size == processes
        found = made(config, splits)["train"]
        Accelerator(cpu=True)  # `launch` asks it for this process's number
        return [found.to_list(), found.info.description]

    (one,) = launch(lambda: make(1), 1, tmp_path)
    assert len(one[0]) >= 2 and launch(lambda: make(2), 2, tmp_path) == [one, one]


# ---- from elsewhere -------------------------------------------------------------------------------------------------


def test_pairs_of_a_file_train_without_the_held_out_prompts(experiment, splits, tmp_path):
    held_out = [splits["test"][0]["prompt"], splits["validation"][0]["prompt"]]
    rows = [{"prompt": p, "chosen": "7", "rejected": "8", "note": 1} for p in [*held_out, "How many?\n", "Why?\n"]]
    config = experiment(data_files=[written(tmp_path, rows), written(tmp_path, rows[:1], "other.jsonl")])
    found = made(config, splits)
    assert found["train"].to_list() == [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in rows[2:]]
    assert found["train"].info.description == "2 preference pairs, 2 left out as held-out prompts"
    assert found["validation"]["prompt"] == held_out[:1]
    with pytest.raises(ConfigError, match="all training pairs are held-out"):
        made(experiment(data_files=[written(tmp_path, rows[:2])]), splits)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows"),
        ("{", "line 1: expected one JSON object per line"),
        ("{}", "line 1: expected a JSON object with prompt, chosen, rejected"),
        ('\n{"prompt": "a", "chosen": "b", "rejected": null}', "line 2: rejected is None"),
        ('["prompt"]\n', "line 1: expected a JSON object"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": "b"}', "line 2: expected a JSON"),
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}', "line 1: chosen and rejected are equal"),
    ],
)
def test_malformed_file_is_one_clear_error(tmp_path, text, said):
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_pairs(path)
    assert str(error.value).startswith(f"preferences.data_files: {path}") and said in str(error.value)
    with pytest.raises(ConfigError, match=r"missing\.jsonl is not a file"):
        read_pairs(tmp_path / "missing.jsonl")


def test_lines_are_read_as_editors_write_them(tmp_path):
    """A byte-order mark, blank lines, and a line separator inside a text, which is no end of a line."""
    path = tmp_path / "pairs.jsonl"
    pair = {"prompt": "a\u2028b", "chosen": "c\x85", "rejected": "d"}
    line = json.dumps(pair, ensure_ascii=False)
    path.write_text(f"\ufeff{line}\n\n{line}\n", encoding="utf-8")
    assert read_pairs(path).to_list() == [pair, pair]


CHAT = [{"role": "system", "content": "Count."}, {"role": "user", "content": "How many?"}]


def test_prompts_of_pairs_may_be_messages_and_answers_are_texts(tmp_path, experiment, splits, monkeypatch):
    good = {"prompt": CHAT, "chosen": "7", "rejected": "8"}
    (pair,) = read_pairs(tmp_path / written(tmp_path, [good]))
    assert pair == good
    held_out = [good | {"prompt": [CHAT[0], {"role": "user", "content": text}]} for text in ("a", "b")]
    problems = {name: Dataset.from_list([{"prompt": row["prompt"]} for row in held_out]) for name in splits}
    config = experiment(data_files=[written(tmp_path, [good, *held_out])])
    found = preferences.preference_pairs(config, problems, None, None)
    assert list(found["train"]["prompt"]) == [CHAT], "a chat that is held out is left out"
    bad = {
        "chosen is [{": good | {"chosen": [{"role": "assistant", "content": "7"}]},
        "the last message of the prompt is the assistant's": good
        | {"prompt": [{"role": "assistant", "content": "7"}]},
        "expected a text each for role and content": good | {"prompt": [{"role": "user", "content": 7}]},
    }
    for message, row in bad.items():
        with pytest.raises(ConfigError) as error:
            read_pairs(tmp_path / written(tmp_path, [good, row]))
        assert "line 2: " in str(error.value) and message in str(error.value)
        hub = {"train": Dataset.from_list([row])}
        monkeypatch.setattr(preferences.datasets, "load_dataset", lambda name, hub=hub: hub)
        with pytest.raises(ConfigError) as error:
            made(experiment(dataset_name="some/pairs"), splits)
        assert "'some/pairs', train, row 0: " in str(error.value) and message in str(error.value)


def test_pairs_of_the_hub(experiment, splits, monkeypatch):
    rows = Dataset.from_list([{"prompt": "How many?\n", "chosen": "7", "rejected": "8", "score": 1.0}])
    hub = {"train": rows, "validation": rows}
    monkeypatch.setattr(preferences.datasets, "load_dataset", lambda name: hub)
    found = made(experiment("--eval_strategy", "steps", dataset_name="some/pairs"), splits)
    assert found["train"].column_names == found["validation"].column_names == ["prompt", "chosen", "rejected"]
    hub["train"] = rows.remove_columns("chosen")
    with pytest.raises(ConfigError, match=r"preferences\.dataset_name='some/pairs': expected a split train"):
        made(experiment(dataset_name="some/pairs"), splits)


def test_validation_without_validation_pairs_is_refused(experiment, splits, tmp_path):
    rows = [{"prompt": "How many?\n", "chosen": "7", "rejected": "8"}]
    with pytest.raises(ConfigError, match=r"training\.eval_strategy='steps': .* no validation pairs"):
        made(experiment("--eval_strategy", "steps", data_files=[written(tmp_path, rows)]), splits)


# ---- the experiment -------------------------------------------------------------------------------------------------


def test_an_experiment_trains_on_its_own_pairs(own, splits):
    config = own("--per_device_train_batch_size", "2")
    policy = load_experiment_policy(config, splits["train"])
    trainer = build_trainer(config, GSM8K, splits, policy)
    assert trainer.train_dataset.info.description.endswith("all wrong")
    before = policy.model.lm_head.weight.clone()
    trainer.train()
    assert not policy.model.lm_head.weight.equal(before)
    assert trainer.provenance.trainer == "dpo"


def test_the_section_belongs_to_dpo_alone(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("preferences: {samples: 4}")
    with pytest.raises(ConfigError, match="only trainer dpo has it"):
        parse([str(path)])
