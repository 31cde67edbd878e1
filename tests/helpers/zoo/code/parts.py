"""What the stand-ins have in common: rotary positions, attention, feed-forward modules. Loaded as remote code."""

import torch
from torch import nn
from torch.nn import functional as F


def frequencies(head_dim):
    """Of the rotations of pairs of coordinates, (head_dim / 2,), on the CPU whatever device is being built on."""
    return 10_000.0 ** -(torch.arange(0, head_dim, 2, device="cpu").float() / head_dim)


def rotate(x, positions, frequency):
    """Rotary embedding of queries or keys (B, H, N, d) that stand at ``positions`` (B or 1, N)."""
    angles = (positions.unsqueeze(-1) * frequency.to(positions.device)).unsqueeze(1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x.chunk(2, dim=-1)
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1)


class Attention(nn.Module):
    def __init__(self, width, heads, dropout=0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, hidden, positions, frequency, mask=None, remember=None):
        """``mask`` goes straight into the kernel; ``remember`` exchanges new keys and values for all of them."""
        rows, length, width = hidden.shape
        q, k, v = (
            project(hidden).view(rows, length, self.heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = (rotate(x, positions, frequency) for x in (q, k))
        if remember is not None:
            k, v = remember(k, v)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=False)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, width))


class MLP(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, hidden):
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class Experts(nn.Module):
    """Each token through the ``top_k`` of its experts that its router likes best."""

    def __init__(self, width, inner, experts, top_k):
        super().__init__()
        self.gate, self.top_k = nn.Linear(width, experts, bias=False), top_k
        self.experts = nn.ModuleList(MLP(width, inner) for _ in range(experts))

    def forward(self, hidden):
        rows, length, width = hidden.shape  # takes no other shape
        flat = hidden.reshape(rows * length, width)
        weights, chosen = self.gate(flat).softmax(dim=-1).topk(self.top_k, dim=-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            token, place = (chosen == number).nonzero(as_tuple=True)
            out = out.index_add(0, token, expert(flat[token]) * weights[token, place].unsqueeze(1))
        return out.view_as(hidden)


class Layer(nn.Module):
    """Attention and a feed-forward module, both behind a norm and around a residual."""

    def __init__(self, width, heads, mlp, dropout=0.0):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.self_attn, self.mlp = Attention(width, heads, dropout), mlp

    def forward(self, hidden, *context):
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), *context)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))
