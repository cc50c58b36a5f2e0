"""The kinds of layers that a feature extractor can have, and the module of each."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, get_args

import torch
from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from netsim.foundation.settings import Section
from trainer.model.feature_extractor.transformer import (
    AttentionBlockLayer,
    FirstTokenLayer,
    PatchMapLayer,
    PatchTokensLayer,
    PlainLayer,
)

_TwoSizes = BeforeValidator(lambda value: (value, value) if isinstance(value, int) else value)
Sizes = Annotated[tuple[PositiveInt, PositiveInt], _TwoSizes]
"""Height and width, or one number for both."""
Margins = Annotated[tuple[NonNegativeInt, NonNegativeInt], _TwoSizes]
"""Height and width, or one number for both, from 0."""


class Branches(nn.Module):
    """Networks on the same input, joined along dimension 1 or added; an empty one passes its input on."""

    def __init__(self, branches: Sequence[nn.Sequential], join: Literal["concatenate", "add"]) -> None:
        super().__init__()
        self.branches, self.join = tuple(branches), join
        for index, branch in enumerate(branches):
            self.add_module(str(index), branch)

    def forward(self, x: Tensor) -> Tensor:
        results = [branch(x) for branch in self.branches]
        return torch.cat(results, dim=1) if self.join == "concatenate" else torch.stack(results).sum(0)


class Conv2d(PlainLayer):
    """Convolution with zeros around the image."""

    module = nn.Conv2d
    fixed: ClassVar[dict[str, object]] = {"padding_mode": "zeros"}
    kind: Literal["conv2d"] = "conv2d"
    in_channels: PositiveInt
    out_channels: PositiveInt
    kernel_size: Sizes
    stride: Sizes = (1, 1)
    padding: Margins = (0, 0)
    dilation: Sizes = (1, 1)
    groups: PositiveInt = 1
    bias: bool = True


class Linear(PlainLayer):
    """Linear map of the last dimension."""

    module = nn.Linear
    kind: Literal["linear"] = "linear"
    in_features: PositiveInt
    out_features: PositiveInt
    bias: bool = True


class BatchNorm2d(PlainLayer):
    """Normalisation of each channel by the mean and the variance in the file."""

    module = nn.BatchNorm2d
    fixed: ClassVar[dict[str, object]] = {"track_running_stats": True}
    kind: Literal["batch_norm2d"] = "batch_norm2d"
    num_features: PositiveInt
    eps: PositiveFloat = 1e-5
    affine: bool = True


class LayerNorm(PlainLayer):
    """Normalisation over the last dimensions by their own mean and variance."""

    module = nn.LayerNorm
    fixed: ClassVar[dict[str, object]] = {"elementwise_affine": True}
    kind: Literal["layer_norm"] = "layer_norm"
    normalized_shape: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    eps: PositiveFloat = 1e-5
    bias: bool = True


class MaxPool2d(PlainLayer):
    """Largest value of each window."""

    module = nn.MaxPool2d
    fixed: ClassVar[dict[str, object]] = {"return_indices": False, "dilation": 1}
    kind: Literal["max_pool2d"] = "max_pool2d"
    kernel_size: Sizes
    stride: Sizes
    padding: Margins = (0, 0)
    ceil_mode: bool = False


class AvgPool2d(PlainLayer):
    """Mean of each window."""

    module = nn.AvgPool2d
    fixed: ClassVar[dict[str, object]] = {"divisor_override": None}
    kind: Literal["avg_pool2d"] = "avg_pool2d"
    kernel_size: Sizes
    stride: Sizes
    padding: Margins = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True


class AdaptiveAvgPool2d(PlainLayer):
    """Means of a fixed number of windows that cover the image; 1 is the mean of the image."""

    module = nn.AdaptiveAvgPool2d
    kind: Literal["adaptive_avg_pool2d"] = "adaptive_avg_pool2d"
    output_size: Sizes


class ReLU(PlainLayer):
    """max(x, 0)."""

    module = nn.ReLU
    kind: Literal["relu"] = "relu"


class LeakyReLU(PlainLayer):
    """max(x, 0) + slope min(x, 0)."""

    module = nn.LeakyReLU
    kind: Literal["leaky_relu"] = "leaky_relu"
    negative_slope: float = 0.01


class SiLU(PlainLayer):
    """x / (1 + exp(-x))."""

    module = nn.SiLU
    kind: Literal["silu"] = "silu"


class GELU(PlainLayer):
    """x times the Gaussian distribution function of x."""

    module = nn.GELU
    kind: Literal["gelu"] = "gelu"
    approximate: Literal["none", "tanh"] = "none"


class Tanh(PlainLayer):
    """Hyperbolic tangent."""

    module = nn.Tanh
    kind: Literal["tanh"] = "tanh"


class Sigmoid(PlainLayer):
    """1 / (1 + exp(-x))."""

    module = nn.Sigmoid
    kind: Literal["sigmoid"] = "sigmoid"


class Flatten(PlainLayer):
    """[N, ...] to [N, F]."""

    module = nn.Flatten
    fixed: ClassVar[dict[str, object]] = {"start_dim": 1, "end_dim": -1}
    kind: Literal["flatten"] = "flatten"


class Identity(PlainLayer):
    """Returns its input. Dropout is written as this, because features are computed without dropout."""

    module = nn.Identity
    kind: Literal["identity"] = "identity"


class BranchesLayer(Section):
    """Several sequences of layers on the same input, whose results are joined."""

    kind: Literal["branches"] = "branches"
    join: Literal["concatenate", "add"]
    branches: Annotated[tuple[tuple["Layer", ...], ...], Field(min_length=1)]

    def build(self) -> Branches:
        return Branches([build_layers(layers) for layers in self.branches], self.join)


PlainLayers = (
    Conv2d
    | Linear
    | BatchNorm2d
    | LayerNorm
    | MaxPool2d
    | AvgPool2d
    | AdaptiveAvgPool2d
    | ReLU
    | LeakyReLU
    | SiLU
    | GELU
    | Tanh
    | Sigmoid
    | Flatten
    | Identity
    | PatchTokensLayer
    | AttentionBlockLayer
    | PatchMapLayer
    | FirstTokenLayer
)
"""Every kind of layer but branches."""
PLAIN_LAYERS: tuple[type[PlainLayer], ...] = get_args(PlainLayers)
Layer = Annotated[PlainLayers | BranchesLayer, Field(discriminator="kind")]
BranchesLayer.model_rebuild()


def build_layers(layers: Sequence[PlainLayer | BranchesLayer]) -> nn.Sequential:
    return nn.Sequential(*(layer.build() for layer in layers))


def describe_layers(network: nn.Sequential, name: str = "network") -> tuple[PlainLayer | BranchesLayer, ...]:
    """One layer for each module of a network; refuses classes and settings that a file cannot hold."""
    layers: list[PlainLayer | BranchesLayer] = []
    for number, module in enumerate(network):
        place = f"{name}.{number}"
        plain = next((kind for kind in PLAIN_LAYERS if type(module) is kind.module), None)
        if isinstance(module, Branches):
            branches = [describe_layers(branch, f"{place}.{index}") for index, branch in enumerate(module.branches)]
            layers.append(BranchesLayer.model_validate({"join": module.join, "branches": branches}))
        elif isinstance(module, nn.Dropout | nn.Dropout2d):
            layers.append(Identity())
        elif plain is None:
            known = ", ".join(kind.module.__name__ for kind in PLAIN_LAYERS)
            raise ValueError(f"{place}: a {type(module).__name__} is not supported; use {known}, Dropout or Branches")
        else:
            try:
                layers.append(plain.of(module))
            except ValueError as error:
                raise ValueError(f"{place}: {type(module).__name__}: {' '.join(str(error).split())}") from error
    return tuple(layers)
