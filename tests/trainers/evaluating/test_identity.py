"""Hashes change with what an evaluation sees, and with nothing else."""

import torch
from datasets import Dataset

from trainers.evaluating.identity import data_hash, weights_hash

ROWS = [{"prompt": "a\nb", "answer": "1", "cluster": "x"}, {"prompt": "c", "answer": "2", "cluster": "y"}]


def test_data_hash_knows_every_text_and_the_order():
    base = data_hash(Dataset.from_list(ROWS))
    assert base == data_hash(Dataset.from_list([row | {"completion": "?"} for row in ROWS]))
    changed = [[ROWS[0] | {name: "other"}, ROWS[1]] for name in ROWS[0]]
    hashes = {data_hash(Dataset.from_list(rows)) for rows in (*changed, ROWS[::-1], ROWS[:1])}
    assert len(hashes) == 5 and base not in hashes


def test_weights_hash_is_that_of_the_loaded_weights(make_policy, model_dir):
    model = make_policy().model
    base = weights_hash(model)
    assert base == weights_hash(make_policy().model) == weights_hash(type(model).from_pretrained(model_dir))
    assert base != weights_hash(make_policy(seed=1).model)
    assert base != weights_hash(make_policy().model.to(torch.bfloat16))
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-6
    assert base != weights_hash(model)
