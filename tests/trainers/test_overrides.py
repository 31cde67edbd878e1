"""The docstring of each trainer lists all that is redefined of TRL and transformers, and nothing else."""

import pytest
from overrides import documented, ours, redefined

from trainers.dpo import DiffusionDPOTrainer
from trainers.grpo import ImprovedDiffuGRPOTrainer
from trainers.sft import DiffusionSFTTrainer

TRAINERS = (ImprovedDiffuGRPOTrainer, DiffusionSFTTrainer, DiffusionDPOTrainer)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_docstring_lists_every_redefined_method_with_its_class(trainer):
    listed, found = documented(trainer), redefined(trainer)
    assert len(listed) == len(set(listed))
    assert sorted(found - set(listed)) == [], "redefined, and not in the docstring"
    assert sorted(set(listed) - found) == [], "in the docstring, and not redefined"


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_method_is_looked_up_in_our_classes_before_the_libraries(trainer):
    """A mixin that the order of bases leaves behind TRL's trainer would redefine nothing."""
    own = ours(trainer)
    assert list(trainer.__mro__[: len(own)]) == own


@pytest.mark.parametrize("trainer", TRAINERS)
def test_an_override_that_is_added_or_removed_is_named(trainer, monkeypatch):
    class Added(trainer):
        def log(self, *args, **kwargs): ...

        def no_method_of_a_library(self): ...

    assert redefined(Added) - redefined(trainer) == {("log", "Added")}
    own = {name for name, cls in redefined(trainer) if cls == trainer.__name__}
    gone = min(own)
    monkeypatch.delattr(trainer, gone)
    assert set(documented(trainer)) - redefined(trainer) == {(gone, trainer.__name__)}


def test_the_seams_of_grpo_are_in_one_class():
    """What other classes redefine is what all trainers share, and rewards that may fail."""
    of_grpo, of_sft = ({cls for _, cls in redefined(trainer)} for trainer in TRAINERS[:2])
    assert of_grpo - of_sft == {"ImprovedDiffuGRPOTrainer", "FaultTolerantRewards"}
