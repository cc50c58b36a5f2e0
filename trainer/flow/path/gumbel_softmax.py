"""The path of Gumbel-Softmax flows: one-hot letters beside Gumbel noise, the signal growing or constant.

The published path is in the simplex, x = softmax((a e_k + g / beta) / tau(t)) with a temperature that falls. All pairs
have the same temperature, so that it changes coordinates and nothing else: beta tau log x is a beta e_k + g up to a
number that is the same for all letters. States are this, with sum 0 over the letters. Their noise is of the size of 1
at all times, and the temperature adds no error to a solver's step.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.coupling.protocol import Pairs
from trainer.flow.path.affine import Affine, without_noise
from trainer.flow.path.protocol import Coefficients, Path, PathSample


class Annealed(Section):
    """The weight of the letter grows with the time from 0 to 1: paths begin at noise, and end at their own letter."""

    kind: Literal["annealed"] = "annealed"
    beta: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Weight of the letter at t = 1, in units of the noise. Of V letters the largest at the end of a path is its own
    with probability e^beta / (e^beta + V - 1)."""

    def followed(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return without_noise(one, self.beta * t, da=torch.zeros_like(t), db=self.beta * one)

    def learned(self, t: Tensor) -> Coefficients:
        return self.followed(t)


class Constant(Section):
    """As published: the weight of the letter is 1 at all times, so that a state holds its letter from the start.

    The published velocity leaves out the noise. Samples that follow it begin at noise without a letter, where the
    network has learned nothing, and are further from the data than those of `annealed`.
    """

    kind: Literal["constant"] = "constant"
    beta: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """Weight of the letter, in units of the noise."""
    rate: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    """Rate of the exponential fall of the temperature."""

    def followed(self, t: Tensor) -> Coefficients:
        """The coefficients of the solution of dx/dt = rate (beta e_k - x) from x = g at t = 0."""
        rest = (-self.rate * t).exp()
        change = self.rate * rest
        return without_noise(rest, self.beta * (1 - rest), da=-change, db=self.beta * change)

    def learned(self, t: Tensor) -> Coefficients:
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        return without_noise(one, self.beta * one, da=zero, db=zero)


class GumbelSoftmaxConfig(Section):
    """The path of one-hot letters with Gumbel noise, which ends near a letter itself, in place of a mean of letters."""

    kind: Literal["gumbel_softmax"] = "gumbel_softmax"
    signal: Annotated[Annealed | Constant, Field(discriminator="kind")] = Annealed()
    """How the weight of the letter depends on the time."""

    def build(self) -> Path:
        return GumbelSoftmax(self.signal)


class GumbelSoftmax(Affine):
    """x_t = a(t) g + b(t) e_k over the letters of dimension 1; g is the Gumbel value of a normal draw's quantile.

    The coefficients are those of the paths that samples follow. Training states lie on these paths if the signal is
    annealed.

    Source: Tang et al., "Gumbel-Softmax Flow Matching with Straight-Through Guidance for Controllable Biological
    Sequence Generation", arXiv 2503.17361.
    """

    normal = False

    def __init__(self, signal: Annealed | Constant) -> None:
        super().__init__(signal.followed)
        self.ends_as = None
        self._signal = signal

    def start(self, source: Tensor) -> Tensor:
        return gumbel(source)

    def sample(self, pairs: Pairs, t: Tensor, *, generator: torch.Generator) -> PathSample:  # noqa: ARG002
        x_0, x_1 = gumbel(pairs.x_0), pairs.x_1
        at, c = self._signal.learned(t).broadcast(x_1), self.coefficients(t).broadcast(x_1)
        x_t = at.a * x_0 + at.b * x_1
        noise = (x_t - c.b * x_1) / c.a
        return PathSample(x_t, c.da * noise + c.db * x_1, noise, t, x_0, x_1)


def gumbel(normal: Tensor) -> Tensor:
    """Gumbel values of the same quantiles as standard normal draws [B, V, *rest], less their mean over V."""
    drawn = -(-torch.special.log_ndtr(normal)).log()
    return drawn - drawn.mean(1, keepdim=True)
