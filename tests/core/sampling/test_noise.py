"""The rows' uniform numbers: SplitMix64 as published, uniform, unrelated to each other, and each row's own."""

import pytest
import torch
from toys import chi_square_excess, rng

import core.sampling.noise
from core.sampling import draw_keys
from core.sampling.noise import POSITION, RENOISE, REVEAL, TOKEN, RowNoise, splitmix64

PURPOSES = (TOKEN, REVEAL, POSITION, RENOISE)
CPU = torch.device("cpu")
WORD = (1 << 64) - 1
# The first outputs for two seeds, as published with the reference implementations.
KNOWN = {
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F],
    1234567: [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431],
}
# Keys as `draw_keys` gives them, and the worst that a caller might think of.
KEYS = {"drawn": draw_keys(200, rng()), "counted": torch.arange(200)}
every_keys = pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)


def plain(key: int, index: int) -> int:
    """SplitMix64 in integers without a sign."""
    z = (key + (index + 1) * 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def numbers(keys: torch.Tensor, width: int = 8, timesteps: int = 16) -> torch.Tensor:
    """Everything that a rollout may ask for, (rows, timesteps, purposes, width)."""
    noise = RowNoise(keys, len(keys), width, CPU)
    rows, columns = torch.arange(len(keys)).unsqueeze(1), torch.arange(width).unsqueeze(0)
    asked = [[noise.uniform(purpose, t, rows, columns) for purpose in PURPOSES] for t in range(timesteps)]
    return torch.stack([torch.stack(one, dim=1) for one in asked], dim=1)


@pytest.mark.parametrize("seed", KNOWN)
def test_known_answers(seed):
    expected = KNOWN[seed]
    got = splitmix64(torch.full((len(expected),), seed), torch.arange(len(expected)))
    assert [number & WORD for number in got.tolist()] == expected == [plain(seed, i) for i in range(len(expected))]


def test_every_key_and_index_gives_the_published_function():
    ends = torch.iinfo(torch.int64)
    keys = torch.cat([draw_keys(200, rng()), torch.tensor([ends.min, -1, 0, 1, ends.max])])
    index = torch.arange(len(keys)) ** 3
    got = splitmix64(keys, index).tolist()
    assert [number & WORD for number in got] == [
        plain(*pair) for pair in zip(keys.tolist(), index.tolist(), strict=True)
    ]


def test_a_number_is_the_upper_52_bits_at_its_address():
    keys = KEYS["drawn"][:3]
    got = numbers(keys, width=5, timesteps=4)
    for row, t, purpose, column in torch.cartesian_prod(*map(torch.arange, got.shape)).tolist():
        bits = plain(keys[row].item(), (t * 4 + PURPOSES[purpose]) * 5 + column)
        assert got[row, t, purpose, column].item() == (bits >> 12) / 2**52


@pytest.mark.parametrize(("bits", "expected"), [(0, 0.0), (-1, 1 - 2.0**-52)])
def test_the_ends_of_the_range(monkeypatch, bits, expected):
    monkeypatch.setattr(core.sampling.noise, "splitmix64", lambda key, index: torch.full_like(index, bits))
    assert bool((RowNoise(torch.zeros(2).long(), 2, 3, CPU).everywhere(REVEAL) == expected).all())
    assert expected < 1


@every_keys
def test_numbers_are_uniform(keys):
    u = numbers(keys).flatten()
    assert u.dtype == torch.float64 and bool(((u >= 0) & (u < 1)).all())
    units = (u * 2**52).long()
    for cells in (units >> 44, units & 255):  # the upper 8 bits and the lower 8
        assert chi_square_excess(cells.bincount(minlength=256), torch.full((256,), len(u) / 256)) < 4


@every_keys
@pytest.mark.parametrize("axis", range(4), ids=["row", "timestep", "purpose", "column"])
def test_neighbours_are_independent(keys, axis):
    u = numbers(keys)
    one, two = (u.narrow(axis, start, u.size(axis) - 1).flatten() for start in (0, 1))
    # The correlation of n independent pairs has standard error 1 / sqrt(n).
    assert torch.corrcoef(torch.stack([one, two]))[0, 1].abs() < 4 / len(one) ** 0.5
    cells = (one * 16).long() * 16 + (two * 16).long()
    assert chi_square_excess(cells.bincount(minlength=256), torch.full((256,), len(one) / 256)) < 4


def test_no_two_addresses_share_a_number():
    u = numbers(draw_keys(40, rng(1)), width=32, timesteps=20).flatten()
    assert len(u.unique()) == len(u)  # by chance: 1e5^2 / 2^53, once in a million


@every_keys
def test_a_rows_numbers_are_its_own(keys):
    """They do not depend on the rows beside it, on their order, or on what else is asked for."""
    rows, whole = len(keys), numbers(keys)
    order = torch.randperm(rows, generator=rng())
    assert torch.equal(numbers(keys[order]), whole[order])
    assert torch.equal(numbers(keys[:3]), whole[:3])
    noise = RowNoise(keys, rows, 8, CPU)
    some, columns = order[:5], torch.tensor([[6, 1]])
    one = noise.uniform(POSITION, 7, some.unsqueeze(1), columns)
    assert torch.equal(one, whole[some.unsqueeze(1), 7, POSITION, columns])
    assert torch.equal(noise.everywhere(RENOISE), whole[:, 0, RENOISE])
    t, column = torch.tensor([0, 9, 3, 3, 15]), torch.tensor([2, 2, 7, 0, 1])  # a timestep for each
    assert torch.equal(noise.uniform(TOKEN, t, some, column), whole[some, t, TOKEN, column])


@pytest.mark.parametrize("rows", [1, 5, 15, 16, 17, 100])
def test_a_shorter_draw_of_keys_is_the_start_of_a_longer_one(rows):
    longer = draw_keys(1000, rng())
    assert torch.equal(draw_keys(rows, rng()), longer[:rows])
    assert len(longer.unique()) == 1000 and 400 < int((longer < 0).sum()) < 600  # all 64 bits
    assert torch.equal(RowNoise(rng(), rows, 4, CPU).keys, longer[:rows])


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (torch.zeros(2).long(), r"shape \(2,\).*expected \(3,\)"),
        (torch.zeros(3).int(), r"int32.*torch.int64"),
    ],
)
def test_keys_that_are_none_are_named(keys, named):
    with pytest.raises(ValueError, match=named):
        RowNoise(keys, 3, 4, CPU)
