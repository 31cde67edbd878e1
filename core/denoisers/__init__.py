"""The seam to a model: token ids in, logits of chosen positions out.

`Denoiser` is the interface, `ModelDenoiser` a torch model behind it; the others change who sees whom, keep keys and
values, or take padding away. Lowest floor: imports nothing of core.
"""
