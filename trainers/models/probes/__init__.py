"""What a model does, seen by running it: whether it is what its family, its config and the user say.

Attention and padding show in any weights, trained or not, because a token that is not seen changes nothing. Shift and
mask token show in trained weights only: a text with some tokens hidden is scored under each reading, and where another
reading than the claimed one is clearly better the claim is refused; weights that favour none are left to the claim.

    probing.probed     the policy with what was found out, or an error that says what was seen
    looking            made-up sequences, their logits, and when two of these are the same
    attention          padding, both directions, rules of blocks
    modes              train mode, which is to be the same function as eval
    shortcuts          what may be left out of a forward: the head elsewhere, what a cache has stored
    text, samples      shift and mask token, by texts that most models know something of
"""
