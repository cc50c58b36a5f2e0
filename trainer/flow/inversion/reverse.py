"""Inversions that follow the flow back."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field as Setting
from pydantic import PositiveInt
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.control import Pull, PullConfig
from trainer.flow.control.pull import check_leads_through
from trainer.flow.inversion.protocol import Inversion, Inverted
from trainer.flow.keyed_draws import keyed_normal
from trainer.flow.path import Path
from trainer.flow.sampler import Field, Sampler, Segmented, Trajectory, VelocityField
from trainer.flow.sampler.protocol import check_times


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
    """

    def __init__(self, sampler: Sampler, path: Path, pull: float = 0.0) -> None:
        self.sampler = sampler
        self.path = path
        self.pull = PullConfig(strength=pull, stop=1.0, end="source")
        if pull:
            check_leads_through("source", path, kind="pull")

    def invert(self, field: Field, states: Tensor, times: Tensor, *, keys: Tensor) -> Inverted:
        if self.pull.strength:
            field = Pull(self.pull, keyed_normal(states, keys, 0), self.path).over(field)
        back = self.sampler.sample(field, states, times.flip(0), keys=keys)
        return Inverted(back.final, back.calls["network"])


class UniInversionConfig(Section):
    """UniInv: Euler's steps undone one after the other."""

    kind: Literal["uni_inversion"] = "uni_inversion"
    evaluations: PositiveInt = 1
    """Of the field in each step. 1 is UniInv; with 5 to 10 the noise is nearly that from which Euler's method draws the
    very states that were given, if its steps are short enough for the field."""


class EulerInverse(Sampler):
    """Undoes Euler's steps x_t = x_s + (t - s) v(x_s, s), one after the other.

    The unknown start of a step is guessed by the last velocity, y = x_t - (t - s) u, and the velocity there gives the
    step: u <- v(y, s), x_s = x_t - (t - s) u. The guess is wrong by O(h^2) for a step of length h, the step that is
    made of it by O(h^3), and so back and forth over all steps is wrong by O(h^2), where Euler's method on the grid
    turned round is wrong by O(h). Every further evaluation, at the start found by the one before, wins another order
    of h: that is the iteration towards a fixed point of y, which exists where h times the slope of v is below 1.

    The very first guess takes the velocity at the first state, which is one evaluation more.

    Source: Jiao et al., "UniEdit-Flow: Unleashing Inversion and Editing in the Era of Flow Models", arXiv 2504.13109,
    algorithm 1 (Uni-Inv, one evaluation); Garibi et al., "ReNoise: Real Image Inversion Through Iterative Noising",
    arXiv 2403.14602 (several, here without its averages).
    """

    def __init__(self, evaluations: int = 1) -> None:
        self.evaluations = evaluations

    def sample(
        self,
        field: VelocityField,
        x_init: Tensor,
        times: Tensor,
        *,
        keys: Tensor | None = None,  # noqa: ARG002
    ) -> Trajectory:
        """The grid begins where the steps that are undone end."""
        check_times(times)
        grid = times.to(x_init.device)
        states, velocity = [x_init], field(x_init, grid[0].expand(len(x_init)))
        for t, s in pairwise(grid):
            x = states[-1]
            for _ in range(self.evaluations):
                velocity = field(x + (s - t) * velocity, s.expand(len(x)))
            states.append((x + (s - t) * velocity).to(x_init.dtype))
        return Trajectory(torch.stack(states), times, {"network": 1 + self.evaluations * (len(times) - 1)})


class UniInversion(Inversion):
    """Goes back to noise from which Euler's method on the same grid comes near the given states."""

    def __init__(self, segments: int | None = None, evaluations: int = 1) -> None:
        inverse = EulerInverse(evaluations)
        self.sampler = inverse if segments is None else Segmented(inverse, segments)

    def invert(self, field: Field, states: Tensor, times: Tensor, *, keys: Tensor) -> Inverted:  # noqa: ARG002
        """Nothing is drawn."""
        back = self.sampler.sample(field, states, times.flip(0))
        return Inverted(back.final, back.calls["network"])
