"""The canvas: a step waits for nobody, what the host learns late changes nothing but the cost, and who stops when."""

import pytest
import torch
from pairs import EOS, PAIRS, chosen
from torch.utils._python_dispatch import TorchDispatchMode
from toys import MASK, VOCABULARY, TableDenoiser, TinyModel, rng, sampler

import core.sampling.canvas
from core.denoisers import Denoiser, ModelDenoiser
from core.generator import DiffusionGenerator
from core.sampling import SAMPLERS, draw_keys
from core.sampling.canvas import Canvas, HostReader, Transition
from core.sampling.context import WholeCanvas
from core.sampling.noise import REVEAL, RowNoise
from core.sampling.prediction import Prediction
from core.trajectory import NEVER

CPU, META = torch.device("cpu"), torch.device("meta")
# Samplers whose steps have sizes that the schedule gives; the others look at how many tokens chance reveals.
UNWAITED = [(kind, rule) for kind, rule in PAIRS if SAMPLERS[kind].selects or SAMPLERS[kind].adaptive]


# ---- no step waits for the device -----------------------------------------------------------------------------------
# A tensor on the meta device has a shape and no values: whatever would read a value to the host, or needs values to
# know a size, raises an error there, save one thing. What runs on it has nothing to wait for on an accelerator.

SYNCHRONISING = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: bool(x.any()),
    "nonzero": lambda x: x.nonzero(),
    "masked_select": lambda x: x.masked_select(x > 0),
    "reading a mask": lambda x: x[x > 0],
    "repeats": lambda x: x.repeat_interleave(x),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "to the host": lambda x: x.tolist(),
    "writing at a mask": lambda x: x.__setitem__(x > 0, x.clone()),
}


class NoMaskedWrites(TorchDispatchMode):
    """Refuses to write at a boolean index, the one thing that looks for positions and yet runs on meta."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.index_put_, torch.ops.aten.index_put):
            dtypes = [index.dtype for index in args[1] if index is not None]
            if torch.bool in dtypes:
                raise RuntimeError("a write at a boolean index waits for the device to find its positions")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("wait", SYNCHRONISING.values(), ids=SYNCHRONISING)
def test_what_would_wait_for_the_device_raises_on_meta(wait):
    wait(torch.ones(3).long())
    with pytest.raises((RuntimeError, NotImplementedError)), NoMaskedWrites():
        wait(torch.ones(3, device=META).long())


class Shapes(Denoiser):
    """Logits of the right shape, without values."""

    mask_id = MASK

    def logits(self, ids: torch.Tensor, attention_mask: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the number of rows of a mask is a value")

    def logits_at(self, ids: torch.Tensor, attention_mask: torch.Tensor | None, columns: torch.Tensor) -> torch.Tensor:
        return torch.empty(columns.numel(), MASK + 1, device=ids.device)


def on_meta(generator: DiffusionGenerator, rows: int = 4, padding: bool = True) -> Canvas:
    """A canvas whose tensors have no values, behind two prompts of `rows / 2` completions each."""
    prompt_ids = torch.tensor([[0, 1, 2], [1, 1, 2]]).repeat_interleave(rows // 2, dim=0)
    prompt_mask = (torch.arange(3) >= prompt_ids[:, :1].eq(0).int() * int(padding)).long()
    context = WholeCanvas(generator.denoiser, prompt_ids, prompt_mask)
    for name, value in vars(context).items():
        if isinstance(value, torch.Tensor):
            setattr(context, name, value.to(META))
    length = generator.canvas_length
    noise = RowNoise(torch.empty(rows, dtype=torch.int64, device=META), rows, length, META)
    ids = torch.empty(rows, length, dtype=torch.int64, device=META)
    return Canvas(generator, context, noise, ids, noise.everywhere(REVEAL), lag=1)


def walk(canvas: Canvas) -> None:
    """The loop of `generate`, without the place where the host listens."""
    generator = canvas.settings
    grid = generator.grid()
    for start in range(0, generator.canvas_length, generator.block_length):
        canvas.enter(slice(start, start + generator.block_length))
        for t, to, after in zip(grid, grid[1:], [*grid[2:], -1], strict=False):
            with NoMaskedWrites():
                generator.sampler.step(canvas, Transition(t, to, after))
                canvas.stop_finished((EOS, 1))


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("kind", "rule"), UNWAITED)
def test_steps_wait_for_no_value(kind, rule, temperature, padding):
    options = {"temperature": temperature, "block_length": 4, "eos_id": EOS, **chosen(kind, rule)}
    canvas = on_meta(sampler(Shapes(), 8, **options), padding=padding)
    walk(canvas)
    assert canvas.step >= 8 and canvas.ids.device == META


def test_a_models_logits_of_equal_counts_wait_for_no_value():
    model = TinyModel(MASK + 1).to(META)
    for head in (model.head, None):
        generator = sampler(ModelDenoiser(model, MASK, head), 8, block_length=4)
        canvas = on_meta(generator)
        with torch.no_grad():
            walk(canvas)
        assert canvas.step >= 8


def test_a_sampler_that_looks_is_caught():
    canvas = on_meta(sampler(Shapes(), 8, sampler="ancestral"))
    with pytest.raises(RuntimeError):
        walk(canvas)


# ---- what the host learns late --------------------------------------------------------------------------------------


def test_a_reader_answers_with_what_it_was_told_lag_readings_ago():
    for lag in (0, 1, 3):
        reader = HostReader(lag)
        answers = [reader.read(torch.tensor([i])) for i in range(6)]
        assert [None if answer is None else answer.item() for answer in answers] == [None] * lag + list(range(6 - lag))


@pytest.mark.parametrize("eos_id", [None, EOS])
@pytest.mark.parametrize("block_length", [2, 8])
@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_a_late_host_changes_nothing_but_the_cost(monkeypatch, kind, rule, block_length, eos_id):
    options = {"block_length": block_length, "eos_id": eos_id, "threshold": 0.6, "entropy_bound": 0.6}
    keys = draw_keys(20, rng(2))
    ids, mask = torch.tensor([[1, 2], [2, 2]]).repeat_interleave(10, dim=0), torch.ones(20, 2).long()
    outs, costs = [], []
    for lag in (0, 1, 2, 5):
        monkeypatch.setattr(core.sampling.canvas, "HostReader", lambda _, lag=lag: HostReader(lag))
        denoiser = TableDenoiser()
        outs.append(sampler(denoiser, 8, **options, **chosen(kind, rule)).generate(ids, mask, keys))
        costs.append(sum(denoiser.rows_seen))
    for out in outs[1:]:
        for name in ("ids", "step_map", "commit_logps", "forwards", "lengths", "stopped"):
            assert torch.equal(getattr(out, name), getattr(outs[0], name)), name
    assert costs == sorted(costs)


# ---- small canvases by hand -----------------------------------------------------------------------------------------

M = MASK


def by_hand(ids: list[list[int]], block: slice | None = None) -> Canvas:
    """A canvas of T = 8 in the state ``ids``, in a block of its own."""
    state = torch.tensor(ids)
    prompt = torch.tensor([[1, 2]]).expand(len(state), -1)
    generator = sampler(TableDenoiser(), state.size(1), eos_id=EOS)
    noise = RowNoise(draw_keys(len(state), rng()), *state.shape, CPU)
    context = WholeCanvas(generator.denoiser, prompt, torch.ones_like(prompt))
    canvas = Canvas(generator, context, noise, state, noise.everywhere(REVEAL))
    canvas.enter(slice(0, state.size(1)) if block is None else block)
    return canvas


def certain(tokens: list[list[int]]) -> Prediction:
    """A prediction that gives each position its token with probability 1/2, log-prob -ln 2, drawn by u = 0."""
    drawn = torch.tensor(tokens).flatten()
    half = torch.full((len(drawn), VOCABULARY + 1), float("-inf"))
    half.scatter_(1, drawn.unsqueeze(1), 0.0)
    half[:, VOCABULARY] = 0.0
    return Prediction(half, 1.0, torch.zeros(len(drawn), dtype=torch.float64))


def test_a_row_stops_when_nothing_before_its_first_eos_is_masked():
    states = {
        "an EOS and an empty tail": ([0, EOS, M, M], [0, EOS, EOS, EOS]),
        "an EOS and a tail with gaps": ([0, EOS, 1, M], [0, EOS, 1, EOS]),
        "an EOS first": ([EOS, M, M, M], [EOS] * 4),
        "an EOS last": ([0, 1, 0, EOS], [0, 1, 0, EOS]),
        "a gap before the EOS": ([M, EOS, 0, M], None),
        "a gap before the first of two": ([0, M, EOS, EOS], None),
        "no EOS": ([0, 1, 0, 1], None),
        "nothing": ([M, M, M, M], None),
    }
    canvas = by_hand([before for before, _ in states.values()])
    canvas.stop_finished(EOS)
    assert canvas.ids.tolist() == [before if after is None else after for before, after in states.values()]
    assert canvas.alive.tolist() == [after is None for _, after in states.values()]
    assert bool((canvas.step_map == NEVER).all()) and bool((canvas.commit_logps == 0).all())
    canvas.inform_host(shrinking=True, finish_early=False)
    assert canvas.rows.tolist() == [4, 5, 6, 7] and canvas.count == 4 and canvas.most == 4
    canvas.inform_host(shrinking=True, finish_early=True)
    assert canvas.rows.tolist() == [4, 5, 7]  # the row without a mask waits for the others
    ids = canvas.ids.clone()
    canvas.stop_finished(EOS)
    assert torch.equal(canvas.ids, ids)


def test_a_row_stops_at_any_of_several_ends_and_is_filled_with_the_first():
    states = {
        "the other end alone": ([0, 1, M, M], [0, 1, EOS, EOS]),
        "the other end, then EOS": ([1, EOS, 0, M], [1, EOS, 0, EOS]),
        "a gap before the other end": ([M, 1, M, M], None),
        "a gap between the two": ([1, M, EOS, M], [1, EOS, EOS, EOS]),
        "none of them": ([0, M, 0, M], None),
    }
    canvas = by_hand([before for before, _ in states.values()])
    canvas.stop_finished((EOS, 1))
    assert canvas.ids.tolist() == [before if after is None else after for before, after in states.values()]
    assert canvas.alive.tolist() == [after is None for _, after in states.values()]


def test_columns_are_the_masked_ones_of_the_block_in_order():
    canvas = by_hand([[M, M, 0, M, M, 1], [0, 1, M, 0, M, M], [1, 1, M, M, M, 1]], slice(2, 6))
    assert canvas.columns(2).tolist() == [[3, 4], [2, 4], [2, 3]]
    three = canvas.columns(3)
    assert three.tolist() == [[2, 3, 4], [2, 4, 5], [2, 3, 4]]  # the first row has two, and takes a visible one
    assert canvas.open(three).tolist() == [[False, True, True], [True] * 3, [True] * 3]
    assert canvas.columns(4).tolist() == [[2, 3, 4, 5]] * 3
    canvas.alive[1] = False
    assert canvas.open(three).tolist() == [[False, True, True], [False] * 3, [True] * 3]


def test_reveal_writes_where_chosen_and_masked_in_rows_that_are_written():
    canvas = by_hand([[M, M, 0, M]] * 3)
    canvas.predict(canvas.columns(3), 4)
    canvas.alive[1] = False
    columns = torch.tensor([[0, 1, 2]]).expand(3, -1)
    chosen = torch.tensor([[True, False, True]]).expand(3, -1)
    canvas.reveal(columns, chosen, certain([[1, 1, 1]] * 3))
    assert canvas.ids.tolist() == [[1, M, 0, M], [M, M, 0, M], [1, M, 0, M]]
    assert canvas.step_map.tolist() == [[0, NEVER, NEVER, NEVER], [NEVER] * 4, [0, NEVER, NEVER, NEVER]]
    assert torch.allclose(canvas.commit_logps[0], torch.tensor([0.5, 1.0, 1.0, 1.0]).log())
    assert not bool(canvas.commit_logps[1].any())


def test_hide_undoes_a_reveal_in_rows_that_are_written():
    canvas = by_hand([[M, M, 0, M]] * 2)
    columns = torch.tensor([[0, 1, 2]]).expand(2, -1)
    canvas.predict(columns, 4)
    canvas.reveal(columns, torch.ones_like(columns).bool(), certain([[1, 0, 1]] * 2))
    canvas.alive[0] = False
    canvas.hide(columns, torch.tensor([[True, False, True]]).expand(2, -1))
    assert canvas.ids.tolist() == [[1, 0, 0, M], [M, 0, M, M]]
    assert canvas.step_map.tolist() == [[0, 0, NEVER, NEVER], [NEVER, 0, NEVER, NEVER]]
    assert (canvas.commit_logps != 0).tolist() == [[True, True, False, False], [False, True, False, False]]


def test_a_row_takes_part_in_an_evaluation_only_with_something_to_reveal():
    canvas = by_hand([[M, M, 0, M], [0, 1, 0, 1], [M, M, M, M]])
    canvas.alive[2] = False
    canvas.predict(canvas.columns(3), 4)
    assert canvas.forwards.tolist() == [1, 0, 0] and canvas.step == 1
