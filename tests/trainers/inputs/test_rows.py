"""Data sets in the formats that TRL documents, and what is wrong with others, in one line."""

import pytest
from datasets import Dataset, DatasetDict

from trainers.inputs.rows import check_datasets, check_prompts, data_name, prompt_and_completion, prompt_and_pair
from trainers.settings.options import ConfigError

ASKED = [{"role": "user", "content": "2 + 2?"}]
RIGHT, WRONG = ([{"role": "assistant", "content": text}] for text in ("4", "5"))


def rows(**columns):
    return Dataset.from_list([columns] * 3)


# ---- one question and its answers, in every format ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"prompt": "2 + 2?", "completion": "4"}, ("2 + 2?", "4")),
        ({"prompt": ASKED, "completion": RIGHT}, (ASKED, "4")),
        ({"prompt": ASKED, "completion": "4"}, (ASKED, "4")),
        ({"messages": ASKED + RIGHT}, (ASKED, "4")),
        ({"messages": ASKED + RIGHT + ASKED + WRONG}, (ASKED + RIGHT + ASKED, "5")),
        ({"conversations": [{"from": "user", "value": "2 + 2?"}, {"from": "assistant", "value": "4"}]}, (ASKED, "4")),
        ({"prompt": "2 + 2?", "completion": "4", "messages": ASKED + WRONG}, ("2 + 2?", "4")),
    ],
)
def test_a_row_of_sft(row, found):
    assert prompt_and_completion(row, "train_dataset", 0) == found


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}, ("2 + 2?", "4", "5")),
        ({"prompt": ASKED, "chosen": RIGHT, "rejected": WRONG}, (ASKED, "4", "5")),
        ({"chosen": ASKED + RIGHT, "rejected": ASKED + WRONG}, (ASKED, "4", "5")),
        ({"prompt": "2 + 2?", "chosen": ASKED + RIGHT, "rejected": ASKED + WRONG}, (ASKED, "4", "5")),
        ({"chosen": "2 + 2? 4", "rejected": "2 + 2? 5"}, ("2 + 2?", " 4", " 5")),
    ],
)
def test_a_row_of_dpo(row, found):
    assert prompt_and_pair(row, "train_dataset", 0) == found


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "", "completion": "4"}, "the prompt is not a text or a list of messages, or empty"),
        ({"prompt": "2", "completion": None}, "completion is None: expected a text"),
        ({"prompt": ASKED, "completion": ASKED}, "completion: expected one message of the assistant's"),
        ({"prompt": ASKED, "completion": RIGHT + WRONG}, "completion: expected one message of the assistant's"),
        ({"messages": ASKED}, "messages: expected a question and its answer"),
        ({"messages": RIGHT + ASKED}, "the last message of the prompt is the assistant's"),
        ({"messages": None}, "messages: expected a question and its answer"),
    ],
    ids=str,
)
def test_a_row_that_says_neither_question_nor_answer_is_named(row, message):
    with pytest.raises(ConfigError) as error:
        prompt_and_completion(row, "eval_dataset", 7)
    assert str(error.value).startswith("eval_dataset, row 7: ") and message in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": ASKED, "chosen": RIGHT, "rejected": None}, "rejected is None: expected a text"),
        ({"prompt": "2", "chosen": ASKED + RIGHT, "rejected": []}, "chosen or rejected is empty"),
        ({"chosen": RIGHT, "rejected": WRONG}, "the prompt is not a text or a list of messages, or empty"),
    ],
    ids=str,
)
def test_a_pair_that_is_none_is_named(row, message):
    with pytest.raises(ConfigError) as error:
        prompt_and_pair(row, "train_dataset", 0)
    assert message in str(error.value)


def test_a_prompt_of_grpo_is_looked_at_before_it_is_asked():
    asked = []
    check_prompts(rows(prompt="2 + 2?"), "train_dataset", asked.append)
    assert asked == ["2 + 2?"] * 3
    with pytest.raises(ConfigError, match="eval_dataset, row 0: the last message of the prompt is the assistant's"):
        check_prompts(rows(prompt=ASKED + RIGHT), "eval_dataset", asked.append)


# ---- data sets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trainer", "found"),
    [
        ("grpo", rows(prompt="2")),
        ("sft", rows(prompt="2", completion="3")),
        ("sft", rows(messages=ASKED + RIGHT)),
        ("dpo", rows(chosen="2", rejected="3")),
    ],
    ids=str,
)
def test_a_data_set_with_the_columns_of_its_trainer_is_taken(trainer, found):
    check_datasets(trainer, found, None)
    check_datasets(trainer, found, {"one": found, "two": found})


@pytest.mark.parametrize(
    ("trainer", "found", "message"),
    [
        ("grpo", None, "train_dataset is missing: expected a datasets.Dataset with prompt"),
        ("grpo", rows(question="2"), "train_dataset has the columns question: expected prompt"),
        (
            "sft",
            rows(text="2"),
            "train_dataset has the columns text: expected prompt and completion, or messages, or conversations. A "
            "text alone does not say where the completion begins",
        ),
        ("sft", rows(input_ids=[1]), "Texts are tokenised by the trainer"),
        ("dpo", rows(prompt="2", chosen="3"), "expected prompt and chosen and rejected, or chosen and rejected"),
        ("grpo", rows(prompt="2").to_iterable_dataset(), "train_dataset is an IterableDataset"),
        ("grpo", DatasetDict(train=rows(prompt="2")), "train_dataset is a DatasetDict: expected one of its splits"),
        ("grpo", [{"prompt": "2"}], "train_dataset is a list: expected a datasets.Dataset; Dataset.from_list makes"),
        ("grpo", rows(prompt="2").select([]), "train_dataset is empty"),
        ("grpo", rows(prompt="2", images=[1]), "has a column images: not supported: a diffusion model of text"),
    ],
    ids=str,
)
def test_a_data_set_that_cannot_be_taken_is_refused(trainer, found, message):
    with pytest.raises(ConfigError) as error:
        check_datasets(trainer, found, None)
    assert message in str(error.value)
    if found is not None:
        for held_out, name in ((found, "eval_dataset"), ({"hard": found}, "eval_dataset['hard']")):
            if isinstance(found, dict):  # TRL takes its splits as sets of several names
                continue
            good = rows(prompt="2", completion="3", chosen="4", rejected="5")
            with pytest.raises(ConfigError) as error:
                check_datasets(trainer, good, held_out)
            assert str(error.value).startswith(name)


def test_data_sets_are_called_by_the_names_of_the_arguments():
    assert [data_name(one) for one in ("train", "eval", "hard")] == [
        "train_dataset",
        "eval_dataset",
        "eval_dataset['hard']",
    ]
