"""Sizes of the runs that measurements are tested on, and a policy that never ends its text."""

CANVAS, STEPS, DRAWS = 16, 5, 3


def endless(policy):
    """The policy without its EOS."""

    def silence(module, args, logits):
        logits[..., policy.tokenizer.eos_token_id] = -1e4

    policy.model.lm_head.register_forward_hook(silence)
    return policy
