"""What one SFT micro-step minimises, by its name: the bound of noised text, or the losses of a flow over embeddings.

Both draw their noise from the one schedule and, with scheduled sampling, move some of their states to where the
model's own denoising leads.
"""

from trainers.sft.flow import FlowObjective
from trainers.sft.masked import MaskedObjective
from trainers.sft.objective import Objective

OBJECTIVES: dict[str, type[Objective]] = {"masked": MaskedObjective, "flow_matching": FlowObjective}
