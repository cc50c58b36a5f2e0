"""Layers of vision transformers, and the description of a layer that is one module.

Shape suffixes: B batch, D width, R rows and C columns of patches, T tokens, N heads, H values of a head.
Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929, section 3.1.
"""

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from netsim.foundation.settings import Section


class PlainLayer(Section):
    """A layer whose fields have the names of the arguments and attributes of its module."""

    module: ClassVar[type[nn.Module]]
    """Class of the module."""
    fixed: ClassVar[dict[str, object]] = {}
    """Attributes that a file does not hold, each with the only value that the module may have."""

    def build(self) -> nn.Module:
        return self.module(**self.model_dump(exclude={"kind"}))

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Describes a module of class ``cls.module``; refuses settings that a file cannot hold."""
        for name, value in cls.fixed.items():
            if getattr(module, name) != value:
                raise ValueError(f"{name} {getattr(module, name)} is not supported; use {value}")
        settings: dict[str, Any] = {name: getattr(module, name) for name in cls.model_fields if name != "kind"}
        if "bias" in settings:
            settings["bias"] = settings["bias"] is not None
        return cls.model_validate(settings)


class PatchTokens(nn.Module):
    """Adds position embeddings to embedded patches and puts class token (with its position) and registers before them.

    Darcet et al., "Vision Transformers Need Registers", arXiv 2309.16588.
    """

    def __init__(self, width: int, rows: int, columns: int, leading_tokens: int) -> None:
        super().__init__()
        self.width, self.rows, self.columns, self.leading_tokens = width, rows, columns, leading_tokens
        self.leading = nn.Parameter(torch.zeros(leading_tokens, width))
        self.positions = nn.Parameter(torch.zeros(width, rows, columns))

    def forward(self, patches_BDRC: Tensor) -> Tensor:
        if patches_BDRC.shape[1:] != self.positions.shape:
            present, wanted = list(patches_BDRC.shape[1:]), list(self.positions.shape)
            raise ValueError(f"patches {present} do not fit the positions {wanted}")
        tokens_BTD = (patches_BDRC + self.positions).flatten(2).transpose(1, 2)
        return torch.cat([self.leading.expand(len(tokens_BTD), -1, -1), tokens_BTD], dim=1)


class AttentionBlock(nn.Module):
    """A pre-norm block: self-attention and a perceptron with GELU, each with layer scale (1 if absent) and residual.

    Layer scale: Touvron et al., "Going deeper with Image Transformers", arXiv 2103.17239, equation 5.
    """

    def __init__(self, width: int, num_heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"num_heads: {num_heads} heads do not divide the width {width}")
        self.width, self.num_heads, self.hidden, self.eps = width, num_heads, hidden, eps
        self.norm_1 = nn.LayerNorm(width, eps)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.scale_1 = nn.Parameter(torch.ones(width))
        self.norm_2 = nn.LayerNorm(width, eps)
        self.expansion = nn.Linear(width, hidden)
        self.contraction = nn.Linear(hidden, width)
        self.scale_2 = nn.Parameter(torch.ones(width))

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        heads_BTD = self.query_key_value(self.norm_1(tokens_BTD)).chunk(3, dim=2)
        heads_BNTH = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in heads_BTD)
        attended_BTD = scaled_dot_product_attention(*heads_BNTH).transpose(1, 2).flatten(2)
        tokens_BTD = tokens_BTD + self.scale_1 * self.projection(attended_BTD)
        hidden = gelu(self.expansion(self.norm_2(tokens_BTD)))
        return tokens_BTD + self.scale_2 * self.contraction(hidden)


class PatchMap(nn.Module):
    """Arranges the tokens of the patches, which come last, as a feature map."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        patches_BTD = tokens_BTD[:, -self.rows * self.columns :]
        return patches_BTD.transpose(1, 2).unflatten(2, (self.rows, self.columns))


class FirstToken(nn.Module):
    """Takes the first token, which is the class token."""

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        return tokens_BTD[:, 0]


class PatchTokensLayer(PlainLayer):
    """Position embeddings and leading tokens: [N, width, rows, columns] to [N, tokens, width]."""

    module = PatchTokens
    kind: Literal["patch_tokens"] = "patch_tokens"
    width: PositiveInt
    rows: PositiveInt
    columns: PositiveInt
    leading_tokens: PositiveInt = 1


class AttentionBlockLayer(PlainLayer):
    """Self-attention and a perceptron, on [N, tokens, width]."""

    module = AttentionBlock
    kind: Literal["attention_block"] = "attention_block"
    width: PositiveInt
    num_heads: PositiveInt
    hidden: PositiveInt
    eps: PositiveFloat = 1e-6


class PatchMapLayer(PlainLayer):
    """[N, tokens, width] to [N, width, rows, columns], without the leading tokens."""

    module = PatchMap
    kind: Literal["patch_map"] = "patch_map"
    rows: PositiveInt
    columns: PositiveInt


class FirstTokenLayer(PlainLayer):
    """[N, tokens, width] to [N, width] of the class token."""

    module = FirstToken
    kind: Literal["first_token"] = "first_token"
