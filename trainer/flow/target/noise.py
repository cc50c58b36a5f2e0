"""The network predicts the noise."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from moe.validation.section import Section
from trainer.flow.path.protocol import PathSample
from trainer.flow.target.single import Single


class NoiseConfig(Section):
    """The network predicts the source point x_0 as the noise in the state; nothing to set."""

    kind: Literal["noise"] = "noise"


class Noise(Single):
    """The noise; for a standard normal source its conditional mean is the score times -a.

    Source: Ho et al., "Denoising Diffusion Probabilistic Models", arXiv 2006.11239, section 3.2.
    """

    quantities = ("noise",)

    def make(self, sample: PathSample) -> Tensor:
        """See `Target.make`."""
        return sample.noise
