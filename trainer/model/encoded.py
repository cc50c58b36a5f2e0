"""Networks whose paths begin at source points that an encoder computes from captions.

Shape suffixes: B batch, W values of a caption, D width, P values of a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model.encoded import EncodedDiTConfig, EncodedMLPConfig, EncoderConfig
from trainer.flow.condition import Condition
from trainer.flow.question import Encode, FromSource, Question
from trainer.model.dit import DiT
from trainer.model.mlp import MLP
from trainer.model.network import Builders, Constant, Initial, NetworkSpec, computing_dtype, xavier

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0
"""Initial and largest scale of the cosines by which the contrastive term compares captions."""


class SourceEncoder(nn.Module):
    """An encoder from captions to normal distributions over states [P]."""

    def __init__(self, config: EncoderConfig, *, caption_width: int, values: int) -> None:
        super().__init__()
        self.deviation, self.values = config.deviation or 0.0, values  # read where none is learned
        widths = [caption_width, *[config.hidden] * config.layers]
        self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.output = nn.Linear(config.hidden, values if config.deviation is not None else 2 * values)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        return Constant(0.0) if name.endswith("bias") else xavier(shape)

    def forward(self, caption_BW: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """Source points like `noise` [B, *D], their means, and the logarithms of variances that are learned."""
        hidden_BD = caption_BW.to(computing_dtype(self))
        for layer in self.layers:
            hidden_BD = functional.silu(layer(hidden_BD))
        parts = self.output(hidden_BD).float().split(self.values, dim=1)
        mean, *log_variance = (part.reshape(noise.shape) for part in parts)
        deviation = (0.5 * log_variance[0]).exp() if log_variance else self.deviation
        return mean + deviation * noise, mean, *log_variance


class Likeness(nn.Module):
    """Scaled cosines [B, B] of source points and projected data points [B, *D], a row for each source point.

    The scale is learned: Radford et al., "Learning Transferable Visual Models", 2021, section 2.5.
    """

    def __init__(self, config: EncoderConfig, *, values: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(values, config.hidden), nn.SiLU(), nn.Linear(config.hidden, values))
        self.log_scale = nn.Parameter(torch.full((1,), math.log(FIRST_SCALE)))

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        if name == "log_scale":
            return Constant(math.log(FIRST_SCALE))
        return Constant(0.0) if name.endswith("bias") else xavier(shape)

    def forward(self, x_0: Tensor, x_1: Tensor) -> Tensor:
        projected_BP = self.project(x_1.flatten(1).to(self.log_scale.dtype)).float()
        scale = self.log_scale.float().exp().clamp(max=LARGEST_SCALE)
        return scale * functional.normalize(x_0.flatten(1)) @ functional.normalize(projected_BP).T


class Encodes(Protocol):
    encoder: SourceEncoder
    likeness: Likeness


def answer(
    network: Encodes,
    predict: Callable[[Tensor, Tensor, Condition], Any],
    noise: Tensor,
    t: Tensor,
    condition: Condition,
    question: Encode | FromSource,
) -> Tensor | tuple[Tensor, ...]:
    """Answers from the noise [B, *D] of source points, in one call of the network."""
    assert condition.caption is not None
    x_0, *distribution = network.encoder(condition.caption, noise.float())
    if isinstance(question, Encode):
        return x_0
    predicted = predict(question.states(x_0), t, condition)
    return predicted, x_0, network.likeness(x_0, question.x_1), *distribution


class EncodedDiT(DiT):
    """A diffusion transformer that reads captions by its encoder alone."""

    def __init__(self, spec: NetworkSpec[EncodedDiTConfig]) -> None:
        super().__init__(replace(spec, caption_width=0))
        self.encoder, self.likeness = encoder_of(spec)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, question: Question | None = None) -> Any:
        if isinstance(question, Encode | FromSource):
            return answer(self, super().forward, x_t, t, condition, question)
        return super().forward(x_t, t, condition, question)


class EncodedMLP(MLP):
    """Residual blocks over a vector, beside an encoder of captions."""

    def __init__(self, spec: NetworkSpec[EncodedMLPConfig]) -> None:
        super().__init__(spec)
        self.encoder, self.likeness = encoder_of(spec)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, question: Question | None = None) -> Any:
        if isinstance(question, Encode | FromSource):
            return answer(self, super().forward, x_t, t, condition, question)
        return super().forward(x_t, t, condition)


def encoder_of(spec: NetworkSpec[Any]) -> tuple[SourceEncoder, Likeness]:
    config, values = spec.config.encoder, math.prod(spec.state_shape)
    return SourceEncoder(config, caption_width=spec.caption_width, values=values), Likeness(config, values=values)


NETWORKS: Builders = {EncodedDiTConfig: EncodedDiT, EncodedMLPConfig: EncodedMLP}
