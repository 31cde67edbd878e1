"""What is written beside weights, and whether it is whole.

`saving` is a trainer's mixin: a saved directory can be read by itself. `model_card` writes its card from `provenance`
with the loop of `plain_loop`; `originals` keeps the files of a checkpoint with code of its own; `checkpoints` finds
the one to resume from; `files` and `environment` are for everything that is written. Imports distributed, faults,
models and settings.
"""
