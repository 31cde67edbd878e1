"""Draws by inversion have the law that they claim, also in the tail, and every log-probability is the closed form."""

import pytest
import torch
from toys import assert_mean, chi_square_excess, rng

from core.sampling.prediction import PIECE, Prediction, invert

FIRST, LAST = 0.0, 1 - 2.0**-52  # the least and the greatest uniform number
TEMPERATURES = [0.5, 1.0, 2.0]
# One piece, exactly one, one token more, a last piece that is not full, and a real vocabulary's size.
VOCABULARIES = [3, PIECE, PIECE + 1, 1000, 70_000]
every_vocabulary = pytest.mark.parametrize("vocabulary", VOCABULARIES)
every_temperature = pytest.mark.parametrize("temperature", TEMPERATURES)


def uniforms(n: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, generator=rng(seed), dtype=torch.float64)


def logits_of(vocabulary: int, rows: int = 1, scale: float = 2.0) -> torch.Tensor:
    """Normal logits, a third of them impossible; of a large vocabulary also the first and the last piece."""
    logits = torch.randn(rows, vocabulary, generator=rng(vocabulary)) * scale
    logits[:, torch.rand(vocabulary, generator=rng(1)) < 1 / 3] = float("-inf")
    if vocabulary > 2 * PIECE:
        logits[:, :PIECE] = logits[:, vocabulary // PIECE * PIECE - PIECE :] = float("-inf")
    logits[:, vocabulary // 2] = 1.0
    return logits


def one_level(weights: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse distribution function of one row in float64: tokens, and how far u is from the next boundary."""
    ends = weights.double().cumsum(dim=0) / weights.double().sum()
    tokens = torch.searchsorted(ends, u, right=True).clamp(max=len(ends) - 1)
    begin = torch.where(tokens > 0, ends[tokens - 1], 0.0)
    return tokens, torch.minimum(u - begin, ends[tokens] - u)


# ---- drawing --------------------------------------------------------------------------------------------------------


@every_temperature
@every_vocabulary
def test_draws_follow_the_tempered_softmax(vocabulary, temperature):
    n, logits = 20_000, logits_of(vocabulary)
    drawn = Prediction(logits, temperature, uniforms(n), torch.zeros(n).long()).tokens
    p = (logits[0].double() / temperature).softmax(0)
    assert bool((p[drawn] > 0).all())
    assert chi_square_excess(drawn.bincount(minlength=vocabulary), n * p) < 4


@every_vocabulary
def test_draws_are_those_of_one_search_in_float64(vocabulary):
    """The same token for the same number, save next to a boundary, which float32 sums of a piece move a little."""
    n, weights = 20_000, logits_of(vocabulary).exp()
    u = uniforms(n)
    expected, away = one_level(weights[0], u)
    got = invert(weights, u, torch.zeros(n).long())
    near = away < 1e-6  # float32 rounds the sum of a piece by a few of its units, 6e-8 of the sum
    assert torch.equal(got[~near], expected[~near])
    assert int(near.sum()) < n * 2 * vocabulary * 1e-6 + 20  # the exception is a rare one, or the test says nothing
    assert bool((weights[0, got] > 0).all())


@every_vocabulary
def test_the_first_and_the_last_number_give_possible_tokens(vocabulary):
    rows = 20
    logits = logits_of(vocabulary, rows)
    for u in (FIRST, LAST):
        drawn = Prediction(logits, 1.0, torch.full((rows,), u, dtype=torch.float64)).tokens
        possible = torch.isfinite(logits)
        expected = possible.int().argmax(dim=1) if u == FIRST else vocabulary - 1 - possible.flip(1).int().argmax(1)
        assert torch.equal(drawn, expected)


@every_vocabulary
def test_the_only_possible_token_is_drawn_wherever_it_stands(vocabulary):
    places = torch.tensor([0, vocabulary // 2, vocabulary - 1]).repeat_interleave(3)
    logits = torch.full((9, vocabulary), float("-inf")).scatter(1, places.unsqueeze(1), -3.0)
    u = torch.tensor([FIRST, 0.5, LAST], dtype=torch.float64).repeat(3)
    prediction = Prediction(logits, 1.0, u)
    assert torch.equal(prediction.tokens, places)
    assert bool((prediction.commit_logps == 0).all()) and bool((prediction.entropies == 0).all())


def test_mean_surprisal_of_drawn_tokens_is_the_entropy_of_a_large_vocabulary():
    """Zipf's law over 50k tokens: numbers of few bits would lose the tail, where half of the entropy is."""
    n = 20_000
    logits = -torch.arange(1.0, 50_001.0).log().unsqueeze(0)
    logps = logits[0].double().log_softmax(0)
    prediction = Prediction(logits, 1.0, uniforms(n), torch.zeros(n).long())
    assert_mean(-prediction.commit_logps, -(logps * logps.exp()).sum())
    assert_mean((prediction.tokens >= 45_000).double(), logps[45_000:].exp().sum())


def test_each_draw_uses_its_own_number_and_row():
    logits = torch.tensor([[0.0, 1.0, 2.0], [2.0, 0.0, 1.0]])
    of, u = torch.tensor([0, 1, 1, 0, 1]), uniforms(5)
    one_by_one = [Prediction(logits[i : i + 1], 1.0, u[k : k + 1]).tokens.item() for k, i in enumerate(of.tolist())]
    assert Prediction(logits, 1.0, u, of).tokens.tolist() == one_by_one


# ---- closed forms ---------------------------------------------------------------------------------------------------

# A shift changes no probability, and float32 keeps 1e-5 of a log-probability only if the best logit goes first.
SHIFTS = pytest.mark.parametrize("shift", [0.0, 1000.0], ids=["centred", "shifted"])


@SHIFTS
@every_temperature
@pytest.mark.parametrize("vocabulary", [3, 1000])
def test_log_probabilities_are_the_closed_forms(vocabulary, temperature, shift):
    rows = 50
    logits = logits_of(vocabulary, rows, scale=5.0) + shift
    untouched = logits.clone()
    prediction = Prediction(logits, temperature, uniforms(rows))
    plain = logits.double().log_softmax(dim=1)
    tempered = (logits.double() / temperature).log_softmax(dim=1)
    tokens = prediction.tokens.unsqueeze(1)
    other = torch.randint(vocabulary, (rows,), generator=rng(2))  # impossible ones among them
    p = plain.exp()
    expected = {
        "commit_logps": tempered.gather(1, tokens).squeeze(1),
        "top_logps": plain.amax(dim=1),
        "entropies": -torch.special.xlogy(p, p).sum(dim=1),
        "margins": p.topk(2, dim=1).values.diff(dim=1).squeeze(1).neg(),
    }
    for name, values in expected.items():
        assert torch.allclose(getattr(prediction, name).double(), values, rtol=0, atol=1e-5), name
    for asked in (tokens.squeeze(1), other):
        logps = plain.gather(1, asked.unsqueeze(1)).squeeze(1)
        assert torch.allclose(prediction.logps_of(asked).double(), logps, rtol=0, atol=1e-5)
    assert torch.equal(logits, untouched)


def read(prediction: Prediction, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    names = ("tokens", "commit_logps", "top_logps", "entropies", "margins")
    return {name: getattr(prediction, name) for name in names} | {"logps_of": prediction.logps_of(tokens)}


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("vocabulary", [3, 1000])
def test_shared_rows_are_repeated_rows(vocabulary, temperature):
    logits, of, u = logits_of(vocabulary, 4), torch.tensor([2, 0, 0, 3, 1, 2, 2]), uniforms(7)
    tokens = torch.randint(vocabulary, (7,), generator=rng(2))
    shared = read(Prediction(logits, temperature, u, of), tokens)
    repeated = read(Prediction(logits[of], temperature, u), tokens)
    for name, values in shared.items():
        assert torch.equal(values, repeated[name]), name


def test_greedy_takes_the_likeliest_token_with_certainty_and_no_number():
    logits = logits_of(1000, 20)
    prediction, sampled = Prediction(logits, 0.0, None), Prediction(logits, 1.0, uniforms(20))
    assert torch.equal(prediction.tokens, logits.argmax(dim=1))
    assert torch.equal(prediction.commit_logps, torch.zeros(20))
    assert torch.equal(prediction.top_logps, prediction.logps_of(prediction.tokens))
    for name in ("top_logps", "entropies", "margins"):  # what rules look at knows no temperature
        assert torch.equal(getattr(prediction, name), getattr(sampled, name)), name
