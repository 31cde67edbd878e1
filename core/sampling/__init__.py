"""The denoising loop below `core.generator`: the canvas, what a step reveals, and how a state is evaluated.

    canvas.py      the rows that are being written; noise.py: their random numbers, by row, timestep and position
    samplers.py    `SAMPLERS`: what a transition does; selection.py: `SELECTIONS`, which positions it reveals
    counts.py      `COUNTS`: how many it reveals
    solvers.py     `SOLVERS`: how the tokens of an ancestral step are drawn; prediction.py: what one evaluation says
    context.py     how a state is evaluated: the whole canvas, or (caches.py, `CACHES`) with keys and values kept

Imports denoisers and the schedule.
"""

from core.sampling.caches import CACHES, STALE
from core.sampling.counts import COUNTS
from core.sampling.noise import draw_keys
from core.sampling.samplers import SAMPLERS
from core.sampling.selection import SELECTIONS
from core.sampling.solvers import SOLVERS

__all__ = ["CACHES", "COUNTS", "SAMPLERS", "SELECTIONS", "SOLVERS", "STALE", "draw_keys"]
