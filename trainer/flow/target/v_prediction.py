"""The network predicts v, a combination of noise and data that determines both at every time."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.path.protocol import Path, PathSample
from trainer.flow.target.single import Single


class VPredictionConfig(Section):
    """The network predicts b x_0 - a x_1 on a path with a^2 + b^2 = 1; nothing to set."""

    kind: Literal["v_prediction"] = "v_prediction"


class VPrediction(Single):
    """v = b x_0 - a x_1: the pair (state, v) is the pair (x_0, x_1) after a rotation.

    Source: Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv 2202.00512,
    appendix D, where alpha is b and sigma is a.

    Args:
        path: with a^2 + b^2 = 1 at every time.

    Raises:
        ValueError: if the path does not preserve the variance.
    """

    quantities = ("v_prediction",)

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if not path.preserves_variance:
            raise ValueError(
                "flow.target.kind: v_prediction is defined on a path with a^2 + b^2 = 1; use a variance-preserving "
                "path, or another target"
            )

    def make(self, sample: PathSample) -> Tensor:
        """See `Target.make`."""
        c = self.path.coefficients(sample.t).broadcast(sample.x_t)
        return c.b * sample.x_0 - c.a * sample.x_1
