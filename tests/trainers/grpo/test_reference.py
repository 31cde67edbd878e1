"""TRL is told of no reference where there is one, and the options say again afterwards what they said."""

import pytest
from torch import nn

from trainers.grpo.reference import untold


@pytest.mark.parametrize("reference", [None, nn.Linear(1, 1)])
def test_options_of_a_reference_are_hidden_for_a_while_and_only_if_there_is_one(grpo_args, reference):
    args = grpo_args(beta=0.1, sync_ref_model=True)
    with untold(args, reference):
        assert (args.beta, args.sync_ref_model) == ((0.1, True) if reference is None else (0.0, False))
    assert (args.beta, args.sync_ref_model) == (0.1, True)


def test_an_error_leaves_the_options_as_they_were(grpo_args):
    args = grpo_args(beta=0.1)
    with pytest.raises(RuntimeError), untold(args, nn.Linear(1, 1)):
        raise RuntimeError
    assert args.beta == 0.1
