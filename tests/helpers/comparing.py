"""A comparison of estimators on answers of one digit: 121 canvases, a model trained in seconds."""

import torch

from core.generator import DiffusionGenerator
from core.nelbo import TrajectoryNELBOLoss
from trainers.studies.estimators.comparison import Comparison
from trainers.studies.estimators.enumerable import problems
from trainers.studies.estimators.gradients import compare_gradients
from trainers.studies.estimators.rows import Row
from trainers.studies.estimators.variants import Variant

LENGTH, STEPS = 2, 2
EMPTY = Row("nobody", "", "", 1, 1, 0.0, 0.0, 0.0, 0.0, 0.0)


class Bench:
    """A comparison on answers of one digit, 121 canvases, with its exact gradient and batches."""

    def __init__(self, trained, **options):
        self.bound, masking, denoiser = trained
        self.generator = DiffusionGenerator(denoiser, masking.schedule, masking, LENGTH, **options)
        prompts, answers = (ids[10:40:10] for ids in problems(LENGTH))
        self.comparison = Comparison(
            self.generator, masking, list(denoiser.model.parameters()), prompts, answers, seed=0
        )
        self.target = self.comparison.target()
        self.batches = self.comparison.batches(self.target, 32, 24)
        self.reinforce = torch.stack([batch.reinforce for batch in self.batches])

    def variant(self, cls=TrajectoryNELBOLoss, **settings) -> Variant:
        return Variant("own", "", cls(**self.generator.schedule.params, **settings))

    def measure(self, variant: Variant) -> tuple[Row, torch.Tensor]:
        row, samples = self.comparison.likelihood(variant, 8, 4), self.comparison.gradients(variant, self.batches)
        return compare_gradients(row, samples, self.reinforce, self.target.gradient), samples
