"""Inversion: the noise that a flow would lead to given images: its protocol, and the union `Config` of its sections.

A section is built for the sampler that will draw from the noise, whose grid is that of the inversion.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field as Setting
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow import sampler as samplers
from trainer.flow.condition import keyed_normal
from trainer.flow.control import Pull, PullConfig, check_leads_through
from trainer.flow.inversion.zero_order import SAFETY, Drawn, Iterated, contraction_bound, zero_order
from trainer.flow.path import Path
from trainer.flow.sampler import Field, Sampler, Trajectory, VelocityField, in_segments
from trainer.flow.sampler.protocol import check_times


@dataclass(frozen=True)
class Inverted:
    """The noise of given states.

    Attributes:
        noise: [B, *D] at time 0.
        calls: evaluations of the field for the batch.
        errors: [I, B] mean squared distance of the states that each iterate leads to; None: no iterate is drawn.
        bound: [B] step size from which on the iterates of an example diverge, as far as they have shown it; infinite
            where they have not, None where there are no steps of that kind.
    """

    noise: Tensor
    calls: int
    errors: Tensor | None = None
    bound: Tensor | None = None


class Inversion(Protocol):
    """Finds the noise that a flow leads to given states."""

    def invert(self, field: Field, states: Tensor, times: Tensor, *, keys: Tensor) -> Inverted:
        """Finds the noise.

        Args:
            field: of the flow, under the conditions of the given states.
            states: [B, *D] at time 1.
            times: [T] the grid from 0 to 1 that the noise will be drawn on.
            keys: int64 [B] keys of whatever is drawn at random, one for each example.
        """
        ...


INVERTIBLE = (samplers.Euler, samplers.Heun, samplers.FirstOrder, samplers.OwnSampler)


def check_invertible(sampler: samplers.AnyConfig) -> None:
    """Refuses, by a ValueError, a sampler that is not deterministic with fixed steps; a user's class is taken to be."""
    within = sampler.within if isinstance(sampler, samplers.Segmented) else sampler
    if isinstance(within, INVERTIBLE):
        return
    reason = (
        "chooses its steps by the whole batch, so that the noise of an example would depend on the others"
        if isinstance(within, samplers.Dopri5)
        else "draws noise on its way, so that a picture has no noise of its own that leads to it"
    )
    raise ValueError(f"sampler: {within.kind} {reason}; invert with euler, heun or first_order")


class ReverseConfig(Section):
    """The sampler of the run on its grid turned round; as many evaluations as one drawing."""

    kind: Literal["reverse"] = "reverse"
    pull: float = Setting(default=0.0, ge=0, le=1)
    """Share of a pull to a noise that is drawn for each picture, 0.5 in RF-Inversion; 0: none, 1: that noise itself.
    The stronger it is, the more an edit may change and the worse the picture is kept."""

    def build(self, sampler: samplers.AnyConfig, path: Path) -> Reverse:
        check_invertible(sampler)
        return Reverse(sampler.build(path), path, self.pull)


class Reverse(Inversion):
    """Follows the field from the data to the source.

    Euler's step back takes the velocity at the end of the step that it undoes, Euler's step forth that at its start.
    Back and forth is therefore wrong by the order of the sampler: for Euler's method, twice the steps leave half the
    error. The field is evaluated at t = 1 itself, where a network that predicts the data leaves the velocity open.

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

    def build(self, sampler: samplers.AnyConfig, path: Path) -> UniInversion:  # noqa: ARG002
        check_invertible(sampler)
        segments = sampler.segments if isinstance(sampler, samplers.Segmented) else None
        return UniInversion(segments, self.evaluations)


class UniInversion(Inversion):
    """Goes back to noise from which Euler's method on the same grid comes near the given states."""

    def __init__(self, segments: int | None = None, evaluations: int = 1) -> None:
        self.segments, self.inverse = segments, EulerInverse(evaluations)

    def invert(self, field: Field, states: Tensor, times: Tensor, *, keys: Tensor) -> Inverted:  # noqa: ARG002
        """Nothing is drawn."""
        grid, inverse = times.flip(0), self.inverse
        if self.segments is None:
            back = inverse.sample(field, states, grid)
        else:
            back = in_segments(inverse, self.segments, field, states, grid)
        return Inverted(back.final, back.calls["network"])


class EulerInverse(Sampler):
    """Undoes Euler's steps x_t = x_s + (t - s) v(x_s, s), one after the other.

    The unknown start of a step is guessed by the last velocity, y = x_t - (t - s) u, and the velocity there gives the
    step: u <- v(y, s), x_s = x_t - (t - s) u. The guess is wrong by O(h^2) for a step of length h, its step by O(h^3),
    and back and forth over all steps by O(h^2), where Euler's method on the reversed grid is wrong by O(h). Every
    further evaluation, at the start that the one before gives, wins another order of h: the iteration towards a fixed
    point of y, which exists where h times the slope of v is below 1. The first guess takes one more, at the first
    state.

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


class ZeroOrderConfig(Section):
    """FlowOpt: z <- z - eta (f(z) - y), where f draws with the sampler of the run and y are the given states.

    Attributes:
        initial: the inversion that gives the first noise.
        iterations: corrections; each costs one drawing.
        step_size: eta, the same for all; null: for each example 0.4 of the smallest bound that its run has shown.
    """

    kind: Literal["zero_order"] = "zero_order"
    initial: Annotated[ReverseConfig | UniInversionConfig, Setting(discriminator="kind")] = UniInversionConfig()
    iterations: PositiveInt = 30
    step_size: PositiveFloat | None = None

    def build(self, sampler: samplers.AnyConfig, path: Path) -> ZeroOrder:
        initial = self.initial.build(sampler, path)
        return ZeroOrder(sampler.build(path), initial, self.iterations, self.step_size)


class ZeroOrder(Inversion):
    """Zero-order inversion of what a sampler draws, from the noise that another inversion gives."""

    def __init__(self, sampler: Sampler, initial: Inversion, iterations: int, step_size: float | None = None) -> None:
        self.sampler = sampler
        self.initial = initial
        self.iterations = iterations
        self.step_size = step_size

    def invert(self, field: Field, states: Tensor, times: Tensor, *, keys: Tensor) -> Inverted:
        """With T evaluations a drawing, T (iterations + 1) and those of the first inversion."""
        first = self.initial.invert(field, states, times, keys=keys)
        calls = first.calls

        def drawn(noise: Tensor) -> Tensor:
            nonlocal calls
            trajectory = self.sampler.sample(field, noise, times, keys=keys)
            calls += trajectory.calls["network"]
            return trajectory.final

        found = zero_order(drawn, states, first.noise, self.iterations, self.step_size)
        return Inverted(found.noise, calls, found.errors, found.bound)


AnyConfig = ReverseConfig | UniInversionConfig | ZeroOrderConfig
Config = Annotated[AnyConfig, Setting(discriminator="kind")]
