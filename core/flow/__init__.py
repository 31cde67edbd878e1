"""The continuous path: a flow over token embeddings (flow matching), and ReflexFlow.

`path` is the line from text to noise and the numbers drawn on it, `solvers` the ODE along it. `loss` trains the flow,
`sampler` writes with it. `reflexflow` holds two losses at states that the model itself walked to, for flows and masks.

Imports denoisers, the schedule, the masking strategy, trajectories and, from `core.sampling`, the noise of rows.
"""

from core.flow.loss import FlowEstimate, FlowMatchingLoss
from core.flow.path import FlowDraws
from core.flow.reflexflow import ReflexFlow
from core.flow.sampler import FlowGenerator
from core.flow.solvers import ODE_SOLVERS

__all__ = ["ODE_SOLVERS", "FlowDraws", "FlowEstimate", "FlowGenerator", "FlowMatchingLoss", "ReflexFlow"]
