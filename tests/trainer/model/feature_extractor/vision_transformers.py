"""Random weights of vision transformers under published names, and what such a network makes of images by torch.nn."""

import torch
from torch import Tensor, nn
from torch.nn import functional

Weights = dict[str, Tensor]


def dinov2_weights(
    *,
    width: int = 64,
    depth: int = 2,
    patch: int = 4,
    grid: int = 3,
    registers: int = 0,
    scales: bool = True,
    channels: int = 3,
    seed: int = 0,
) -> Weights:
    """Tensors with the names and shapes of DINOv2."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, spread: float = 0.5) -> Tensor:
        return spread * torch.randn(*shape, generator=generator)

    def linear(name: str, rows: int, columns: int) -> Weights:
        return {f"{name}.weight": drawn(rows, columns, spread=columns**-0.5), f"{name}.bias": drawn(rows)}

    def norm(name: str) -> Weights:
        return {f"{name}.weight": 1 + drawn(width, spread=0.2), f"{name}.bias": drawn(width)}

    weights = {
        "cls_token": drawn(1, 1, width),
        "pos_embed": drawn(1, 1 + grid**2, width),
        "mask_token": drawn(1, width),
        "patch_embed.proj.weight": drawn(width, channels, patch, patch, spread=0.5 / patch),
        "patch_embed.proj.bias": drawn(width),
        **norm("norm"),
    }
    if registers:
        weights["register_tokens"] = drawn(1, registers, width)
    for number in range(depth):
        start = f"blocks.{number}."
        weights |= norm(f"{start}norm1") | linear(f"{start}attn.qkv", 3 * width, width)
        weights |= linear(f"{start}attn.proj", width, width) | norm(f"{start}norm2")
        weights |= linear(f"{start}mlp.fc1", 4 * width, width) | linear(f"{start}mlp.fc2", width, 4 * width)
        if scales:
            weights |= {f"{start}ls1.gamma": drawn(width), f"{start}ls2.gamma": drawn(width)}
    return weights


def renamed(weights: Weights, family: str) -> Weights:
    """Weights of :func:`dinov2_weights` under the names of the package transformers, for ``dinov2`` or ``vit``."""
    words = {
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "register_tokens": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks.": "encoder.layer.",
        "attn.proj": "attention.output.dense",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    if family == "vit":
        words |= {"norm1": "layernorm_before", "norm2": "layernorm_after"}
        words |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    found: Weights = {}
    for name, value in weights.items():
        other = name.replace("norm.", "layernorm.") if name.startswith("norm.") else name
        for old, new in words.items():
            other = other.replace(old, new)
        parts = zip(("query", "key", "value"), value.chunk(3), strict=True) if "attn.qkv" in other else [("", value)]
        found |= {other.replace("attn.qkv", f"attention.attention.{word}"): part.clone() for word, part in parts}
    return found


def tokens_of(weights: Weights, images: Tensor, positions: Tensor, *, num_heads: int, eps: float = 1e-6) -> Tensor:
    """Normalised tokens of images by the encoder of torch.nn in float64, with the layer scales inside its matrices.

    Args:
        weights: see :func:`dinov2_weights`.
        images: [B, C, H, W], normalised.
        positions: [1, 1 + patches, D] for the grid of the images.
        num_heads: of attention.
        eps: of layer normalisation.

    Returns:
        [B, 1 + registers + patches, D].
    """
    w = {name: value.double() for name, value in weights.items()}
    kernel = w["patch_embed.proj.weight"]
    width = len(kernel)
    patches = functional.conv2d(images.double(), kernel, w["patch_embed.proj.bias"], stride=kernel.shape[2:])
    tokens = torch.cat([w["cls_token"].expand(len(images), -1, -1), patches.flatten(2).mT], 1) + positions.double()
    if "register_tokens" in w:
        tokens = torch.cat([tokens[:, :1], w["register_tokens"].expand(len(images), -1, -1), tokens[:, 1:]], 1)
    for number in range(sum(name.endswith("attn.qkv.weight") for name in w)):
        start = f"blocks.{number}."
        own = {name.removeprefix(start): value for name, value in w.items() if name.startswith(start)}
        one, two = (own.get(f"{name}.gamma", torch.ones(width).double()) for name in ("ls1", "ls2"))
        layer = nn.TransformerEncoderLayer(
            width, num_heads, 4 * width, 0.0, "gelu", layer_norm_eps=eps, batch_first=True, norm_first=True
        )
        layer.double().load_state_dict(
            {
                "self_attn.in_proj_weight": own["attn.qkv.weight"],
                "self_attn.in_proj_bias": own["attn.qkv.bias"],
                "self_attn.out_proj.weight": one[:, None] * own["attn.proj.weight"],
                "self_attn.out_proj.bias": one * own["attn.proj.bias"],
                "linear1.weight": own["mlp.fc1.weight"],
                "linear1.bias": own["mlp.fc1.bias"],
                "linear2.weight": two[:, None] * own["mlp.fc2.weight"],
                "linear2.bias": two * own["mlp.fc2.bias"],
                "norm1.weight": own["norm1.weight"],
                "norm1.bias": own["norm1.bias"],
                "norm2.weight": own["norm2.weight"],
                "norm2.bias": own["norm2.bias"],
            }
        )
        with torch.no_grad():
            tokens = layer.eval()(tokens)
    return functional.layer_norm(tokens, (width,), w["norm.weight"], w["norm.bias"], eps)
