"""What training will take on the accelerators that the user has, by the arithmetic of scripts/plan.py."""

from collections.abc import Iterator

from trainers.benchmarking.steps import FULL, LORA
from trainers.doctor.findings import NOT_RUN, NOTE, OK, Finding
from trainers.doctor.patient import Patient
from trainers.models.embedded import place_of
from trainers.planning.budgets import find_budget
from trainers.planning.derived import compute_dtype
from trainers.planning.machines import Given, asked_for, find_machines
from trainers.planning.models import find_model
from trainers.planning.plan import make_plan
from trainers.planning.settings import find_lengths, read_config
from trainers.planning.ways import choose
from trainers.settings.options import ConfigError

NOTHING_GIVEN = Given(None, None, None, None, None)
PER_NODE = 8
CANVAS = 256  # tokens, the default; of a model of blocks as many of them as fit


def memory(patient: Patient, gpus: str) -> Iterator[Finding]:
    """GB of each accelerator for GRPO at the default lengths, all weights trained and with an adapter.

    Args:
        patient: the checkpoint.
        gpus: COUNTxKIND, as scripts/plan.py takes it.
    """
    try:
        yield planned(patient, gpus)
    except ConfigError as error:  # a model whose matrices the cost model does not know
        yield Finding("memory", NOT_RUN, str(error))


def planned(patient: Patient, gpus: str) -> Finding:
    """The smallest way that fits, of all weights trained and of an adapter."""
    asked = asked_for(gpus, NOTHING_GIVEN)
    if patient.asked is not None:
        config, sizes = read_config(str(patient.asked.path), list(patient.words), asked.count), "as this config has it"
    else:
        config, sizes = read_config(None, default_sizes(patient), asked.count), "bfloat16, default lengths"
    dtype, _ = compute_dtype(config, asked.cpu)
    machines = find_machines(asked, NOTHING_GIVEN, PER_NODE, dtype)
    lengths, _ = find_lengths(config, patient.name, None, None, measured=False)
    plan = make_plan(
        config, find_model(place_of(patient.name), config.model), machines, find_budget("1steps"), lengths, None, None
    )
    parts, fits = [], False
    for trained in (FULL, LORA):
        way = choose(plan.ways, trained)
        parts.append(f"{trained} {way.memory.peak / 1e9:.2g} GB by {way.strategy}{'' if way.fits else ', too much'}")
        fits |= way.fits
    return Finding("memory", OK if fits else NOTE, f"{gpus}, {sizes}: {'; '.join(parts)}")


def default_sizes(patient: Patient) -> list[str]:
    """Options of a run at the default lengths, or those nearest to them that are whole blocks."""
    words = ["--model.name_or_path", patient.name, "--model.dtype", "bfloat16"]
    block_length = patient.policy.block_length
    if block_length is None:
        return words
    canvas = str(block_length * max(1, CANVAS // block_length))
    lengths = {"block_length": str(block_length), "max_completion_length": canvas, "steps": canvas}
    return words + [word for key, value in lengths.items() for word in (f"--generation.{key}", value)]
