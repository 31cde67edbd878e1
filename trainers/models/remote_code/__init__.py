"""Model files that a checkpoint brings along, written for transformers 4 and run under transformers 5.

Only checkpoints that the user trusts get here. What transformers 5 asks of classes, and such files do not do, is done
for them: they need not be edited. One file a kind of gap:

    names.py       names that are gone from transformers; what a file registers of itself
    configs.py     attributes that configs had by default, and arguments that methods of theirs are now called with
    classes.py     tied weights, `post_init`, types of layers
    restoring.py   what only ``__init__`` can compute, lost where a model is built without memory
    failures.py    what does not run all the same, by file, line and versions
    modes.py       a forward that is another function in train mode, run as in eval
"""

from trainers.models.remote_code.classes import adapt
from trainers.models.remote_code.failures import failure, own_frame
from trainers.models.remote_code.names import hosted
from trainers.models.remote_code.restoring import restore

__all__ = ["adapt", "failure", "hosted", "own_frame", "restore"]
