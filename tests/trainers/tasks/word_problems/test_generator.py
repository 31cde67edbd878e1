"""Problems drawn from templates: bounded, in digits, and disjoint across splits."""

import hashlib
import os
import re
import subprocess
import sys

import pytest
from arithmetic_bounds import bounds_of
from paths import REPO

from trainers.tasks.word_problems import generator
from trainers.tasks.word_problems.templates import FOLLOW_UPS, TEMPLATES

SPLITS = ("train", "validation", "test")
BOUNDS = [(1, 1, 20), (1, 3, 20), (3, 3, 30), (1, 2, 8)]


@pytest.mark.parametrize(("low", "high", "max_number"), BOUNDS)
def test_numbers_are_bounded_and_plural(low, high, max_number):
    for _, problem in generator.generate("train", 2000, **bounds_of(low, high, max_number)):
        for left, sign, right, result in problem.steps():
            limit = max_number if sign in "*/" else max_number - 1
            assert all(2 <= number <= limit for number in (left, right, result))


def test_question_states_the_operands_in_digits_and_nothing_else():
    for question, problem in generator.generate("train", 2000, **bounds_of(1, 3)):
        operands = [*problem.operands, *(b for _, b in problem.follow_ups)]
        assert sorted(map(int, re.findall(r"\d+", question))) == sorted(operands)


def test_templates_have_unique_ids_and_texts_and_six_of_each_operation():
    texts = [(t.body, t.question) for t in TEMPLATES]
    ids = [t.id for t in (*TEMPLATES, *FOLLOW_UPS)]
    assert len(set(texts)) == len(texts)
    assert len(set(ids)) == len(ids)
    assert [[t.operation for t in TEMPLATES].count(sign) for sign in "+-*/"] == [6, 6, 6, 6]


def test_one_step_instances_split_as_documented_with_every_template_in_every_split():
    instances = [
        (t.id, left, right)
        for t in TEMPLATES
        for left in range(2, 21)
        for right in generator._right_operands(t.operation, left, 20)
    ]
    shares = {split: [i for i in instances if generator.split_of(i) == split] for split in SPLITS}
    assert len(instances) == 12 * 136 + 12 * 27
    assert len(shares["test"]) == pytest.approx(0.1 * len(instances), rel=0.2)
    assert all({i[0] for i in share} == {t.id for t in TEMPLATES} for share in shares.values())


@pytest.mark.parametrize(("low", "high", "max_number"), BOUNDS)
def test_splits_share_no_instance_and_no_question_whatever_the_seed(low, high, max_number):
    sizes = {"train": 4000, "validation": 200, "test": 400}
    instances, questions = {}, {}
    for split, size in sizes.items():
        seeded = [bounds_of(low, high, max_number, seed) for seed in (0, 1)]
        pairs = [pair for bounds in seeded for pair in generator.generate(split, size, **bounds)]
        questions[split] = {question for question, _ in pairs}
        instances[split] = {problem.instance for _, problem in pairs}
    for one, two in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not instances[one] & instances[two]
        assert not questions[one] & questions[two]


def test_no_question_repeats_in_a_held_out_split():
    for split, size in (("validation", 512), ("test", 1024)):
        questions = [question for question, _ in generator.generate(split, size, **bounds_of())]
        assert len(set(questions)) == size


def test_generation_is_independent_of_the_hash_seed():
    code = (
        "import hashlib; from trainers.tasks.word_problems import generator\n"
        "pairs = generator.generate('test', 200, seed=3, min_operations=1, max_operations=3, max_number=20)\n"
        "print(hashlib.sha256(repr([(q, p.completion()) for q, p in pairs]).encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": str(REPO)}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    pairs = generator.generate("test", 200, **bounds_of(1, 3, seed=3))
    here = hashlib.sha256(repr([(q, p.completion()) for q, p in pairs]).encode()).hexdigest()
    assert other.stdout.strip() == here


def test_one_step_questions_are_short_and_the_vocabulary_is_small():
    one_step = [question for question, _ in generator.generate("train", 4000, **bounds_of())]
    assert max(len(question.split()) for question in one_step) <= 22
    longer = [question for question, _ in generator.generate("train", 4000, **bounds_of(2, 3))]
    assert len(set(re.findall(r"[A-Za-z]+", " ".join(one_step + longer)))) <= 250
