"""All that is looked at, in order; what fails is a finding and ends nothing."""

from collections.abc import Callable, Iterator
from functools import partial

from trainers.doctor.findings import FAULT, Finding, one_line
from trainers.doctor.identity import identity, probes, special_tokens
from trainers.doctor.memory import memory
from trainers.doctor.own_texts import own_texts
from trainers.doctor.patient import Patient
from trainers.doctor.remembering import caches
from trainers.doctor.training import train
from trainers.saving.kept_files import brings_code

Check = Callable[[Patient], Iterator[Finding]]


def examine(patient: Patient, gpus: str, trains: bool) -> Iterator[Finding]:
    """Findings as they are made.

    Args:
        patient: the loaded checkpoint.
        gpus: COUNTxKIND that memory is planned for.
        trains: whether to train a few steps, too; the last thing, since it changes the weights.
    """
    checks: dict[str, Check] = {
        "identity": identity,
        "special tokens": special_tokens,
        "probes": probes,
        "caches": caches,
        "own text": own_texts,
        "memory": partial(memory, gpus=gpus),
    }
    if trains:
        checks["training"] = train
    for name, check in checks.items():
        try:
            yield from check(patient)
        except Exception as error:  # a model's own code may raise anything: that is what is to be found out
            yield Finding(name, FAULT, one_line(error))


def to_start_from(patient: Patient) -> str:
    """Lines of a config that trains this checkpoint, as YAML."""
    policy, arguments = patient.policy, patient.arguments
    lines = ["model:", f"  name_or_path: {patient.name}"]
    given: dict[str, object] = {"trust_remote_code": True if brings_code(policy) else None}
    given["code"] = None if arguments.code == "auto" else arguments.code
    given |= {name: getattr(arguments, name) for name in ("attention", "logit_shift", "mask_token")}
    lines += [f"  {name}: {shown(value)}" for name, value in given.items() if value is not None]
    if policy.block_length is not None:
        lines += ["generation:", f"  block_length: {policy.block_length}"]
    return "\n".join(lines)


def shown(value: object) -> str:
    """A value as YAML has it."""
    return str(value).lower() if isinstance(value, bool) else f"{value!r}"
