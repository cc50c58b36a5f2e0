"""The network predicts the velocity."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.path.protocol import PathSample
from trainer.flow.target.single import Single


class VelocityConfig(Section):
    """The network predicts dx/dt; nothing to set."""

    kind: Literal["velocity"] = "velocity"


class Velocity(Single):
    """The velocity of the path; its conditional mean transports the source to the data.

    Source: Lipman et al., "Flow Matching for Generative Modeling", arXiv 2210.02747, theorem 2.
    """

    quantities = ("velocity",)

    def make(self, sample: PathSample) -> Tensor:
        """See `Target.make`."""
        return sample.velocity
