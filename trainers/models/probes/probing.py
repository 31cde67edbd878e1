"""All that is looked at when a model is loaded, in the order in which one thing builds on another."""

from dataclasses import replace
from typing import NoReturn

from trainers.models.policy import Policy
from trainers.models.probes.attention import check_bidirectional, find_padding, find_rule
from trainers.models.probes.looking import at_rest
from trainers.models.probes.modes import settle_modes
from trainers.models.probes.shortcuts import find_store, head_is_last
from trainers.models.probes.text import check_text
from trainers.settings.options import ConfigError


def probed(policy: Policy, name: str) -> Policy:
    """The policy with what was found out about how its model is to be called.

    Args:
        policy: as its family, its config and the user say it is.
        name: of the model, for messages.

    Raises:
        ConfigError: the model is not what is claimed; the message says what was seen.
    """

    def refuse(seen: str, runs: bool = True) -> NoReturn:
        skip = " (model.probe=false skips this check)" if runs else ""
        raise ConfigError(f"model.name_or_path={name!r}: {seen}{skip}")

    with at_rest(policy):
        if policy.block_length is None:
            policy = replace(policy, calling=find_padding(policy, refuse))
            check_bidirectional(policy, refuse)
        else:
            policy = replace(policy, calling=find_rule(policy, refuse))
        settle_modes(policy, refuse)
        policy = replace(policy, calling=replace(policy.calling, head=head_is_last(policy)))
        policy = replace(policy, calling=find_store(policy))
        if policy.block_length is None:
            check_text(policy, refuse)
    return policy
