"""Small folders as other packages write them, and what the networks in them compute, by definition.

Shape suffixes: B sequences or images, N positions or patches, D width, H heads, W width of a head.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50_000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
GPT_NEOX: dict[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "max_position_embeddings": 64,
    "layer_norm_eps": 1e-5,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10_000,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}
DIT: dict[str, Any] = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 3,
    "out_channels": 6,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 5,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-5,
}
FILES = {
    "llama": "model.safetensors",
    "gpt-neox": "model.safetensors",
    "diffusers": "diffusion_pytorch_model.safetensors",
}
SETTINGS = {"llama": LLAMA, "gpt-neox": GPT_NEOX, "diffusers": DIT}


def shapes(kind: str, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a network by the names that its package gives them."""
    return {"llama": _llama_shapes, "gpt-neox": _neox_shapes, "diffusers": _dit_shapes}[kind](settings)


def write(
    folder: Path, kind: str, dtype: torch.dtype = torch.float32, *, alike: bool = False, **changes: Any
) -> dict[str, Tensor]:
    """Writes a folder with random weights.

    Args:
        folder: to write.
        kind: of the network.
        dtype: of the weights.
        alike: whether all blocks of a diffusion transformer embed time and class by the same values.
        **changes: of its settings.

    Returns:
        The weights.
    """
    settings, generator = {**SETTINGS[kind], **changes}, torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes(kind, settings).items():
        drawn = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]) or 1)
        is_norm = "norm" in name and len(shape) == 1 and name.endswith("weight")
        tensors[name] = (1 + 0.3 * drawn if is_norm else drawn).to(dtype)
    if alike:
        for name in tensors:
            if ".norm1.emb." in name:
                first = "transformer_blocks.0." + name.split(".", 2)[2]
                tensors[name] = tensors[first].clone()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / FILES[kind], {"format": "pt"})
    return tensors


def computed(kind: str, settings: dict[str, Any], tensors: dict[str, Tensor], *inputs: Tensor) -> Tensor:
    """What a network computes, in float64.

    Args:
        kind: of it.
        settings: of it.
        tensors: its weights.
        *inputs: tokens [B, N]; or images, timesteps and labels.

    Returns:
        Logits [B, N, V], or images with those of the variance behind them.
    """
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    return {"llama": _llama, "gpt-neox": _neox, "diffusers": _dit}[kind](settings, exact, *inputs)


def _llama_shapes(s: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = s["hidden_size"], s["intermediate_size"]
    shared = s["num_key_value_heads"] * hidden // s["num_attention_heads"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (s["vocab_size"], hidden)}
    for layer in range(s["num_hidden_layers"]):
        found |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (hidden,),
                "self_attn.q_proj": (hidden, hidden),
                "self_attn.k_proj": (shared, hidden),
                "self_attn.v_proj": (shared, hidden),
                "self_attn.o_proj": (hidden, hidden),
                "post_attention_layernorm": (hidden,),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
                "mlp.down_proj": (hidden, inner),
            }.items()
        }
    found["model.norm.weight"] = (hidden,)
    if not s["tie_word_embeddings"]:
        found["lm_head.weight"] = (s["vocab_size"], hidden)
    return found


def _neox_shapes(s: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = s["hidden_size"], s["intermediate_size"]
    found: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in.weight": (s["vocab_size"], hidden)}
    layers = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "attention.query_key_value": (3 * hidden, hidden),
        "attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (inner, hidden),
        "mlp.dense_4h_to_h": (hidden, inner),
    }
    names = {
        f"gpt_neox.layers.{layer}.{name}": layers[name] for layer in range(s["num_hidden_layers"]) for name in layers
    }
    for name, shape in {**names, "gpt_neox.final_layer_norm": (hidden,)}.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {**found, "embed_out.weight": (s["vocab_size"], hidden)}


def _dit_shapes(s: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, area = s["num_attention_heads"] * s["attention_head_dim"], s["patch_size"] ** 2
    found: dict[str, tuple[int, ...]] = {}
    layers: dict[str, tuple[int, ...]] = {
        "pos_embed.proj": (hidden, s["in_channels"], s["patch_size"], s["patch_size"]),
        "proj_out_1": (2 * hidden, hidden),
        "proj_out_2": (area * s["out_channels"], hidden),
    }
    for layer in range(s["num_layers"]):
        block = f"transformer_blocks.{layer}"
        found[f"{block}.norm1.emb.class_embedder.embedding_table.weight"] = (s["num_embeds_ada_norm"] + 1, hidden)
        layers |= {
            f"{block}.norm1.emb.timestep_embedder.linear_1": (hidden, 256),
            f"{block}.norm1.emb.timestep_embedder.linear_2": (hidden, hidden),
            f"{block}.norm1.linear": (6 * hidden, hidden),
            **{f"{block}.attn1.{part}": (hidden, hidden) for part in ("to_q", "to_k", "to_v", "to_out.0")},
            f"{block}.ff.net.0.proj": (4 * hidden, hidden),
            f"{block}.ff.net.2": (hidden, 4 * hidden),
        }
    for name, shape in layers.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


def _half_turned(heads_BHNW: Tensor, base: float, turned: int) -> Tensor:
    """Rotary positions that pair coordinate i with i + turned / 2."""
    half = turned // 2
    angles = torch.arange(heads_BHNW.shape[2], dtype=torch.float64)[:, None] * base ** (
        -torch.arange(half, dtype=torch.float64) / half
    )
    one, two, rest = heads_BHNW.split([half, half, heads_BHNW.shape[3] - turned], dim=3)
    turns = one * angles.cos() - two * angles.sin(), two * angles.cos() + one * angles.sin()
    return torch.cat([*turns, rest], dim=3)


def _attended(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """softmax(q k / sqrt(W)) v over [B, H, N, W], heads side by side: [B, N, D]."""
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
    return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)


def _heads(values: Tensor, count: int) -> Tensor:
    return values.unflatten(2, (count, -1)).transpose(1, 2)


def _llama(s: dict[str, Any], w: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Touvron et al., 2023, section 2.2."""

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(dim=-1, keepdim=True) + s["rms_norm_eps"]).sqrt() * w[f"{name}.weight"]

    x = w["model.embed_tokens.weight"][tokens]
    heads, shared = s["num_attention_heads"], s["num_key_value_heads"]
    for layer in range(s["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        read = norm(x, f"{at}.input_layernorm")
        query, key, value = (
            _heads(read @ w[f"{at}.self_attn.{part}_proj.weight"].T, count)
            for part, count in (("q", heads), ("k", shared), ("v", shared))
        )
        query, key = (_half_turned(one, s["rope_theta"], one.shape[3]) for one in (query, key))
        key, value = (one.repeat_interleave(heads // shared, dim=1) for one in (key, value))
        x = x + _attended(query, key, value, causal=True) @ w[f"{at}.self_attn.o_proj.weight"].T
        read = norm(x, f"{at}.post_attention_layernorm")
        gate, up = (read @ w[f"{at}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (gate * gate.sigmoid() * up) @ w[f"{at}.mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ w["model.embed_tokens.weight" if s["tie_word_embeddings"] else "lm_head.weight"].T


def _neox(s: dict[str, Any], w: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Black et al., 2022, section 2.1."""

    def norm(x: Tensor, name: str) -> Tensor:
        spread = x.var(dim=-1, correction=0, keepdim=True) + s["layer_norm_eps"]
        return (x - x.mean(dim=-1, keepdim=True)) / spread.sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x, heads = w["gpt_neox.embed_in.weight"][tokens], s["num_attention_heads"]
    width = s["hidden_size"] // heads
    for layer in range(s["num_hidden_layers"]):
        at = f"gpt_neox.layers.{layer}"
        fused = linear(norm(x, f"{at}.input_layernorm"), f"{at}.attention.query_key_value")
        query, key, value = _heads(fused, heads).split(width, dim=3)
        query, key = (_half_turned(one, s["rotary_emb_base"], int(width * s["rotary_pct"])) for one in (query, key))
        attended = linear(_attended(query, key, value, causal=True), f"{at}.attention.dense")
        read = norm(x if s["use_parallel_residual"] else x + attended, f"{at}.post_attention_layernorm")
        inner = linear(read, f"{at}.mlp.dense_h_to_4h")
        active = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = x + attended + linear(active, f"{at}.mlp.dense_4h_to_h")
    return norm(x, "gpt_neox.final_layer_norm") @ w["embed_out.weight"].T


def _dit(s: dict[str, Any], w: dict[str, Tensor], images: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
    """Peebles and Xie, 2023, section 3.2."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, epsilon: float) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + epsilon).sqrt()

    def silu(x: Tensor) -> Tensor:
        return x * x.sigmoid()

    def steering(block: int) -> Tensor:
        at = f"transformer_blocks.{block}.norm1.emb"
        phases = timesteps[:, None] * 10_000.0 ** (-torch.arange(128, dtype=torch.float64) / 127)
        waves = torch.cat([phases.cos(), phases.sin()], dim=1)
        of_time = linear(silu(linear(waves, f"{at}.timestep_embedder.linear_1")), f"{at}.timestep_embedder.linear_2")
        return silu(of_time + w[f"{at}.class_embedder.embedding_table.weight"][labels])

    size, side = s["patch_size"], s["sample_size"] // s["patch_size"]
    x = functional.conv2d(images, w["pos_embed.proj.weight"], w["pos_embed.proj.bias"], stride=size)
    quarter = x.shape[1] // 4
    phases = torch.arange(side, dtype=torch.float64)[:, None] * 10_000.0 ** (
        -torch.arange(quarter, dtype=torch.float64) / quarter
    )
    waves = torch.cat([phases.sin(), phases.cos()], dim=1)
    places = torch.cat([waves[None].expand(side, -1, -1), waves[:, None].expand(-1, side, -1)], dim=2)
    x = x.permute(0, 2, 3, 1).flatten(1, 2) + places.flatten(0, 1)
    for block in range(s["num_layers"]):
        at = f"transformer_blocks.{block}"
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = linear(steering(block), f"{at}.norm1.linear")[
            :, None
        ].chunk(6, dim=2)
        read = norm(x, 1e-6) * (1 + scale_1) + shift_1
        parts = (_heads(linear(read, f"{at}.attn1.to_{part}"), s["num_attention_heads"]) for part in "qkv")
        x = x + gate_1 * linear(_attended(*parts, causal=False), f"{at}.attn1.to_out.0")
        inner = linear(norm(x, s["norm_eps"]) * (1 + scale_2) + shift_2, f"{at}.ff.net.0.proj")
        active = inner * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + gate_2 * linear(active, f"{at}.ff.net.2")
    shift, scale = linear(steering(0), "proj_out_1")[:, None].chunk(2, dim=2)
    patches = linear(norm(x, 1e-6) * (1 + scale) + shift, "proj_out_2")
    pixels = patches.view(len(x), side, side, size, size, s["out_channels"]).permute(0, 5, 1, 3, 2, 4)
    return pixels.flatten(4, 5).flatten(2, 3)
