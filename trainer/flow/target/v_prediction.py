"""The network predicts v, a mixture of noise and data that is well conditioned at every time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from moe.validation.section import Section
from trainer.flow.path.protocol import Path, PathSample
from trainer.flow.target.single import Single


class VPredictionConfig(Section):
    """The network predicts b x_0 - a x_1 on a path with a^2 + b^2 = 1; nothing to set."""

    kind: Literal["v_prediction"] = "v_prediction"


class VPrediction(Single):
    """v = b x_0 - a x_1, the state turned by a right angle.

    Source: Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv 2202.00512,
    appendix D, where alpha is b and sigma is a.

    Args:
        path: with a^2 + b^2 = 1 at every time.

    Raises:
        ValueError: it is another.
    """

    quantities = ("v_prediction",)

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        c = path.coefficients(torch.linspace(0, 1, 11))
        if not torch.allclose(c.a**2 + c.b**2, torch.ones(11), atol=1e-4):
            raise ValueError(
                "flow.target.kind: v_prediction turns the state by a right angle, which needs a path with "
                "a^2 + b^2 = 1; use a variance-preserving path, or another target"
            )

    def make(self, sample: PathSample) -> Tensor:
        """See `Target.make`."""
        c = self.path.coefficients(sample.t).broadcast(sample.x_t)
        return c.b * sample.x_0 - c.a * sample.x_1
