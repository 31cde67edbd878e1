"""Several processes, and randomness that does not know how many there are.

`sharding` is a trainer's mixin for FSDP2 and DeepSpeed ZeRO-3, `processes` exchanges values between the processes of a
command, `randomness` makes generators that depend on a place in the run alone. Imports models, settings and core.
"""
