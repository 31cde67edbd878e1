"""How a completion is scored: states drawn once, scored as often as asked, without all logits at a time.

What every policy likelihood shares; the estimators themselves are in `core.nelbo` and `core.likelihoods`.

    draws.py       `Draws`: what the states hide, what of it is scored, with which weight
    forward.py     states by the forward process: stratified levels, `COUPLINGS` of masks
    replay.py      states of a recorded rollout: `REPLAYS` say which of its steps
    states.py      states as inputs of a denoiser
    likelihood.py  `Likelihood`: the base class, which draws and scores
    streaming.py   many states at the memory of few
    estimate.py    `LikelihoodEstimate`: what a scoring pass says
    ratios.py      `RATIOS`: what of it goes into an importance ratio and a KL
    share.py       `Share`: the part of a global batch that a process draws for

Imports denoisers, the masking strategy and the trajectory.
"""

from core.scoring.draws import Draws
from core.scoring.estimate import LikelihoodEstimate
from core.scoring.forward import COUPLINGS
from core.scoring.likelihood import Likelihood
from core.scoring.ratios import RATIOS, both_signs, by_sign, total_weight
from core.scoring.replay import REPLAYS
from core.scoring.share import WHOLE, Share
from core.scoring.states import noisy_prompts, predict_states

__all__ = [
    "COUPLINGS",
    "RATIOS",
    "REPLAYS",
    "WHOLE",
    "Draws",
    "Likelihood",
    "LikelihoodEstimate",
    "Share",
    "both_signs",
    "by_sign",
    "noisy_prompts",
    "predict_states",
    "total_weight",
]
