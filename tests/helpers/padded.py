"""A padded batch of four sequences, and the positions at which a denoiser is asked about it."""

import torch
from toys import rng

VOCABULARY, MASK_ID = 7, 3
IDS = torch.randint(0, VOCABULARY, (4, 6), generator=rng())
ATTENTION = (torch.arange(6) >= torch.tensor([0, 1, 2, 0]).unsqueeze(1)).long()
ROWS = torch.rand(4, 6, generator=rng(1)) < 0.4
ROWS[:, 0] = False
