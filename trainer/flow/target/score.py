"""The network predicts the score."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.path.protocol import PathSample
from trainer.flow.target.conversion import convert
from trainer.flow.target.single import Single


class ScoreConfig(Section):
    """The network predicts the gradient of the log density; nothing to set."""

    kind: Literal["score"] = "score"


class Score(Single):
    """The score -z / g, or -x_0 / a on a path without noise of its own from a standard normal source.

    In the second case the source must be independent of the data. The divisor is at least 1e-3 of the path's noise
    scale; the score grows without bound where the noise vanishes.

    Source: Vincent, "A Connection Between Score Matching and Denoising Autoencoders", 2011; Song et al., arXiv
    2011.13456, equation 7.
    """

    quantities = ("score",)
    end = "source"

    def make(self, sample: PathSample) -> Tensor:
        """See `Target.make`."""
        return convert(sample.noise, sample.x_t, sample.t, self.path, source="noise", to="score")
