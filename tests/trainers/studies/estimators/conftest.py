"""The small model, trained once, and the comparison on it."""

import pytest
from comparing import LENGTH, STEPS, Bench

from core.masking_strategy import DiffusionMaskingStrategy
from trainers.studies.estimators.enumerable import (
    MASK,
    AnswerDenoiser,
    build_model,
    fit,
)


@pytest.fixture(scope="session")
def trained():
    """The bound after a short training, the schedule's masks and the model."""
    model = build_model(0)
    masking = DiffusionMaskingStrategy(0.0, STEPS, "linear")
    denoiser = AnswerDenoiser(model, MASK, head=model.lm_head)
    return fit(denoiser, masking, LENGTH, steps=60, seed=0).nelbo, masking, denoiser


@pytest.fixture(scope="session")
def bench(trained):
    return Bench(trained, selection="top1")
