"""The path between a source point and its data point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from trainer.flow.condition import per_value
from trainer.flow.coupling.protocol import Pairs


class PathSample(NamedTuple):
    """One point on the path of every pair.

    Attributes:
        x_t: [B, *D] the point at time t.
        velocity: [B, *D] its time derivative for this pair, the noise held fixed.
        noise: [B, *D] the target of a network that predicts the noise: z where the path adds noise of its own, x_0
            where it does not.
        t: [B] times in [0, 1].
        x_0: [B, *D] the source points.
        x_1: [B, *D] the data points.
        mirror: the point at the same time with the path's own noise reversed; None where the path has none.
        end: coefficients of the path at the end of the interval of each pair; None: the pairs have no interval.
        keys: int64 [B] keys of what an objective draws for each pair; None: its objective draws nothing.
    """

    x_t: Tensor
    velocity: Tensor
    noise: Tensor
    t: Tensor
    x_0: Tensor
    x_1: Tensor
    mirror: PathSample | None = None
    end: Coefficients | None = None
    keys: Tensor | None = None

    def beside(self, other: PathSample) -> PathSample:
        """These points followed by those of `other`, without mirrors and keys; neither has an `end`."""
        points = ((one.x_t, one.velocity, one.noise, one.t, one.x_0, one.x_1) for one in (self, other))
        x_t, velocity, noise, t, x_0, x_1 = map(torch.cat, zip(*points, strict=True))
        return PathSample(x_t, velocity, noise, t, x_0, x_1)


@dataclass(frozen=True)
class Coefficients:
    """The path a x_0 + b x_1 + g z with z ~ N(0, I), and derivatives, [B]; where dg diverges, g_dg = g dg is finite."""

    a: Tensor
    b: Tensor
    g: Tensor
    da: Tensor
    db: Tensor
    dg: Tensor
    g_dg: Tensor

    def broadcast(self, x: Tensor) -> Coefficients:
        """The same coefficients, in a shape that broadcasts to states [B, *D]."""
        weights = self.a, self.b, self.g, self.da, self.db, self.dg, self.g_dg
        return Coefficients(*(per_value(weight, x) for weight in weights))


End = Literal["source", "data"]


class Path(Protocol):
    """Interpolates between the two ends of every pair.

    The attributes state facts about the coefficients, so that no coefficient is computed to find out which parts of a
    flow go together.

    Attributes:
        affine: whether a point is a x_0 + b x_1 + g z; if not, `coefficients` raises, and no prediction is converted.
        has_source: whether x_0 has a weight between the ends.
        has_noise: whether z has a weight between the ends: the path adds noise of its own.
        separable: whether two terms of the path follow from the state and the velocity at every time in (0, 1). The two
            terms are x_0 and x_1 (with g z subtracted), or z and x_1 on a path without x_0.
        preserves_variance: whether a^2 + b^2 = 1 and g = 0 at every time.
        starts_as: the only term at t = 0, where the source is x_0, or z on a path without x_0; None: there are several.
        ends_as: the only term at t = 1; None: there are several.
        noise_scale: the standard deviation in whose units the noise is strong or weak: g is proportional to it.
        normal: whether noise that is drawn as standard normal is also that in the states, which then have a score.
    """

    affine: bool = True
    has_source: bool = True
    has_noise: bool = False
    separable: bool = True
    preserves_variance: bool = False
    starts_as: End | None = "source"
    ends_as: End | None = "data"
    noise_scale: float = 1.0
    normal: bool = True

    def sample(self, pairs: Pairs, t: Tensor, *, generator: torch.Generator) -> PathSample:
        """Places pairs with states [B, *D] at times [B] in [0, 1]; `generator` draws the path's own noise."""
        ...

    def coefficients(self, t: Tensor) -> Coefficients:
        """Returns the weights of x_0, x_1 and z at the times `t` [B]; a ValueError if the path is not affine."""
        ...

    def start(self, source: Tensor) -> Tensor:
        """Returns the states [B, *D] that samples begin at, made of their source points [B, *D]."""
        return source
