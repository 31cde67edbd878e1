"""Whether the first rollouts teach anything: rewards that are equal in every group give no gradient."""

from trainers.reporting.history import Row, reward_means
from trainers.settings.grpo import ImprovedDiffuGRPOConfig

NO_SIGNAL = "frac_reward_zero_std"  # TRL's: share of the groups whose completions all have the same reward
ENOUGH = 16  # groups: where a policy solves a problem 1 time in 50, 16 groups of 8 all fail in 8 of 100 runs

LOOK = "look at some completions (`training.log_completions` true)"
CHANGE = (
    "cut off: raise `generation.max_completion_length`; in another format: see `task.chat_template` and what "
    "`task.rewards` ask for; too hard: easier problems, a higher `training.num_generations` or "
    "`generation.temperature`, a reward that gives points for parts, or a start from a model of trainer sft"
)
ALIKE = (
    "where all are right make the task harder; else raise `training.num_generations` or `generation.temperature`, or "
    "add a reward to `task.rewards` that tells completions apart"
)


class FlatReward:
    """Looks at the rows of the log until one shows a signal, or enough groups have shown none."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._settled = False

    @property
    def waiting(self) -> bool:
        """Whether no row has shown a signal so far, and too few have been seen to say so."""
        return bool(self._rows) and not self._settled

    def look(self, row: Row, args: ImprovedDiffuGRPOConfig) -> str | None:
        """What to say of the run's beginning, in one line; None: nothing, or not yet.

        Args:
            row: of the log of training.
            args: the run's options.
        """
        if self._settled or NO_SIGNAL not in row or "reward" not in row:
            return None
        self._rows.append(row)
        assert args.generation_batch_size and args.num_generations  # TRL's options settle them
        groups = len(self._rows) * (args.generation_batch_size // args.num_generations)  # at least
        self._settled = row[NO_SIGNAL] != 1 or groups >= ENOUGH
        return self._finding() if self._settled and row[NO_SIGNAL] == 1 else None

    def _finding(self) -> str:
        values = [row[key] for row in self._rows for key in ("reward", *reward_means([row]))]
        if any(values):
            return f"in every group so far all rewards are equal, so nothing is learned: {LOOK}; {ALIKE}"
        return f"every reward has been 0 for every completion so far, so nothing is learned: {LOOK}; {CHANGE}"
