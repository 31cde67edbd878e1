"""What was measured of one estimator: a `Row`, beside its likelihood's errors and its gradient's."""

import math
from dataclasses import dataclass, fields
from typing import Any

REINFORCE = "exact likelihood"


@dataclass(frozen=True)
class Row:
    """What was measured of one estimator. Gradients are relative to the norm of the exact one; NaN: not measured.

    Attributes:
        estimator, settings, ratio, draws: what it is.
        forwards: states scored a sequence.
        bias, bias_low, bias_high: mean of estimate - log p, nats a completion, with its 95% interval over completions.
        bias_rms: root mean square over completions of an estimate's own bias, freed of Monte-Carlo noise.
        std: standard deviation of the estimate of one completion, nats; root mean square over completions.
        gradient_bias: norm of mean gradient - exact gradient; 0 where the estimate of its square is negative.
        gradient_bias_floor: what it must exceed to be told from 0.
        gradient_scale: mean gradient along the exact one; 1.5 is a step that is half as long again.
        cosine_of_mean: between mean and exact gradient, freed of Monte-Carlo noise.
        gradient_std: standard deviation of a batch's gradient, root of the trace of its covariance.
        batch_cosine: mean cosine between a batch's gradient and the exact one.
    """

    estimator: str
    settings: str
    ratio: str
    draws: int | None
    forwards: float
    bias: float
    bias_low: float
    bias_high: float
    bias_rms: float
    std: float
    gradient_bias: float = math.nan
    gradient_bias_floor: float = math.nan
    gradient_scale: float = math.nan
    cosine_of_mean: float = math.nan
    gradient_std: float = math.nan
    batch_cosine: float = math.nan

    @property
    def biased(self) -> bool:
        """Whether the gradient's bias can be told from 0."""
        return self.gradient_bias > self.gradient_bias_floor

    @classmethod
    def columns(cls) -> list[str]:
        """Headings of the CSV."""
        return [field.name for field in fields(cls)]


def has_gradients(rows: list[Row]) -> bool:
    """Whether gradients were measured at all."""
    return not all(math.isnan(row.gradient_bias) for row in rows)


def as_record(row: Row) -> dict[str, Any]:
    """A row for CSV and JSON; what was not measured is None."""
    values = {name: getattr(row, name) for name in Row.columns()}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}
