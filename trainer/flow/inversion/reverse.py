"""A sampler on its grid turned round: from given states back to noise."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Setting
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.control import Pull, PullConfig
from trainer.flow.control.pull import check_leads_through
from trainer.flow.inversion.protocol import Inversion, Inverted
from trainer.flow.keyed_draws import keyed_normal
from trainer.flow.path import Path
from trainer.flow.sampler import Field, Sampler


class ReverseConfig(Section):
    """The sampler of the run on its grid turned round; as many evaluations as one drawing."""

    kind: Literal["reverse"] = "reverse"
    pull: float = Setting(default=0.0, ge=0, le=1)
    """Share of a pull to a noise that is drawn for each picture, 0.5 in RF-Inversion; 0: none, 1: that noise itself.
    The stronger it is, the more an edit may change and the worse the picture is kept."""


class Reverse(Inversion):
    """Follows the field from the data to the source.

    Euler's step back takes the velocity at the end of the step that it undoes, Euler's step forth that at its start.
    Back and forth is therefore wrong by the order of the sampler: for Euler's method, twice the steps leave half the
    error. The field is asked at t = 1 itself, where the velocity of a network that predicts the data is open, see
    `trainer.flow.target.conversion.convert`.

    Source of the pull: Rout et al., "Semantic Image Inversion and Editing using Rectified Stochastic Differential
    Equations", arXiv 2410.10792, equation 8.

    Args:
        sampler: any that follows a velocity without noise of its own, such as the run's Euler, Heun or segmented one.
        path: of the flow.
        pull: share of the velocity towards a keyed noise, which is the first draw of the keys of the examples.

    Raises:
        ValueError: there is a pull, and a noise alone gives no velocity on the path.
    """

    def __init__(self, sampler: Sampler, path: Path, pull: float = 0.0) -> None:
        self.sampler = sampler
        self.path = path
        self.pull = PullConfig(strength=pull, stop=1.0, end="source")
        if pull:
            check_leads_through("source", path, kind="pull")

    def invert(self, field: Field, states: Tensor, times: Tensor, *, keys: Tensor) -> Inverted:
        """See `Inversion.invert`."""
        if self.pull.strength:
            field = Pull(self.pull, keyed_normal(states, keys, 0), self.path).over(field)
        back = self.sampler.sample(field, states, times.flip(0), keys=keys)
        return Inverted(back.final, back.calls["network"])
