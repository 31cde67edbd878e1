"""What a task of word problems may be told to train on, beside its own problems.

It stands beside the tasks, as the section `task` of a config reads it and other tasks refuse it.
"""

from dataclasses import dataclass

# style of a solution -> what the prompt asks for, so that a model that learned several knows which one is wanted
STYLES = {"full": "Answer:", "equations": "Equations:"}
PLAIN = "full"


@dataclass(frozen=True)
class TrainingData:
    """Options of the training split, in the section `task` of a config.

    Args:
        solutions: styles of `STYLES`; every training problem appears once in each, and held-out problems in the first.
            None: full solutions.
        perturbed_copies: most number-perturbed copies of each training problem, see `trainers.tasks.word_problems`.
        extra_files: further training files, GSM8K jsonl or SVAMP.json.

    Raises:
        ValueError: an unknown or repeated style, or a negative number.
    """

    solutions: tuple[str, ...] | None = None
    perturbed_copies: int = 0
    extra_files: tuple[str, ...] = ()

    def __post_init__(self):
        styles = self.solutions
        if styles is not None and (not styles or len(set(styles)) < len(styles) or not set(styles) <= STYLES.keys()):
            raise ValueError(f"task.solutions={list(styles)}: expected one or more different of {', '.join(STYLES)}")
        if self.perturbed_copies < 0:
            raise ValueError(f"task.perturbed_copies={self.perturbed_copies}: expected at least 0")

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles in use: those that were set, or full solutions alone."""
        return self.solutions or (PLAIN,)

    def refuse(self, reason: str) -> None:
        """Raise ValueError for an option that is set, where none can be honoured."""
        for name, value in vars(self).items():
            if value != getattr(UNCHANGED, name):
                shown = list(value) if isinstance(value, tuple) else value
                raise ValueError(f"task.{name}={shown}: {reason}")


UNCHANGED = TrainingData()
