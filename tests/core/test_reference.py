"""The rollout writes what the definition in `reference` writes, whatever rows it is batched, padded or shared with."""

from functools import cache

import pytest
import torch
from pairs import EOS, PAIRS, chosen
from reference import Pick, by_number, reference
from toys import VOCABULARY, TableDenoiser, prompts, rng, sampler
from transformers import LlamaConfig, LlamaForCausalLM

from core.denoisers import ModelDenoiser
from core.generator import DiffusionGenerator
from core.sampling import SAMPLERS, draw_keys
from core.sampling.noise import RowNoise
from core.trajectory import Trajectory

CPU = torch.device("cpu")
# What the definition covers: every selection rule, and the adaptive samplers.
DEFINED = [(kind, rule) for kind, rule in PAIRS if SAMPLERS[kind].selects or SAMPLERS[kind].adaptive]
LENGTH = 8
TEXTS = [[1, 2, 3], [4, 5, 1, 7, 8], [9, 2], [3, 3, 3, 11, 0], [6, 10, 2, 4]]  # prompts of the transformer
WORDS, LAST_WORD = 12, 8  # its tokens, and the one that it is told to end with


@cache
def transformer() -> ModelDenoiser:
    """Two bidirectional layers of random weights, so large that the model is sure of something."""
    config = LlamaConfig(
        vocab_size=WORDS + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        is_causal=False,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model, noise = LlamaForCausalLM(config).eval().requires_grad_(False), rng(5)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.4, generator=noise)
    return ModelDenoiser(model, WORDS, head=model.lm_head)


def padded(texts: list[list[int]], padding: int = 0, pad_id: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of one length, with so much more padding on the left."""
    width = max(map(len, texts)) + padding
    ids = torch.tensor([[pad_id] * (width - len(text)) + text for text in texts])
    return ids, (torch.arange(width) >= width - torch.tensor([[len(text)] for text in texts])).long()


def numbers(keys: torch.Tensor, length: int = LENGTH) -> RowNoise:
    return RowNoise(keys, len(keys), length, CPU)


def ranks(step_map: torch.Tensor) -> torch.Tensor:
    """A row's reveal steps numbered without gaps: an ancestral batch counts steps that other rows needed."""
    return step_map.unique(return_inverse=True)[1]


def assert_same(out: Trajectory, row: int, expected: tuple[torch.Tensor, ...], eos_id: int | None) -> None:
    """Tokens, order and log-probabilities up to and including the first EOS."""
    ids, step_map, commit_logps = expected
    length = next((i + 1 for i, token in enumerate(ids.tolist()) if token == eos_id), len(ids))
    assert int(out.lengths[row]) == length
    assert out.ids[row, :length].tolist() == ids[:length].tolist()
    assert out.completion_ids[row, length:].tolist() == [eos_id] * (len(ids) - length)
    assert torch.equal(out.step_map[row, :length], step_map[:length])
    assert torch.allclose(out.commit_logps[row, :length].double(), commit_logps[:length], rtol=0, atol=1e-5)


# ---- a transformer --------------------------------------------------------------------------------------------------

KEYS = draw_keys(len(TEXTS), rng(3))
OPTIONS = {"steps": LENGTH, "eos_id": LAST_WORD, "threshold": 0.6, "entropy_bound": 1.0}
# Greedy at every block length, and every other rule once; sampled likewise.
CASES = [("count_matched", "top1", temperature, block) for temperature in (0.0, 1.0) for block in (1, 2, 4, 8)]
CASES += [(kind, rule, temperature, 4) for kind, rule in DEFINED if rule != "top1" for temperature in (0.0, 1.0)]


@cache
def by_the_book(kind: str, rule: str, temperature: float, block_length: int) -> list[tuple[torch.Tensor, ...]]:
    """The definition's rows, each alone and without padding."""
    options = {"temperature": temperature, "block_length": block_length, **OPTIONS}
    settings = sampler(transformer(), LENGTH, **options, **chosen(kind, rule))
    asked = (kind, rule) if rule else (kind,)
    noise = numbers(KEYS)
    texts = (torch.tensor(text) for text in TEXTS)
    return [
        reference(settings, text, torch.ones_like(text), by_number(noise, i), *asked) for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize(("kind", "rule", "temperature", "block_length"), CASES)
def test_a_transformer_writes_the_reference_at_every_batch_size_and_padding(kind, rule, temperature, block_length):
    expected = by_the_book(kind, rule, temperature, block_length)
    options = {"temperature": temperature, "block_length": block_length, **OPTIONS}
    generator = sampler(transformer(), LENGTH, **options, **chosen(kind, rule))
    for size, padding in ((1, 0), (2, 3), (5, 0), (5, 1)):
        for start in range(0, len(TEXTS), size):
            rows = slice(start, start + size)
            out = generator.generate(*padded(TEXTS[rows], padding), KEYS[rows])
            for row, one in enumerate(expected[rows]):
                assert_same(out, row, one, LAST_WORD)


def test_the_transformers_rows_end_at_different_places_and_some_early():
    """Or the test above would not see where a row stops."""
    for block_length in (1, 8):
        out = sampler(transformer(), LENGTH, temperature=0.0, block_length=block_length, **OPTIONS)
        lengths = out.generate(*padded(TEXTS), KEYS).lengths
        assert len(lengths.unique()) > 2 and int(lengths.min()) < LENGTH // 2


# ---- a toy, everywhere ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("block_length", [1, 3, 6])
@pytest.mark.parametrize(("kind", "rule"), DEFINED)
def test_a_toy_writes_the_reference(kind, rule, block_length, temperature):
    rows, keys = 6, draw_keys(6, rng(4))
    texts = [[1, 2], [1, 2], [0, 2, 2], [1], [1], [2, 1]]
    ids, mask = padded(texts)
    asked = (kind, rule) if rule else (kind,)
    for eos_id in (None, EOS):
        options = {"block_length": block_length, "temperature": temperature, "eos_id": eos_id, "steps": 6}
        generator = sampler(TableDenoiser(), 6, **options, threshold=0.7, entropy_bound=0.6, **chosen(kind, rule))
        out = generator.generate(ids, mask, keys)
        for row in range(rows):
            expected = reference(generator, ids[row], mask[row], by_number(numbers(keys, 6), row), *asked)
            assert_same(out, row, expected, eos_id)


class Walk:
    """Walks through everything that a program may pick, one choice after another; tells how likely each run was."""

    def __init__(self):
        self.plan: list[int] = []

    def start(self) -> Pick:
        self.taken: list[tuple[int, int]] = []  # (choice, number of choices)
        self.probability = 1.0
        return self.pick

    def pick(self, p: torch.Tensor, t: int, column: int) -> int:
        choices = p.nonzero().flatten()
        choice = self.plan[len(self.taken)] if len(self.taken) < len(self.plan) else 0
        self.taken.append((choice, len(choices)))
        self.probability *= p[choices[choice]].item()
        return int(choices[choice])

    def go_on(self) -> bool:
        """Plan the next run; False if there is none."""
        while self.taken and self.taken[-1][0] + 1 == self.taken[-1][1]:
            self.taken.pop()
        self.plan = [choice for choice, _ in self.taken]
        if self.plan:
            self.plan[-1] += 1
        return bool(self.plan)


@cache
def marginals(kind: str, rule: str) -> torch.Tensor:
    """The definition's distribution of the token at each position, (L, V), by walking through every pick."""
    settings, walk = toy_for_marginals(kind, rule), Walk()
    (ids,), (mask,) = prompts(1)
    expected = torch.zeros(3, VOCABULARY).double()
    while True:
        written, _, _ = reference(settings, ids, mask, (walk.start(), lambda t, i: 0.0), kind, rule or "top1")
        expected[torch.arange(3), written] += walk.probability
        if not walk.go_on():
            return expected


def toy_for_marginals(kind: str, rule: str, temperature: float = 1.0) -> DiffusionGenerator:
    options = {"steps": 1, "temperature": temperature, "threshold": 0.6, "entropy_bound": 0.8}
    return sampler(TableDenoiser(), 3, "linear", **options, **chosen(kind, rule))


def distance(kind: str, rule: str, temperature: float, n: int) -> torch.Tensor:
    """Total variation between n rollouts and the definition, less what chance may make of it, at each position.

    With p the law at a position and q the shares of n independent samples, TV = sum |p - q| / 2 has mean at most
    sum sqrt(p (1 - p) / n) / 2 (Jensen). One sample changes it by 1 / n at most, so it is sub-Gaussian around its mean
    with sigma = 1 / (2 sqrt(n)) (McDiarmid); four of them are added.
    """
    expected = marginals(kind, rule)
    out = toy_for_marginals(kind, rule, temperature).generate(*prompts(n), draw_keys(n, rng(5)))
    shares = torch.nn.functional.one_hot(out.ids, VOCABULARY).double().mean(dim=0)
    bound = (expected * (1 - expected) / n).sqrt().sum(dim=1) / 2 + 4 / (2 * n**0.5)
    return (shares - expected).abs().sum(dim=1) / 2 - bound


# The position of `random` is chance, not a pick, so that it has no walk.
@pytest.mark.parametrize(("kind", "rule"), [pair for pair in DEFINED if pair[1] != "random"])
def test_the_law_at_every_position_is_the_references(kind, rule):
    assert torch.allclose(marginals(kind, rule).sum(dim=1), torch.ones(3).double())
    assert bool((distance(kind, rule, 1.0, 100_000) <= 0).all())
    assert bool((distance(kind, rule, 1.1, 100_000) > 0).any())  # a temperature that is off by a tenth is seen


# ---- batch mates ----------------------------------------------------------------------------------------------------

GROUPED = torch.arange(6).repeat_interleave(2)  # 6 prompts, 2 completions each
MATES = {
    "reversed": torch.arange(12).flip(0),
    "shuffled": torch.randperm(12, generator=rng()),
    "dropped": torch.tensor([1, 2, 5, 10, 11]),
    "alone": torch.tensor([7]),
    "added": torch.arange(12).repeat(2),
    "repeated": torch.arange(12).repeat_interleave(3),
}


def assert_rows(out: Trajectory, whole: Trajectory, rows: torch.Tensor, numbered: bool) -> None:
    expected = whole[rows]
    assert torch.equal(out.ids, expected.ids)
    if numbered:
        assert torch.equal(out.step_map, expected.step_map)
    for one, other in zip(out.step_map, expected.step_map, strict=True):
        assert torch.equal(ranks(one), ranks(other))
    assert torch.allclose(out.commit_logps, expected.commit_logps, rtol=0, atol=1e-5)
    for name in ("lengths", "stopped", "forwards"):
        assert torch.equal(getattr(out, name), getattr(expected, name)), name


@pytest.mark.parametrize("eos_id", [None, EOS])
@pytest.mark.parametrize("block_length", [2, 8])
@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_a_toys_completion_does_not_depend_on_its_batch_mates(kind, rule, block_length, eos_id):
    options = {"block_length": block_length, "eos_id": eos_id, "threshold": 0.6, "entropy_bound": 0.6}
    generator = sampler(TableDenoiser(), LENGTH, **options, **chosen(kind, rule))
    texts = [[1, 2], [0, 2, 2], [1], [2, 2, 1], [0], [1, 1]]
    ids, mask = (values[GROUPED] for values in padded(texts))
    keys = draw_keys(12, rng(6))
    whole = generator.generate(ids, mask, keys)
    assert not torch.equal(whole.ids[::2], whole.ids[1::2])  # rows of a group have numbers of their own
    numbered = kind != "ancestral"
    for rows in MATES.values():
        assert_rows(generator.generate(ids[rows], mask[rows], keys[rows]), whole, rows, numbered)
    parts = [generator.generate(ids[part], mask[part], keys[part]) for part in torch.arange(12).split(5)]
    assert_rows(Trajectory.cat(parts), whole, torch.arange(12), numbered)


@pytest.mark.parametrize(("kind", "rule"), DEFINED)
def test_a_transformers_completion_does_not_depend_on_its_batch_mates(kind, rule):
    generator = sampler(transformer(), LENGTH, block_length=4, **OPTIONS, **chosen(kind, rule))
    ids, mask = (values[torch.arange(5).repeat_interleave(2)] for values in padded(TEXTS))
    keys = draw_keys(10, rng(6))
    whole = generator.generate(ids, mask, keys)
    for rows in (torch.arange(10).flip(0), torch.tensor([7]), torch.tensor([0, 1, 1, 4, 9])):
        out = generator.generate(ids[rows], mask[rows], keys[rows])
        assert_rows(out, whole, rows, numbered=True)


# ---- one evaluation for a group -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_group_is_one_row_of_the_first_evaluation_and_of_no_other(temperature):
    denoiser, seen = transformer(), []
    generator = sampler(denoiser, LENGTH, block_length=4, temperature=temperature, **(OPTIONS | {"eos_id": None}))
    keys = draw_keys(12, rng(7))
    grouped = torch.arange(3).repeat_interleave(4)
    apart = torch.arange(12).view(3, 4).T.flatten()  # the same rows, no two of a group side by side
    count = lambda _, args, inputs: seen.append(len(inputs["input_ids"]))  # noqa: E731
    handle = denoiser.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        ids, mask = (values[grouped] for values in padded(TEXTS[:3]))
        shared = generator.generate(ids, mask, keys)
        assert seen[0] == 3 and len(seen) > 2 and set(seen[1:]) == {12}
        seen.clear()
        separate = generator.generate(ids[apart], mask[apart], keys[apart])
        assert set(seen) == {12}
    finally:
        handle.remove()
    assert_rows(separate, shared, apart, numbered=True)
    assert bool((shared.forwards == len(seen)).all())  # a row took part in the shared evaluation too


def test_prompts_that_differ_only_in_what_is_padding_are_not_shared():
    denoiser = TableDenoiser()
    ids, mask = torch.tensor([[1, 2], [1, 2], [1, 2]]), torch.tensor([[0, 1], [0, 1], [1, 1]])
    sampler(denoiser, 4, temperature=0.0).generate(ids, mask, rng())
    assert denoiser.rows_seen[0] == 2
    assert denoiser.attention_seen[0].tolist() == [[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]


# ---- what comes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_a_transformer_leaves_no_mask(kind, rule, temperature):
    options = {"block_length": 2, "temperature": temperature, **OPTIONS, **chosen(kind, rule)}
    for eos_id in (None, LAST_WORD):
        out = sampler(transformer(), LENGTH, **(options | {"eos_id": eos_id})).generate(*padded(TEXTS), KEYS)
        assert bool(((out.ids >= 0) & (out.ids < WORDS)).all())
