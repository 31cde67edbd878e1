"""What a denoiser is given: masks where they were drawn, the text or what is shown instead of it elsewhere."""

from dataclasses import fields, replace

import torch
from bounds import IDS, shown_instead
from toys import MASK, TableDenoiser, prompts, rng, synced


def test_states_hide_what_the_draws_say_but_never_padding():
    masking, nelbo = synced(num_draws=4, source="forward")
    masking.p_mask_prompt = 0.5
    denoiser, ids = TableDenoiser(), IDS.expand(30, -1)
    prompt_ids, prompt_mask = torch.full((30, 5), 1), (torch.arange(5) >= torch.arange(30).unsqueeze(1) % 4).long()
    draws = nelbo.draw(masking, 30, 4, 5, rng())
    estimate = nelbo.score(denoiser, prompt_ids, prompt_mask, ids, draws)
    states = denoiser.last_states.view(30, 4, 9)
    padding = (prompt_mask == 0).unsqueeze(1)
    assert bool((draws.prompt_hidden & padding).any())
    assert torch.equal(states[..., :5] == MASK, draws.prompt_hidden & ~padding)
    assert torch.equal(states[..., 5:] == MASK, draws.hidden)
    assert torch.equal(states[..., 5:][~draws.hidden], ids.unsqueeze(1).expand(-1, 4, -1)[~draws.hidden])
    garbage = torch.where(prompt_mask == 0, 2, prompt_ids)
    again = nelbo.score(denoiser, garbage, prompt_mask, ids, draws)
    assert torch.equal(again.sequence_bound, estimate.sequence_bound)


def test_states_show_what_the_draws_say_and_targets_stay_the_text():
    masking, nelbo = synced(num_draws=4, source="forward")
    draws, ids, denoiser = nelbo.draw(masking, 30, 4, 2, rng()), IDS.expand(30, -1), TableDenoiser()
    other = shown_instead(draws, ids)
    found = nelbo.score(denoiser, *prompts(30), ids, other)
    canvas = denoiser.last_states.view(30, 4, 6)[..., 2:]
    assert torch.equal(canvas, torch.where(draws.hidden, MASK, other.shown))
    logits = denoiser.logits(denoiser.last_states, None, denoiser.last_states == MASK)
    logps = logits.log_softmax(dim=1)[torch.arange(len(logits)), IDS.expand(30, 4, -1)[draws.hidden]]
    weights = draws.weight.unsqueeze(2).expand_as(draws.hidden)[draws.hidden]
    row = draws.hidden.nonzero()[:, 0]
    assert torch.allclose(found.sequence_bound, torch.zeros(30).index_add(0, row, -logps * weights), rtol=1e-5)
    same = replace(draws, shown=ids.unsqueeze(1).expand_as(draws.hidden))
    for field in fields(found):
        plain, shown = (getattr(nelbo.score(denoiser, *prompts(30), ids, d), field.name) for d in (draws, same))
        assert torch.equal(plain, shown)
