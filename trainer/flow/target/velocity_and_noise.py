"""The network predicts the velocity and, behind it, the noise that the path added."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from moe.validation.section import Section
from trainer.flow.path.protocol import Path, PathSample
from trainer.flow.target.conversion import convert_pair
from trainer.flow.target.protocol import Quantity, Target


class VelocityAndNoiseConfig(Section):
    """The network predicts dx/dt and z on a path with noise of its own; nothing to set."""

    kind: Literal["velocity_and_noise"] = "velocity_and_noise"


class VelocityAndNoise(Target):
    """Velocity b and denoiser eta of a stochastic interpolant, two fields of one network.

    Together they give the score, -eta / g, whatever the source is, and with it every diffusion that has the same
    marginals as the flow.

    Source: Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants", arXiv 2303.08797, sections 2.2 and 2.4.

    Args:
        path: with noise of its own.
    """

    quantities = ("velocity", "noise")
    num_fields = 2

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self, sample: PathSample) -> Tensor:
        """See `Target.make`."""
        return torch.cat([sample.velocity, sample.noise], dim=1)

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        """See `Target.convert`; velocity and noise ask nothing of the path."""
        velocity, noise = prediction.chunk(2, dim=1)
        if to in self.quantities:
            return velocity if to == "velocity" else noise
        return convert_pair(velocity, noise, x_t, self.path.coefficients(t), to=to)
