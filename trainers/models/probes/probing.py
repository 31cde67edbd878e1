"""All that is looked at when a model is loaded, in the order in which one thing builds on another."""

from dataclasses import replace

from trainers.models.policy import Policy
from trainers.models.probes.attention import check_bidirectional, find_padding, find_rule
from trainers.models.probes.looking import Examiner, at_rest
from trainers.models.probes.modes import settle_modes
from trainers.models.probes.shortcuts import find_store, head_is_last
from trainers.models.probes.text import check_text


def probed(policy: Policy, examiner: Examiner) -> Policy:
    """The policy with what was found out about how its model is to be called.

    Args:
        policy: as its family, its config and the user say it is.
        examiner: is told what is measured, and raises a ConfigError if the model is not what is claimed.
    """
    with at_rest(policy):
        if policy.block_length is None:
            policy = replace(policy, calling=find_padding(policy, examiner))
            check_bidirectional(policy, examiner)
        else:
            policy = replace(policy, calling=find_rule(policy, examiner))
        settle_modes(policy, examiner)
        policy = replace(policy, calling=replace(policy.calling, head=head_is_last(policy, examiner)))
        policy = replace(policy, calling=find_store(policy, examiner))
        if policy.block_length is None:
            check_text(policy, examiner)
    return policy
