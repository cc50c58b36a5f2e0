"""The network predicts the noise."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.path.protocol import PathSample
from trainer.flow.target.single import Single


class NoiseConfig(Section):
    """The network predicts the noise in the state: z where the path adds noise of its own, else x_0."""

    kind: Literal["noise"] = "noise"


class Noise(Single):
    """The noise: z where the path adds noise of its own, else the source point x_0.

    The conditional mean of z is the score times -g. That of x_0 is the score times -a if the source is standard normal
    and independent of the data.

    Source: Ho et al., "Denoising Diffusion Probabilistic Models", arXiv 2006.11239, section 3.2.
    """

    quantities = ("noise",)
    end = "source"

    def make(self, sample: PathSample) -> Tensor:
        """See `Target.make`."""
        return sample.noise
