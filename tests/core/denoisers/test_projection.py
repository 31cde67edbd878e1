"""Chunked or not, recomputed or not: the log-probabilities, entropies and gradients are those of the full logits."""

import pytest
import torch
from torch import Tensor, nn
from toys import rng

from core.denoisers.projection import CHUNK_LOGITS, CHUNK_ROWS, of_targets, project, tempered_logps

ROWS, WIDTH, VOCABULARY, MASK_ID = 11, 6, 50, 7
NEVER = (slice(MASK_ID, MASK_ID + 1), slice(VOCABULARY - 4, None))  # the mask token, and rows without a token
TARGETS = torch.randint(8, VOCABULARY - 4, (ROWS,), generator=rng(1))
ADVANTAGES = torch.randn(ROWS, generator=rng(2))


class Adapted(nn.Module):
    """A frozen head with a low-rank adapter behind dropout, as LoRA puts one there."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.base = nn.Linear(WIDTH, VOCABULARY).requires_grad_(False)
        self.down, self.up = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, VOCABULARY, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.base(hidden) + self.up(self.down(self.dropout(hidden)))


class Own(nn.Linear):
    """A linear layer that `project` must not take for a plain one."""

    def forward(self, hidden: Tensor) -> Tensor:
        return 2 * super().forward(hidden)


HEADS = {
    "linear": lambda: nn.Linear(WIDTH, VOCABULARY),
    "own linear": lambda: Own(WIDTH, VOCABULARY),
    "frozen bias": lambda: nn.Linear(WIDTH, VOCABULARY),
    "no bias": lambda: nn.Linear(WIDTH, VOCABULARY, bias=False),
    "transformed": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, VOCABULARY)),
    "adapted": Adapted,
}


def built(name: str) -> nn.Module:
    head = HEADS[name]()
    for seed, parameter in enumerate(head.parameters()):
        nn.init.normal_(parameter, generator=rng(seed))
    if name == "frozen bias":
        head.bias.requires_grad_(False)
    return head


def hidden_states() -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=rng()).requires_grad_()


def full(head: nn.Module, hidden: Tensor, temperature: float) -> Tensor:
    """What `project` computes, from all logits at once."""
    token = torch.arange(VOCABULARY)
    logits = head(hidden).float().masked_fill((token == MASK_ID) | (token >= VOCABULARY - 4), float("-inf"))
    return torch.stack(of_targets(tempered_logps(logits, temperature), TARGETS), dim=1)


def chunked(head: nn.Module, hidden: Tensor, temperature: float, rows: int = 4) -> Tensor:
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    return project(head.forward, trained, hidden, TARGETS, NEVER, temperature, chunk_rows=rows)  # as a denoiser does


def gradients(head: nn.Module, hidden: Tensor, values: Tensor) -> list[Tensor]:
    (values[:, 0] * ADVANTAGES).sum().backward()
    assert hidden.grad is not None
    found = [hidden.grad, *(parameter.grad for parameter in head.parameters() if parameter.requires_grad)]
    assert all(gradient is not None and gradient.norm() > 1e-3 for gradient in found)
    return found


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("rows", [1, 4, ROWS, 3 * ROWS])
@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_are_those_of_the_full_logits(name, rows, temperature):
    sides = []
    for projection in (full, lambda *args: chunked(*args, rows=rows)):
        head, hidden = built(name), hidden_states()
        values = projection(head, hidden, temperature)
        sides.append([values.detach(), *gradients(head, hidden, values)])
    for expected, found in zip(*sides, strict=True):
        scale = max(1.0, float(expected.abs().max()))
        assert torch.allclose(found, expected, atol=1e-5 * scale, rtol=1e-5)


def test_greedy_is_scored_at_temperature_one():
    head, hidden = built("linear"), hidden_states()
    assert torch.equal(chunked(head, hidden, 0.0), chunked(head, hidden, 1.0))


def test_entropy_is_that_of_the_distribution_and_an_impossible_token_counts_nothing():
    logits = torch.tensor([[0.0, 0.0, float("-inf"), 0.0], [float("-inf"), 5.0, float("-inf"), float("-inf")]])
    logps, entropies = of_targets(tempered_logps(logits, 1.0), torch.tensor([3, 1]))
    expected = torch.tensor([3.0, 1.0]).log()
    assert torch.allclose(entropies, expected, atol=1e-6) and torch.allclose(logps, -expected, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "own linear"])
def test_no_more_logits_are_made_at_a_time_than_a_chunk_may_have(name, monkeypatch):
    head, hidden, sizes, linear = built(name), hidden_states(), [], nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda x, *rest: sizes.append(x.size(0)) or linear(x, *rest))
    gradients(head, hidden, chunked(head, hidden, 1.0, rows=4))
    assert sizes == [4, 4, 3, 4, 4, 3], "forward, then backward"


@pytest.mark.parametrize(("vocabulary", "rows"), [(2**13, 2**9), (2**17, CHUNK_ROWS)])
def test_a_chunk_has_so_many_logits_but_not_too_few_rows(vocabulary, rows):
    head, sizes = nn.Linear(1, vocabulary), []
    head.register_forward_hook(lambda _, args, output: sizes.append(output.size(0)))
    with torch.no_grad():
        project(head, [], torch.zeros(rows + 1, 1), torch.ones(rows + 1, dtype=torch.int64), (slice(0, 1),), 1.0)
    assert sizes == [1, rows, 1], "one row to learn the vocabulary"
    assert rows * vocabulary == max(CHUNK_LOGITS, CHUNK_ROWS * vocabulary)


def test_nothing_of_the_size_of_the_logits_is_kept_for_the_backward_pass():
    head, hidden = built("linear"), hidden_states()
    kept = chunked(head, hidden, 1.0).grad_fn.saved_tensors
    weights = {parameter.data_ptr() for parameter in head.parameters()}
    rest = sum(saved.numel() for saved in kept if saved.data_ptr() not in weights)
    assert rest == ROWS * (WIDTH + 2), "hidden states, targets and normalisers"


def test_a_frozen_head_hands_its_gradient_on_to_the_hidden_states():
    head, hidden = built("linear").requires_grad_(False), hidden_states()
    gradients(head, hidden, chunked(head, hidden, 1.0))
    other = hidden_states()
    gradients(head, other, full(head, other, 1.0))
    assert torch.allclose(hidden.grad, other.grad, atol=1e-5)


def test_no_rows_have_no_values_and_gradients_of_zero():
    head, hidden = built("linear"), torch.zeros(0, WIDTH, requires_grad=True)
    values = project(head, list(head.parameters()), hidden, TARGETS[:0], NEVER, 1.0)
    assert values.shape == (0, 2)
    values.sum().backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in head.parameters())


@pytest.mark.parametrize("backward_inside", [True, False])
def test_autocast_of_the_forward_holds_in_the_backward(backward_inside):
    """bfloat16 products, float32 from there on: as the full form has them, which keeps eight bits of a gradient."""
    sides, dtypes = [], set()
    for projection in (full, chunked):
        head, hidden = built("linear"), hidden_states()
        head.register_forward_hook(lambda _, args, output: dtypes.add(output.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            values = projection(head, hidden, 0.7)
            assert values.dtype == torch.float32
            if backward_inside:
                found = gradients(head, hidden, values)
        sides.append([values.detach(), *(found if backward_inside else gradients(head, hidden, values))])
    assert dtypes == {torch.bfloat16}
    exact = full(built("linear"), hidden_states(), 0.7)
    assert (sides[0][0] - exact).abs().max() > 1e-3, "autocast is on, or this shows nothing"
    assert torch.allclose(sides[1][0], sides[0][0], atol=1e-5)
    for expected, found in zip(sides[0][1:], sides[1][1:], strict=True):
        assert torch.allclose(found, expected, atol=0.03 * expected.abs().max().item())


def test_dropout_in_the_head_is_the_same_in_forward_and_backward():
    head, hidden = Adapted(dropout=0.5), hidden_states()
    torch.manual_seed(0)
    values = chunked(head, hidden, 1.0, rows=ROWS)
    torch.randn(3)  # whatever comes in between
    found = gradients(head, hidden, values)
    state = torch.get_rng_state()

    same = hidden_states()
    head.zero_grad()
    torch.manual_seed(0)
    expected = gradients(head, same, full(head, same, 1.0))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    torch.manual_seed(0)
    head(same), torch.randn(3)
    assert torch.equal(state, torch.get_rng_state()), "the backward pass leaves the random state alone"
