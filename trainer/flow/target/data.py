"""The network predicts the data."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.path.protocol import PathSample
from trainer.flow.target.single import Single


class DataConfig(Section):
    """The network predicts the data point x_1; nothing to set."""

    kind: Literal["data"] = "data"


class Data(Single):
    """The data point x_1; its conditional mean is the denoised state.

    Source: Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv 2202.00512,
    section 4.
    """

    quantities = ("data",)
    end = "data"

    def make(self, sample: PathSample) -> Tensor:
        """See `Target.make`."""
        return sample.x_1
