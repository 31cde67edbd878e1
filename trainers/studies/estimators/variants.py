"""What is compared: every estimator with the options and the numbers of draws that make it another one."""

from dataclasses import dataclass
from typing import Any

from core.generator import DiffusionGenerator
from core.likelihoods import ESTIMATORS
from core.scoring import Likelihood
from trainers.settings.options import ConfigError

# Options that make another estimator of the same name; the others have none here.
SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "trajectory_nelbo": (
        {"source": "forward"},
        {"source": "forward", "coupling": "antithetic"},
        {"source": "rollout", "replay": "drawn"},
        {"source": "rollout", "replay": "all"},
    ),
    "selection_replay": ({"replay": "drawn"}, {"replay": "all"}),
}
# Estimators whose draws differ by masked prompts alone, which this comparison has not, so that one is as good as many.
ALL_ALIKE = ("one_step",)


@dataclass(frozen=True)
class Variant:
    """An estimator with its options, as one row of the comparison."""

    name: str
    settings: str
    estimator: Likelihood

    @property
    def draws(self) -> int | None:
        """Number of draws, None where the rollout decides."""
        return None if "all" in self.settings.split() else self.estimator.num_draws

    @property
    def label(self) -> str:
        """Name, options, number of draws and ratio, in a line."""
        return f"{self.name} {self.settings} {self.draws} {self.estimator.ratio}"


def variants(names: list[str], numbers: list[int], generator: DiffusionGenerator) -> list[Variant]:
    """Every named estimator with each of its settings, at the numbers of draws that it accepts and its published one.

    `normalised`, `weighted` and `none` have one gradient at ratio 1; `plain` has another where fresh masks have
    weights, and is measured at the published number.

    Raises:
        ConfigError: an unknown name.
    """
    found = []
    for name in names:
        if name not in ESTIMATORS:
            raise ConfigError(f"--estimators {name!r}: expected some of {', '.join(ESTIMATORS)}")
        for settings in SETTINGS.get(name, ({},)):
            found += _of_settings(name, settings, numbers, generator)
    return found


def _of_settings(
    name: str, settings: dict[str, Any], numbers: list[int], generator: DiffusionGenerator
) -> list[Variant]:
    """One estimator with one choice of options: every number of draws, and the plain ratio where it differs."""
    options = {**generator.schedule.params, **settings}
    if name == "selection_replay":
        options |= {"temperature": generator.temperature, "block_length": generator.block_length}
    published = ESTIMATORS[name](**options)
    estimators = [
        _at_number(name, options, number, published, generator.canvas_length)
        for number in sorted({*numbers, published.num_draws})
    ]
    weighs = published.source == "forward" and "plain" in published.ratios and name not in ALL_ALIKE
    if weighs and "coupling" not in settings:  # couplings differ in noise alone
        estimators.append(ESTIMATORS[name](**options, ratio="plain"))
    return [Variant(name, " ".join(settings.values()), own) for own in estimators if own is not None]


def _at_number(
    name: str, options: dict[str, Any], number: int, published: Likelihood, canvas_length: int
) -> Likelihood | None:
    """The estimator at a number of draws; None where the number is nothing new or none that it can draw."""
    one_is_enough = name in ALL_ALIKE or options.get("replay") == "all"
    if one_is_enough and number != published.num_draws:
        return None
    if published.source == "rollout" and number > canvas_length:  # there are not so many steps
        return None
    try:
        return ESTIMATORS[name](**options, num_draws=number)
    except ValueError:  # not a number that this estimator can draw
        return None
