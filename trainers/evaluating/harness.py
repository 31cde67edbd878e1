"""A diffusion policy as a model of lm-evaluation-harness (optional package lm-eval), for its tasks and tables.

Completions come from the sampler of the config. Likelihoods are bounds: minus the NELBO of the continuation, estimated
on M fresh maskings (Sahoo et al. 2024, 2406.07524, eq. 10; as LLaDA, 2502.09992, does it for multiple choice), so they
are at most the model's log-likelihood in expectation, and carry Monte-Carlo noise.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from trl.data_utils import common_prefix_length

from core.masking_strategy import DiffusionMaskingStrategy, MaskingStrategy, sync_masking_with_nelbo
from core.nelbo import TrajectoryNELBOLoss
from trainers.distributed.randomness import generator_at
from trainers.models.policy import Policy
from trainers.rollouts import compiled_body, roll_out
from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.objects import build_generator, build_synced, schedule_arguments
from trainers.settings.options import ConfigError

try:
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]  an optional package
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]  an optional package
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]  an optional package
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]  an optional package
    from lm_eval.utils import make_table  # pyright: ignore[reportMissingImports]  an optional package
except ImportError as error:
    raise ConfigError(
        "lm-evaluation-harness is not installed: expected the package lm-eval; pip install 'trajectory-nelbo[harness]'"
    ) from error

OFFERED = {"until", "max_gen_toks", "do_sample", "temperature"}  # of a task's generation_kwargs


class DiffusionLM(LM):
    """Implements the three kinds of requests of the harness.

    Args:
        args: generation and loss options of the experiment.
        policy: the model.
        seed: of sampling and of masks; both also depend on the text of the request, and on nothing else.
        num_draws: M, maskings a likelihood; each is one row of a forward.
        batch_size: completions written side by side.
    """

    default_batch_size = 32

    def __init__(
        self,
        args: DiffusionArguments,
        policy: Policy,
        seed: int = 0,
        num_draws: int = 32,
        batch_size: int = default_batch_size,
    ):
        super().__init__()
        self.args, self.policy, self.seed, self.batch_size = args, policy, seed, batch_size
        schedule = schedule_arguments(args)
        self.bound = TrajectoryNELBOLoss(**schedule, source="forward", coupling="independent", num_draws=num_draws)
        # the prompt is given: it stays visible; a strategy like any other, whose schedule may be exchanged
        self.masking = cast(MaskingStrategy, DiffusionMaskingStrategy(0.0, **schedule))
        sync_masking_with_nelbo(self.masking, self.bound)
        policy.model.eval()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Completions, cut before the first stop string and after ``max_gen_toks`` tokens.

        The canvas has generation.max_completion_length tokens whatever a task asks for. A task that does not sample
        is decoded greedily; one that samples without a temperature has the config's.

        Raises:
            ConfigError: a task samples by a rule that a diffusion sampler does not have (top_p, ...).
        """
        contexts, kwargs = zip(*(request.args for request in requests), strict=True)
        temperatures = [self._temperature(own) for own in kwargs]
        keys = self._keys(list(zip(contexts, temperatures, strict=True)))
        texts = [""] * len(requests)
        for temperature in set(temperatures):
            rows = [i for i, own in enumerate(temperatures) if own == temperature]
            ids = self._complete([contexts[i] for i in rows], keys[rows], temperature)
            for i, own in zip(rows, ids, strict=True):
                text = self.policy.decode(own[: kwargs[i].get("max_gen_toks")], skip_special_tokens=True)
                texts[i] = cut(text, kwargs[i].get("until", []))
                self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
        return texts

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Minus the estimated NELBO of each continuation, in nats, on a canvas of its own length; whether it is what
        greedy decoding writes is not found out (False).

        Raises:
            ConfigError: the model has no such bound: flow matching, or block-causal attention.
        """
        bounds = [self._bound(*request.args) for request in requests]
        for request, bound in zip(requests, bounds, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, (bound, False))
        return [(bound, False) for bound in bounds]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """As `loglikelihood`, of whole texts behind an EOS token, each on one canvas."""
        return [self._bound("", request.args[0]) for request in requests]

    # ---- the model's own format: the harness makes chats of its questions, and these texts of them

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a chat, in the template of the model.

        Raises:
            ConfigError: an answer that is begun in the context, which a diffusion model is not asked for.
        """
        if not add_generation_prompt:
            raise ConfigError("a task begins the answer itself (gen_prefix): expected task.chat_template=false for it")
        return self.policy.format.render(self.policy.tokenizer, chat_history)

    @property
    def tokenizer_name(self) -> str:
        """For the harness's own cache of requests."""
        return (self.policy.name or "policy").replace("/", "__")

    # ---- completions

    def _temperature(self, kwargs: dict[str, Any]) -> float:
        temperature = kwargs.get("temperature")
        if not kwargs.get("do_sample", bool(temperature)) or temperature == 0:
            return 0.0
        unknown = sorted(set(kwargs) - OFFERED)
        if unknown:
            raise ConfigError(
                f"generation_kwargs {unknown[0]}={kwargs[unknown[0]]!r}: expected only {', '.join(sorted(OFFERED))} "
                "where do_sample is true"
            )
        return self.args.temperature if temperature is None else float(temperature)

    def _keys(self, places: Sequence[tuple[str, float]]) -> torch.Tensor:
        """One key a request, from its text and, where the harness repeats a request, its occurrence."""
        seen, keys = Counter(), []
        for place in places:
            noise = generator_at(self.seed, "harness", *map(str, place), seen[place])
            keys.append(noise.initial_seed())  # a hash of the place
            seen[place] += 1
        return torch.tensor(keys)

    def _complete(self, contexts: Sequence[str], keys: torch.Tensor, temperature: float) -> list[list[int]]:
        policy, (loss, masking) = self.policy, build_synced(self.args)
        denoiser = policy.denoiser(compiled=self.args.compile_rollouts)
        sampler = build_generator(self.args, denoiser, loss.schedule, masking, policy.eos_ids, temperature)
        prompts = [ids or [policy.eos_id] for ids in policy.format.tokenize(policy.tokenizer, contexts)]
        with compiled_body(policy.model, self.args.compile_rollouts):
            written = roll_out(sampler, prompts, keys, policy.pad_id, self.batch_size, policy.model.device)
        return written.completions()

    # ---- likelihoods

    def _bound(self, context: str, continuation: str) -> float:
        """Minus the NELBO, nats."""
        if self.args.prediction_type != "masked":
            raise ConfigError(f"loss.prediction_type={self.args.prediction_type!r}: an ODE gives no likelihood")
        if self.policy.block_length is not None:
            raise ConfigError("model.attention='block_causal': expected 'bidirectional' for tasks of likelihoods")
        prompt, target = self._split(context, continuation)
        if not target:
            return 0.0
        # without the continuation: those of equal length that a task compares then have the same masks
        noise, denoiser = generator_at(self.seed, "likelihood", context), self.policy.denoiser()
        ids = [torch.tensor([own], device=self.policy.model.device) for own in (prompt, target)]
        with denoiser.evaluating():
            estimate = self.bound(denoiser, self.masking, ids[0], torch.ones_like(ids[0]), ids[1], noise)
        return -estimate.sequence_bound.item()

    def _split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both, tokenised together; an EOS token where there is no context."""
        given, whole = self.policy.format.tokenize(self.policy.tokenizer, [context, context + continuation])
        start = common_prefix_length(given, whole) if context else 0
        return whole[:start] or [self.policy.eos_id], whole[start:]


def cut(text: str, stops: Sequence[str] | str) -> str:
    """What stands before the first of the stop strings."""
    stops = [stops] if isinstance(stops, str) else stops
    return min((text.split(stop)[0] for stop in stops if stop), key=len, default=text)


def evaluate(
    model: DiffusionLM, tasks: Sequence[str], include_path: str | None, num_fewshot: int | None, limit: int | None
) -> tuple[dict[str, Any], str]:
    """Run tasks.

    Args:
        model: what is evaluated.
        tasks: names, or paths of YAML files.
        include_path: a directory of further tasks.
        num_fewshot: examples in front of a question; None: the task's own.
        limit: documents of a task; None: all.

    Returns:
        The harness's results, versions and task configurations; and its table, as text.

    Raises:
        ConfigError: an unknown task.
    """
    try:
        found = simple_evaluate(
            model,
            tasks=list(tasks),
            num_fewshot=num_fewshot,
            limit=limit,
            log_samples=False,
            apply_chat_template=model.policy.format.chat,
            task_manager=TaskManager(include_path=include_path),
        )
    except (KeyError, FileNotFoundError) as error:
        raise ConfigError(f"--tasks {' '.join(tasks)}: {error}") from error
    assert found is not None  # None is what processes other than the first get
    return {name: found[name] for name in ("results", "versions", "configs", "n-samples")}, make_table(found)
