"""Checkpoints under the names of their originals, and a forward of them written out: the other side of
`trainers.models.native`. Their code is named and cannot be imported, so that whoever runs it is found out.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from zoo.standins import STAND_INS, build_tokenizer

WIDTH, LAYERS, HEADS, SHARED, HEAD, INNER, EXPERT, EXPERTS = 32, 2, 4, 2, 8, 48, 24, 8
SPARE = 8  # rows of the table that belong to no token
QWEN = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": SHARED,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "initializer_range": 0.02,
    "use_sliding_window": False,
}
MIXED = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": EXPERT, "norm_topk_prob": True}
LLADA = {
    "d_model": WIDTH,
    "n_heads": HEADS,
    "n_layers": LAYERS,
    "mlp_hidden_size": INNER,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "max_sequence_length": 512,
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "rope": True,
    "weight_tying": False,
    "attention_dropout": 0.0,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
}
PARTS = {  # this file's name of a weight -> the original's, where it is not transformers'
    "llada": {
        "layers": "transformer.blocks",
        "embed_tokens": "transformer.wte",
        "norm": "transformer.ln_f",
        "lm_head": "model.transformer.ff_out",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ff_norm",
        "self_attn.q_proj": "q_proj",
        "self_attn.k_proj": "k_proj",
        "self_attn.v_proj": "v_proj",
        "self_attn.o_proj": "attn_out",
        "mlp.gate_proj": "ff_proj",
        "mlp.up_proj": "up_proj",
        "mlp.down_proj": "ff_out",
    },
    "llada2": {
        "embed_tokens": "word_embeddings",
        "self_attn.o_proj": "attention.dense",
        "self_attn.q_norm": "attention.query_layernorm",
        "self_attn.k_norm": "attention.key_layernorm",
    },
}


@dataclass(frozen=True)
class Original:
    """One kind of checkpoint.

    Attributes:
        stand_in: whose tokenizer it has, a name of `zoo.standins.STAND_INS`.
        architecture: in its config.
        entries: of its config, beside tokens.
        key_heads: heads of keys and values.
        biases, norms: of queries, keys (and values).
        tied: whether the head is the table of tokens.
        dense: layers without experts, where it has experts.
        theta, fraction, stretch: of rotary positions: base, part of a head that is turned, factor of linear scaling.
        eps: of norms.
    """

    stand_in: str
    architecture: str
    entries: dict = field(default_factory=dict)
    key_heads: int = SHARED
    biases: bool = False
    norms: bool = False
    tied: bool = False
    dense: tuple[int, ...] = tuple(range(LAYERS))
    theta: float = 10_000.0
    fraction: float = 1.0
    stretch: float = 1.0
    eps: float = 1e-6

    @property
    def block_length(self) -> int | None:
        return 4 if self.stand_in in ("sdar", "llada2") else None


def _qwen(stand_in, architecture, **changes):
    more = changes.pop("more", {})
    return Original(stand_in, architecture, QWEN | {"intermediate_size": INNER} | more, **changes)


ORIGINALS = {
    "llada": Original(
        "llada", "LLaDAModelLM", LLADA | {"n_kv_heads": None}, key_heads=HEADS, theta=500_000.0, eps=1e-5
    ),
    "illada": Original(
        "llada",
        "LLaDAModelLM",
        LLADA | {"n_kv_heads": SHARED, "weight_tying": True},
        tied=True,
        theta=500_000.0,
        eps=1e-5,
    ),
    "dream": _qwen(
        "dream", "DreamModel", biases=True, stretch=2.0, more={"rope_scaling": {"type": "linear", "factor": 2.0}}
    ),
    "sdar": _qwen(
        "sdar", "SDARForCausalLM", norms=True, tied=True, more={"head_dim": HEAD, "tie_word_embeddings": True}
    ),
    "sdar_moe": _qwen("sdar", "SDARMoeForCausalLM", norms=True, dense=(), more={"head_dim": HEAD, **MIXED}),
    "llada_moe": Original(
        "llada_moe",
        "LLaDAMoEModelLM",
        QWEN
        | {"num_experts": EXPERTS, "num_experts_per_tok": 2, "expert_intermediate_size": EXPERT}
        | {"dense_intermediate_size": INNER, "moe_layer_freq": [0, 1], "norm_topk_prob": None, "rms_norm_eps": 1e-5}
        | {"qk_layernorm": True, "moe_router_score_function": "softmax", "partial_rotary_factor": 1},
        norms=True,
        dense=(0,),
        eps=1e-5,
    ),
    "llada2": Original(
        "llada2",
        "LLaDA2MoeModelLM",
        QWEN
        | MIXED
        | {"head_dim": HEAD, "intermediate_size": INNER, "first_k_dense_replace": 1, "num_shared_experts": 1}
        | {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "partial_rotary_factor": 0.25}
        | {"score_function": "sigmoid"},
        norms=True,
        dense=(0,),
        fraction=0.25,
    ),
    "a2d_llama": _qwen("a2d_llama", "A2DLlamaLMHeadModel", tied=True, more={"tie_word_embeddings": True}),
    "a2d_qwen2": _qwen("a2d_llama", "A2DQwen2LMHeadModel", biases=True),
    "a2d_qwen3": _qwen("a2d_llama", "A2DQwen3LMHeadModel", norms=True, more={"head_dim": HEAD}),
}


def write(name: str, tokenizer, directory: Path, seed: int = 0, **entries) -> dict[str, torch.Tensor]:
    """Write a checkpoint of random weights; ``entries``: of its config, to be changed or, if None, left out.

    Returns:
        Its weights under their original names.
    """
    kind = ORIGINALS[name]
    own = build_tokenizer(STAND_INS[kind.stand_in], tokenizer)
    own.save_pretrained(directory)
    rows = "embedding_size" if kind.stand_in == "llada" else "vocab_size"
    config = {"architectures": [kind.architecture], "model_type": name, "vocab_size": len(own), rows: len(own) + SPARE}
    config |= {"auto_map": {"AutoConfig": "absent.Config", "AutoModel": "absent.Model"}, "torch_dtype": "bfloat16"}
    config |= {"pad_token_id": own.pad_token_id, "eos_token_id": own.eos_token_id, **kind.entries, **entries}
    (directory / "absent.py").write_text("raise AssertionError('the code of a checkpoint is run')\n")
    (directory / "config.json").write_text(json.dumps(config))
    weights = random_weights(kind, len(own) + SPARE, seed)
    # louder rows: random completions then have digits to reward
    weights[_name(kind, "embed_tokens" if kind.tied else "lm_head")][
        own.convert_tokens_to_ids(list("0123456789"))
    ] *= 3
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return weights


def random_weights(kind: Original, rows: int, seed: int) -> dict[str, torch.Tensor]:
    """Weights under the original's names; states matter, so that a wrong one shows in the logits."""
    noise = torch.Generator().manual_seed(seed)
    shapes = dict(_shapes(kind, rows))
    made = {name: torch.randn(shape, generator=noise) * 0.3 for name, shape in shapes.items()}
    if kind.stand_in == "llada2":  # one matrix for queries, keys and values
        for layer in range(LAYERS):
            parts = [made.pop(f"model.layers.{layer}.self_attn.{part}_proj.weight") for part in "qkv"]
            made[f"model.layers.{layer}.attention.query_key_value.weight"] = torch.cat(parts)
    return made


def _shapes(kind, rows):
    queries, keys = HEADS * HEAD, kind.key_heads * HEAD
    yield _name(kind, "embed_tokens"), (rows, WIDTH)
    yield _name(kind, "norm"), (WIDTH,)
    if not kind.tied:
        yield _name(kind, "lm_head"), (rows, WIDTH)
    for layer in range(LAYERS):
        for part, out in (("q", queries), ("k", keys), ("v", keys)):
            yield _name(kind, f"self_attn.{part}_proj", layer), (out, WIDTH)
            if kind.biases:
                yield _name(kind, f"self_attn.{part}_proj", layer, "bias"), (out,)
        yield _name(kind, "self_attn.o_proj", layer), (WIDTH, queries)
        for norm in ("q_norm", "k_norm") if kind.norms else ():
            yield _name(kind, f"self_attn.{norm}", layer), (HEAD,)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield _name(kind, norm, layer), (WIDTH,)
        if layer in kind.dense:
            yield from _feed_forward(kind, "mlp", layer, INNER)
            continue
        yield _name(kind, "mlp.gate", layer), (EXPERTS, WIDTH)
        for expert in range(EXPERTS):
            yield from _feed_forward(kind, f"mlp.experts.{expert}", layer, EXPERT)
        if kind.stand_in == "llada2":
            yield _name(kind, "mlp.gate", layer, "expert_bias"), (EXPERTS,)
            yield from _feed_forward(kind, "mlp.shared_experts", layer, EXPERT)


def _feed_forward(kind, part, layer, inner):
    for name, shape in (("gate", (inner, WIDTH)), ("up", (inner, WIDTH)), ("down", (WIDTH, inner))):
        yield _name(kind, f"{part}.{name}_proj", layer), shape


def _name(kind, part, layer=None, what="weight"):
    parts = PARTS.get(kind.stand_in, {})
    name = parts.get(part, part)
    if layer is not None:
        name = f"{parts.get('layers', 'layers')}.{layer}.{name}"
    return f"{name}.{what}" if part == "lm_head" else f"model.{name}.{what}"


# ---- the forward -------------------------------------------------------------------------------------------------


def logits(name: str, weights: dict[str, torch.Tensor], ids: torch.Tensor, visible: torch.Tensor | None = None):
    """Logits (N, V) of one row of ids (N,) by the weights under their original names; ``visible``: (N, N)."""
    kind = ORIGINALS[name]

    def get(part, layer=None, what="weight"):
        return weights[_name(kind, part, layer, what)]

    hidden = get("embed_tokens")[ids]
    for layer in range(LAYERS):
        hidden = hidden + _attend(
            kind, weights, get, layer, _norm(hidden, get("input_layernorm", layer), kind), visible
        )
        inner = _norm(hidden, get("post_attention_layernorm", layer), kind)
        hidden = hidden + (_mlp if layer in kind.dense else _experts)(kind, get, layer, inner)
    return _norm(hidden, get("norm"), kind) @ get("embed_tokens" if kind.tied else "lm_head").T


def _norm(x, weight, kind):
    return weight * x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + kind.eps)


def _attend(kind, weights, get, layer, x, visible):
    if kind.stand_in == "llada2":
        fused = x @ weights[f"model.layers.{layer}.attention.query_key_value.weight"].T
        q, k, v = fused.split([n * HEAD for n in (HEADS, kind.key_heads, kind.key_heads)], dim=1)
    else:
        bias = [get(f"self_attn.{part}_proj", layer, "bias") if kind.biases else 0 for part in "qkv"]
        q, k, v = (x @ get(f"self_attn.{p}_proj", layer).T + b for p, b in zip("qkv", bias, strict=True))
    q, k, v = (y.unflatten(1, (-1, HEAD)).transpose(0, 1) for y in (q, k, v))  # (heads, N, HEAD)
    if kind.norms:
        q, k = _norm(q, get("self_attn.q_norm", layer), kind), _norm(k, get("self_attn.k_norm", layer), kind)
    q, k = _turn(kind, q), _turn(kind, k)
    k, v = (y.repeat_interleave(HEADS // kind.key_heads, dim=0) for y in (k, v))
    scores = q @ k.transpose(1, 2) / HEAD**0.5
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return (scores.softmax(dim=-1) @ v).transpose(0, 1).flatten(1) @ get("self_attn.o_proj", layer).T


def _turn(kind, x):
    """Rotary positions: the first half of what is turned with the second."""
    dim = int(HEAD * kind.fraction)
    angles = torch.arange(x.size(1))[:, None] / kind.stretch * kind.theta ** -(torch.arange(0, dim, 2) / dim)
    first, second, rest = x[..., : dim // 2], x[..., dim // 2 : dim], x[..., dim:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def _mlp(kind, get, layer, x, part="mlp"):
    gate, up, down = (get(f"{part}.{name}_proj", layer) for name in ("gate", "up", "down"))
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


def _experts(kind, get, layer, x):
    scores = x @ get("mlp.gate", layer).T
    if kind.stand_in == "llada2":
        scores = scores.sigmoid()
        wanted = scores + get("mlp.gate", layer, "expert_bias")
        groups = wanted.unflatten(1, (4, -1)).topk(2, dim=-1).values.sum(dim=-1)
        far = torch.ones_like(groups, dtype=torch.bool).scatter(1, groups.topk(2, dim=1).indices, False)
        wanted = wanted.masked_fill(far.repeat_interleave(EXPERTS // 4, dim=1), -torch.inf)
    else:
        wanted = scores = scores.softmax(dim=1)
    chosen = wanted.topk(2, dim=1).indices
    share = torch.zeros_like(scores).scatter(1, chosen, scores.gather(1, chosen))
    if kind.entries.get("norm_topk_prob"):
        share = share / share.sum(dim=1, keepdim=True)
    every = torch.stack([_mlp(kind, get, layer, x, f"mlp.experts.{expert}") for expert in range(EXPERTS)], dim=1)
    out = (share.unsqueeze(2) * every).sum(dim=1)
    if kind.stand_in == "llada2":
        out = 2.5 * out + _mlp(kind, get, layer, x, "mlp.shared_experts")
    return out
