"""The network predicts the velocity and, behind it, the path's own noise."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.path.protocol import Path, PathSample
from trainer.flow.target.conversion import convert_pair, pair_determines
from trainer.flow.target.protocol import Quantity, Target


class VelocityAndNoiseConfig(Section):
    """The network predicts dx/dt and z on a path with noise of its own; nothing to set."""

    kind: Literal["velocity_and_noise"] = "velocity_and_noise"


class VelocityAndNoise(Target):
    """Velocity b and denoiser eta of a stochastic interpolant, two fields of one network.

    They determine the score -eta / g of any source, and with it every diffusion that has the marginals of the flow.

    Source: Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants", arXiv 2303.08797, sections 2.2 and 2.4.

    Args:
        path: with noise of its own.
    """

    quantities = ("velocity", "noise")
    num_fields = 2

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def determines(cls, quantity: Quantity, path: Path) -> bool:
        """See `Target.determines`."""
        return pair_determines(quantity, path)

    def make(self, sample: PathSample) -> Tensor:
        """See `Target.make`."""
        return torch.cat([sample.velocity, sample.noise], dim=1)

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        """See `Target.convert`; velocity and noise themselves need no coefficients."""
        velocity, noise = prediction.chunk(2, dim=1)
        return convert_pair(velocity, noise, x_t, t, self.path, to=to)
