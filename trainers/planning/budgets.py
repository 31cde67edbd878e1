"""How long a run may take: wall time or optimiser steps."""

import re
from dataclasses import dataclass

from trainers.settings.options import ConfigError

HOUR = 3600
UNITS = {"s": 1, "m": 60, "min": 60, "h": HOUR, "hours": HOUR, "d": 24 * HOUR, "days": 24 * HOUR}
EXPECTED = "expected wall time or optimiser steps, such as 90min, 24h, 3d or 500steps"


@dataclass(frozen=True)
class Budget:
    """One of the two is set: seconds of wall time, or optimiser steps."""

    seconds: float | None = None
    steps: int | None = None

    def spent(self, seconds_per_step: float) -> tuple[float, float]:
        """(steps, seconds) of a run whose steps take so long."""
        if self.steps is not None:
            return self.steps, self.steps * seconds_per_step
        assert self.seconds is not None
        return self.seconds // seconds_per_step, self.seconds


def find_budget(text: str) -> Budget:
    """What `BUDGET` says.

    Raises:
        ConfigError: neither a time nor a number of steps, or nothing at all of either.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    if not found or float(found[1]) == 0:
        raise ConfigError(f"BUDGET {text!r}: {EXPECTED}")
    amount, unit = float(found[1]), found[2]
    if unit in ("step", "steps"):
        if amount != int(amount):
            raise ConfigError(f"BUDGET {text!r}: expected a whole number of steps")
        return Budget(steps=int(amount))
    if unit not in UNITS:
        raise ConfigError(f"BUDGET {text!r}: {EXPECTED}")
    return Budget(seconds=amount * UNITS[unit])
