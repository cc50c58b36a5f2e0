"""The network predicts the score."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from moe.validation.section import Section
from trainer.flow.path.protocol import PathSample
from trainer.flow.target.conversion import convert
from trainer.flow.target.single import Single


class ScoreConfig(Section):
    """The network predicts the gradient of the log density; nothing to set."""

    kind: Literal["score"] = "score"


class Score(Single):
    """The score -x_0 / a of a standard normal source, the divisor held at 1e-3 or more; it grows towards the data.

    Source: Vincent, "A Connection Between Score Matching and Denoising Autoencoders", 2011; Song et al., arXiv
    2011.13456, equation 7.
    """

    quantities = ("score",)

    def make(self, sample: PathSample) -> Tensor:
        """See `Target.make`."""
        return convert(sample.noise, sample.x_t, self.path.coefficients(sample.t), source="noise", to="score")
