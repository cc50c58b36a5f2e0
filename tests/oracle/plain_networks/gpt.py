"""A causal language model."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Gated(nn.Module):
    """The second half of the values, times the SiLU of the first half."""

    def forward(self, values: Tensor) -> Tensor:
        """From [.., 2 inner] to [.., inner]."""
        gate, gated = values.chunk(2, dim=-1)
        return functional.silu(gate) * gated


class FeedForward(nn.Sequential):
    """The dense feed-forward layer of a block."""

    def __init__(self, settings: dict) -> None:
        hidden, inner, bias, kind = (settings[name] for name in ("hidden", "inner", "bias", "feed_forward"))
        active = Gated() if kind == "swiglu" else nn.GELU(approximate="tanh" if kind == "gelu_tanh" else "none")
        outputs = 2 * inner if kind == "swiglu" else inner
        super().__init__(nn.Linear(hidden, outputs, bias=bias), active, nn.Linear(inner, hidden, bias=bias))


class Attention(nn.Module):
    """Rotary self-attention whose key-value heads serve several query heads."""

    def __init__(self, settings: dict) -> None:
        super().__init__()
        hidden, bias = settings["hidden"], settings["bias"]
        self.heads, self.shared, self.turned = (
            settings[name] for name in ("num_heads", "num_kv_heads", "rotary_width")
        )
        self.head_width, self.base = hidden // self.heads, settings["rotary_base"]
        outputs = (self.heads + 2 * self.shared) * self.head_width
        self.query_key_value = nn.Linear(hidden, outputs, bias=bias)
        self.projection = nn.Linear(hidden, hidden, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens [B, N, hidden] to what each reads from itself and those before it."""
        heads = self.query_key_value(tokens).unflatten(2, (-1, self.head_width))
        to_turn, value = heads.split([self.heads + self.shared, self.shared], dim=2)
        query, key = self._rotated(to_turn).split([self.heads, self.shared], dim=2)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return self.projection(attended.transpose(1, 2).flatten(2))

    def _rotated(self, heads: Tensor) -> Tensor:
        """Turns pairs of neighbouring coordinates of heads [B, N, H, W] by angles that grow with the position."""
        exponents = torch.arange(0, self.turned, 2, dtype=torch.float64) / self.turned
        angles = torch.arange(heads.shape[1])[:, None] * self.base**-exponents
        turns = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
        pairs = torch.view_as_complex(heads[..., : self.turned].unflatten(3, (-1, 2)))
        return torch.cat([torch.view_as_real(pairs * turns[:, None]).flatten(3), heads[..., self.turned :]], dim=3)


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and beside the residual stream."""

    def __init__(self, settings: dict, feed_forward: type[nn.Module]) -> None:
        super().__init__()
        self.parallel = settings["parallel_residual"]
        self.attention_norm, self.feed_forward_norm = norm(settings), norm(settings)
        self.attention, self.feed_forward = Attention(settings), feed_forward(settings)

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens [B, N, hidden] to [B, N, hidden]."""
        attended = tokens + self.attention(self.attention_norm(tokens))
        return attended + self.feed_forward(self.feed_forward_norm(tokens if self.parallel else attended))


class GPT(nn.Module):
    """A pre-norm transformer that predicts the token behind each token."""

    def __init__(self, settings: dict, feed_forward: type[nn.Module]) -> None:
        super().__init__()
        hidden, vocabulary = settings["hidden"], settings["vocabulary"]
        self.embed = nn.Embedding(vocabulary, hidden)
        self.blocks = nn.ModuleList(Block(settings, feed_forward) for _ in range(settings["num_layers"]))
        self.final_norm = norm(settings)
        self.unembed = None if settings["tied"] else nn.Linear(hidden, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens int64 [B, N] to logits [B, N, vocabulary] of the token behind each."""
        rows = self.embed(tokens)
        for block in self.blocks:
            rows = block(rows)
        return functional.linear(self.final_norm(rows), (self.unembed or self.embed).weight)


def norm(settings: dict) -> nn.Module:
    """RMSNorm or LayerNorm."""
    kind = nn.RMSNorm if settings["norm"] == "rms" else nn.LayerNorm
    return kind(settings["hidden"], eps=settings["norm_epsilon"])
