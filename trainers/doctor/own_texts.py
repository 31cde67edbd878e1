"""Our greedy texts against those of the model's own loop, where its code has one.

The loops are called as their files have them: ``diffusion_generate`` (Dream, 2508.15487) and ``generate`` with a block
length (LLaDA2, 2512.15745). LLaDA's and SDAR's loops are not in their model files. A native model has no loop: the
checkpoint's code is then loaded beside it, if the user trusts it.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from core.denoisers.vocabulary import fill_
from trainers.doctor.findings import FAULT, NOT_RUN, OK, Finding, one_line
from trainers.doctor.patient import Patient
from trainers.models.loading import load_policy
from trainers.models.policy import Policy
from trainers.saving.kept_files import brings_code

CHECK = "own text"
EPSILON = 1e-3  # where Dream's time ends
DRAWS = "_sample_with_temperature_topk_topp"  # LLaDA2's sampler of tokens


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
        generation_config=copy.deepcopy(policy.model.generation_config),
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
    """Nothing is surer than 1.1, and nothing ends a text."""
    asked = {
        "temperature": 0.0,
        "block_length": policy.block_length,
        "steps": policy.block_length,
        "gen_length": canvas,
        "threshold": 1.1,
        "editing_threshold": 1.1,
        "mask_id": policy.mask_id,
        "eos_id": -1,
        "eos_early_stop": False,
    }
    taken = inspect.signature(method).parameters
    return method(prompt, **{name: value for name, value in asked.items() if name in taken})


LOOPS = (
    Loop(
        "diffusion_generate",
        "generation_config",
        _dream,
        {"selection": "top1", "counts": "dream"},
        (0.0, 1.0 - EPSILON),
    ),
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
            with own.denoiser().evaluating(), comparable(own):
                written = tokens_of(loop.run(getattr(own.model, loop.method), ids, canvas, own))
        except Exception as error:
            return Finding(CHECK, NOT_RUN, f"its {loop.method} fails here: {one_line(error)}")
        theirs = written[-canvas:] if len(written) <= canvas else written[len(prompt) : len(prompt) + canvas]
        ours = patient.write([prompt], canvas, schedule, **loop.ours).ids[0].tolist()
        whole = canvas - (len(prompt) % own.block_length if own.block_length is not None else 0)
        equal, compared = equal + (ours[:whole] == theirs[:whole]), compared + 1
    outcome = OK if equal == compared else FAULT
    return Finding(CHECK, outcome, f"{equal} of {compared} greedy texts equal to those of its {loop.method}")


@contextmanager
def comparable(policy: Policy) -> Iterator[None]:
    """Meanwhile a model's loop differs from ours in nothing but the choices that are compared.

    Its masks have the dtype of the weights, where the loop makes them in bfloat16; those of zeros and ones say who is
    seen, though added to scores as they are (by LLaDA2.1's file) they would hide nobody. What is never drawn here has
    no probability. The likeliest token is taken where its sampler draws at temperature 0 too (LLaDA2.0's).
    """
    model = policy.model
    forward = model.forward

    @wraps(forward)
    def limited(*args: Any, **kwargs: Any) -> Any:
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.is_floating_point():
            flags = bool(((mask == 0) | (mask == 1)).all()) and bool(mask.any())
            kwargs["attention_mask"] = mask.bool() if flags else mask.to(model.dtype)
        output = forward(*args, **kwargs)
        fill_(output.logits, policy.never, -torch.inf)
        return output

    changed: dict[str, Any] = {"forward": limited}  # by name: the loop may call it past hooks
    if hasattr(model, DRAWS):
        changed[DRAWS] = _likeliest
    vars(model).update(changed)
    try:
        yield
    finally:
        for name in changed:
            del vars(model)[name]


def _likeliest(logits: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Each position's likeliest token and its probability."""
    sure, tokens = logits.softmax(dim=-1).max(dim=-1)
    return tokens, sure


def tokens_of(written: Any) -> list[int]:
    """Ids of the one row that a loop returns, bare or in an object."""
    return getattr(written, "sequences", written)[0].tolist()
