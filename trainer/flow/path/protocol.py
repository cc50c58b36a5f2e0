"""What lies between a source point and its data point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trainer.flow.coupling.protocol import Pairs


class PathSample(NamedTuple):
    """One point on the path of every pair.

    Attributes:
        x_t: [B, *D] the point at time t.
        velocity: [B, *D] its time derivative for this pair, the noise held fixed.
        noise: [B, *D] the Gaussian draw that a noise-predicting network has to find: z where the path adds its own
            noise, x_0 where it does not.
        t: [B] times in [0, 1].
        x_0: [B, *D] the source points.
        x_1: [B, *D] the data points.
        mirror: the point at the same time with the path's own noise reversed; None where the path has none.
        end: coefficients of the path where the pair's part of it ends; None: at the data points.
    """

    x_t: Tensor
    velocity: Tensor
    noise: Tensor
    t: Tensor
    x_0: Tensor
    x_1: Tensor
    mirror: PathSample | None = None
    end: Coefficients | None = None

    def beside(self, other: PathSample) -> PathSample:
        """These points followed by `other`'s, without their mirrors; all of whole paths."""
        return PathSample(
            x_t=torch.cat([self.x_t, other.x_t]),
            velocity=torch.cat([self.velocity, other.velocity]),
            noise=torch.cat([self.noise, other.noise]),
            t=torch.cat([self.t, other.t]),
            x_0=torch.cat([self.x_0, other.x_0]),
            x_1=torch.cat([self.x_1, other.x_1]),
        )


@dataclass(frozen=True)
class Coefficients:
    """The path x_t = a x_0 + b x_1 + g z with z ~ N(0, I), and its time derivatives.

    Attributes:
        a: [B] weight of the source.
        b: [B] weight of the data.
        g: [B] standard deviation of the path's own noise.
        da: [B] da/dt.
        db: [B] db/dt.
        dg: [B] dg/dt; may diverge at the ends.
        g_dg: [B] g dg/dt as one number, finite where dg is not.
    """

    a: Tensor
    b: Tensor
    g: Tensor
    da: Tensor
    db: Tensor
    dg: Tensor
    g_dg: Tensor

    def broadcast(self, x: Tensor) -> Coefficients:
        """Returns the same coefficients shaped [B, 1, ..., 1], to multiply a state `x` of shape [B, *D]."""
        shape = (-1, *[1] * (x.ndim - 1))
        return Coefficients(
            *(value.reshape(shape) for value in (self.a, self.b, self.g, self.da, self.db, self.dg, self.g_dg))
        )


class Path(Protocol):
    """Interpolates between the two ends of every pair."""

    def sample(self, pairs: Pairs, t: Tensor, *, generator: torch.Generator) -> PathSample:
        """Places every pair at its time.

        Args:
            pairs: B pairs with states [B, *D].
            t: [B] times in [0, 1].
            generator: where the path's own noise comes from; untouched by paths that have none.

        Returns:
            The points with the velocity and the noise that belong to them.
        """
        ...

    def coefficients(self, t: Tensor) -> Coefficients:
        """Returns the weights of x_0, x_1 and z at the times `t` [B].

        Raises:
            ValueError: if the path is not of the form a x_0 + b x_1 + g z; conversions between predictions then
                do not exist.
        """
        ...
