"""A rollout as a value: text, mask and lengths agree, and rows can be taken apart and put together."""

import pytest
import torch
from toys import TableDenoiser, prompts, rng, sampler

from core.trajectory import NEVER, Trajectory, tokens_to_first_eos

EOS = 2


@pytest.fixture(scope="module")
def rollout() -> Trajectory:
    return sampler(TableDenoiser(), 6, eos_id=EOS, selection="random").generate(*prompts(40), rng())


def assert_same(one: Trajectory, other: Trajectory) -> None:
    for name, value in vars(one).items():
        same = (
            torch.equal(value, getattr(other, name))
            if isinstance(value, torch.Tensor)
            else value == getattr(other, name)
        )
        assert same, name


def test_length_counts_the_first_eos_and_is_the_canvas_without_one():
    ids = torch.tensor([[0, 2, 2], [2, 0, 0], [0, 1, 0], [0, 0, 2]])
    assert tokens_to_first_eos(ids, EOS).tolist() == [2, 1, 3, 3]
    assert tokens_to_first_eos(ids, None).tolist() == [3, 3, 3, 3]


def test_length_counts_the_first_of_several_ends():
    ids = torch.tensor([[0, 2, 1], [2, 0, 1], [0, 1, 2], [0, 0, 0]])
    assert tokens_to_first_eos(ids, (EOS, 1)).tolist() == [2, 1, 2, 3]
    assert tokens_to_first_eos(ids, (EOS,)).tolist() == tokens_to_first_eos(ids, EOS).tolist() == [2, 1, 3, 3]


def test_a_text_keeps_the_end_that_it_has_and_is_filled_with_the_first_one():
    out = sampler(TableDenoiser(), 6, eos_id=(EOS, 1), selection="random").generate(*prompts(40), rng())
    last = {text[-1] for text, stopped in zip(out.completions(), out.stopped.tolist(), strict=True) if stopped}
    assert last == {EOS, 1}
    for row, text in enumerate(out.completions()):
        assert not {EOS, 1} & set(text[:-1])
        assert (text[-1] in (EOS, 1)) == out.stopped[row].item()
        assert out.completion_ids[row].tolist() == text + [EOS] * (6 - len(text))
    never = out.step_map == NEVER
    assert bool((out.ids[never] == EOS).all())
    stopped_early = [text[-1] for text, row in zip(out.completions(), never, strict=True) if bool(row.any())]
    assert set(stopped_early) == {EOS, 1}, "whichever end it is, nothing is written behind it"


def test_mask_text_length_and_reason_agree(rollout):
    assert {"eos", "length"} == set(rollout.finish_reason)
    for row, text in enumerate(rollout.completions()):
        length = rollout.lengths[row].item()
        assert len(text) == length == rollout.completion_mask[row].sum()
        assert rollout.completion_ids[row].tolist() == text + [EOS] * (6 - length)
        assert EOS not in text[:-1]
        assert (text[-1] == EOS) == (rollout.finish_reason[row] == "eos") == rollout.stopped[row].item()


def test_without_an_eos_the_canvas_is_the_text():
    out = sampler(TableDenoiser(), 6).generate(*prompts(5), rng())
    assert torch.equal(out.completion_ids, out.ids) and bool(out.completion_mask.all())
    assert set(out.finish_reason) == {"length"}


def test_only_the_tail_of_a_stopped_row_is_never_revealed(rollout):
    never = rollout.step_map == NEVER
    assert bool(never.any())
    assert not bool((never & rollout.completion_mask).any())
    assert bool((rollout.ids[never] == EOS).all()) and bool((rollout.commit_logps[never] == 0).all())
    assert bool(rollout.stopped[never.any(dim=1)].all())


def test_cat_undoes_slicing(rollout):
    assert_same(Trajectory.cat([rollout[:13], rollout[13:]]), rollout)
    order = torch.randperm(40, generator=rng())
    assert_same(rollout[order][order.argsort()], rollout)
    assert len(rollout[3:9]) == 6 and rollout[3:9].completions() == rollout.completions()[3:9]


def test_a_batch_is_exact_iff_every_part_is(rollout):
    inexact = sampler(TableDenoiser(), 6, eos_id=EOS, selection="low_confidence").generate(*prompts(2), rng())
    assert rollout.exact and Trajectory.cat([rollout, rollout]).exact
    assert not Trajectory.cat([rollout, inexact]).exact
