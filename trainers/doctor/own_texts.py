"""Our greedy texts against those of the model's own loop, where its code has one.

The loops are called as their files have them: ``diffusion_generate`` (Dream, 2508.15487) and ``generate`` with a block
length (LLaDA2, 2512.15745). LLaDA's and SDAR's loops are not in their model files. A native model has no loop: the
checkpoint's code is then loaded beside it, if the user trusts it.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from trainers.doctor.findings import FAULT, NOT_RUN, OK, Finding, one_line
from trainers.doctor.patient import Patient
from trainers.models.loading import load_policy
from trainers.models.policy import Policy

CHECK = "own text"
TOLD = {"temperature": 0.0}
EPSILON = 1e-3  # where Dream's time ends


@dataclass(frozen=True)
class Loop:
    """A loop that a model's code brings along.

    Attributes:
        method: its name.
        told_by: an argument that tells it from others of that name.
        run: (method, prompt (1, P), canvas, policy) -> ids, with the prompt or without.
        ours: options of our generator that make the same choices.
        ends: alpha_min and alpha_max of the linear schedule that has its levels.
    """

    method: str
    told_by: str
    run: Callable[[Callable[..., Any], Tensor, int, Policy], Any]
    ours: dict[str, Any]
    ends: tuple[float, float]


def _dream(method: Callable[..., Any], prompt: Tensor, canvas: int, policy: Policy) -> Any:
    """One token is revealed where its likeliest token is likeliest; its file draws from all tokens then."""
    return method(
        prompt,
        max_new_tokens=canvas,
        steps=canvas,
        alg="maskgit_plus",
        alg_temp=0.0,
        temperature=0.0,
        top_k=policy.model.config.vocab_size,
        eps=EPSILON,
        mask_token_id=policy.mask_id,
    )


def _blocks(method: Callable[..., Any], prompt: Tensor, canvas: int, policy: Policy) -> Any:
    """top_k 1: LLaDA2.0's file draws even at temperature 0. Nothing is surer than 1.1, nothing ends a text."""
    asked = {
        "temperature": 0.0,
        "block_length": policy.block_length,
        "steps": policy.block_length,
        "gen_length": canvas,
        "top_k": 1,
        "threshold": 1.1,
        "editing_threshold": 1.1,
        "mask_id": policy.mask_id,
        "eos_id": -1,
        "eos_early_stop": False,
    }
    taken = inspect.signature(method).parameters
    return method(prompt, **{name: value for name, value in asked.items() if name in taken})


LOOPS = (
    Loop("diffusion_generate", "generation_config", _dream, {"selection": "top1"}, (0.0, 1.0 - EPSILON)),
    Loop("generate", "gen_length", _blocks, {"selection": "low_confidence"}, (0.0, 1.0)),
)


def own_texts(patient: Patient) -> Iterator[Finding]:
    """How many greedy texts are the same, token by token."""
    try:
        own = with_own_code(patient)
    except Exception as error:  # somebody else's code, under another transformers than it was written for
        yield Finding(CHECK, NOT_RUN, f"its code does not load: {one_line(error)}")
        return
    found = [loop for loop in LOOPS if has(own.model, loop)]
    if not found:
        yield Finding(CHECK, NOT_RUN, "its code has no loop of its own" if brings_code(own) else "it brings no code")
        return
    yield compare(patient, own, found[0])


def has(model: torch.nn.Module, loop: Loop) -> bool:
    """Whether the model's class has the loop; every model of transformers has a ``generate`` of another kind."""
    method = getattr(model, loop.method, None)
    return method is not None and loop.told_by in inspect.signature(method).parameters


def brings_code(policy: Policy) -> bool:
    """Whether the model is of a class of its checkpoint's."""
    return type(policy.model).__module__.startswith("transformers_modules")


def with_own_code(patient: Patient) -> Policy:
    """The same checkpoint by its own code, if the user trusts it."""
    if brings_code(patient.policy) or not patient.arguments.trust_remote_code:
        return patient.policy
    arguments = replace(patient.arguments, code="remote")
    return load_policy(arguments, block_length=patient.policy.block_length)


def compare(patient: Patient, own: Policy, loop: Loop) -> Finding:
    """Greedy completions of both, prompt by prompt: the loops take no padding."""
    canvas = patient.canvas
    schedule = AlphaSchedule("linear", canvas, *loop.ends)
    equal, compared = 0, 0
    for prompt in patient.prompts():
        ids = torch.tensor([prompt], device=own.model.device)
        try:
            with own.denoiser().evaluating():
                written = tokens_of(loop.run(getattr(own.model, loop.method), ids, canvas, own))
        except Exception as error:
            return Finding(CHECK, NOT_RUN, f"its {loop.method} fails here: {one_line(error)}")
        theirs = written[-canvas:] if len(written) <= canvas else written[len(prompt) : len(prompt) + canvas]
        ours = patient.write([prompt], canvas, schedule, **loop.ours).ids[0].tolist()
        whole = canvas - (len(prompt) % own.block_length if own.block_length is not None else 0)
        equal, compared = equal + (ours[:whole] == theirs[:whole]), compared + 1
    outcome = OK if equal == compared else FAULT
    return Finding(CHECK, outcome, f"{equal} of {compared} greedy texts equal to those of its {loop.method}")


def tokens_of(written: Any) -> list[int]:
    """Ids of the one row that a loop returns, bare or in an object."""
    return getattr(written, "sequences", written)[0].tolist()
