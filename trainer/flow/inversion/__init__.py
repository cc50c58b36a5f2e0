"""Inversion: the noise that a flow would lead to given images: its protocol, and the union `Config` of its sections.

A section is built for the sampler that will draw from the noise, whose grid is that of the inversion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, Self

import torch
from pydantic import Field as Setting
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow import sampler as samplers
from trainer.flow.condition import keyed_normal, per_value
from trainer.flow.control import Pull, PullConfig, check_leads_through
from trainer.flow.path import Path
from trainer.flow.sampler import Field, Sampler, Trajectory, VelocityField, in_segments
from trainer.flow.sampler.protocol import check_times


@dataclass(frozen=True)
class Inverted:
    """The noise of given states.

    Attributes:
        noise: [B, *D] at time 0.
        calls: evaluations of the field for the batch.
        errors: [I, B] mean squared distance from the given states of the states that each iterate leads to; None: no
            iterate is drawn.
        bound: [B] smallest `contraction_bound` of the iterates, infinite if none gives one; None for inversions other
            than zero-order ones.
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
            keys: int64 [B] keys of the draws, one for each example.
        """
        ...


INVERTIBLE = (samplers.Euler, samplers.Heun, samplers.FirstOrder, samplers.OwnSampler)


def check_invertible(sampler: samplers.AnyConfig) -> None:
    """Raises ValueError for a sampler that is not deterministic with fixed steps; a user's class always passes."""
    within = sampler.within if isinstance(sampler, samplers.Segmented) else sampler
    if isinstance(within, INVERTIBLE):
        return
    reason = (
        "chooses its steps by the whole batch, so that the noise of an example would depend on the others"
        if isinstance(within, samplers.Dopri5)
        else "draws noise on its way, so that a picture has no noise of its own that leads to it"
    )
    raise ValueError(f"sampler: {within.kind} {reason}; invert with euler, heun or first_order")


class BuiltIn(Section):
    """An inversion that is its settings, and is built for the sampler that draws, on the path of the flow."""

    if TYPE_CHECKING:  # of the instance that `build` returns
        _sampler: ClassVar[Sampler]
        _path: ClassVar[Path]
    _segments: ClassVar[int | None] = None

    def build(self, sampler: samplers.AnyConfig, path: Path) -> Self:
        check_invertible(sampler)
        built = self.model_copy()
        segments = sampler.segments if isinstance(sampler, samplers.Segmented) else None
        vars(built).update(_sampler=sampler.build(path), _path=path, _segments=segments)
        return built


class Reverse(BuiltIn):
    """The sampler of the run on its reversed grid; as many evaluations as one drawing.

    Euler's step back takes the velocity at the end of the step that it undoes. The error of inverting and drawing again
    therefore has the order of the sampler: twice the steps halve that of Euler's method. The field is evaluated at time
    1, where a network that predicts the data leaves the velocity undetermined. Source of the pull: Rout et al.,
    RF-Inversion, arXiv 2410.10792, equation 8.
    """

    kind: Literal["reverse"] = "reverse"
    pull: float = Setting(default=0.0, ge=0, le=1)
    """Share of a pull to a noise that is drawn for each picture, 0.5 in RF-Inversion; 0: none, 1: that noise itself.
    The stronger it is, the more an edit may change and the worse the picture is kept."""

    def build(self, sampler: samplers.AnyConfig, path: Path) -> Self:
        built = super().build(sampler, path)
        if self.pull:
            check_leads_through("source", path, kind="pull")
        return built

    def invert(self, field: Field, states: Tensor, times: Tensor, *, keys: Tensor) -> Inverted:
        if self.pull:
            pull = PullConfig(strength=self.pull, stop=1.0, end="source")
            field = Pull(pull, keyed_normal(states, keys, 0), self._path).over(field)
        back = self._sampler.sample(field, states, times.flip(0), keys=keys)
        return Inverted(back.final, back.calls["network"])


class UniInversion(BuiltIn):
    """UniInv: Euler's steps undone one after the other."""

    kind: Literal["uni_inversion"] = "uni_inversion"
    evaluations: PositiveInt = 1
    """Evaluations of the field in each step. 1 is UniInv; with 5 to 10 the noise is nearly the one from which Euler's
    method draws the very states that were given, if its steps are short enough for the field."""

    def invert(self, field: Field, states: Tensor, times: Tensor, *, keys: Tensor) -> Inverted:  # noqa: ARG002
        grid, inverse = times.flip(0), EulerInverse(self.evaluations)
        if self._segments is None:
            back = inverse.sample(field, states, grid)
        else:
            back = in_segments(inverse, self._segments, field, states, grid)
        return Inverted(back.final, back.calls["network"])


@dataclass(frozen=True)
class EulerInverse(Sampler):
    """Undoes Euler's steps x_t = x_s + (t - s) v(x_s, s), one after the other.

    The unknown start of a step is estimated by the last velocity, y = x_t - (t - s) u, and the velocity there gives the
    step: u <- v(y, s), x_s = x_t - (t - s) u. Inverting and drawing again with steps of length h has an error of
    O(h^2), and of O(h) with Euler's method on the reversed grid. Each further evaluation of a step is an iteration
    towards a fixed point of y and raises the order by one; this point exists where h times the slope of v is below 1.
    One more evaluation, at the first state, gives the first u. Jiao et al., arXiv 2504.13109, algorithm 1 (Uni-Inv,
    one); Garibi et al., arXiv 2403.14602 (several, averaged there).
    """

    evaluations: int = 1

    def sample(
        self,
        field: VelocityField,
        x_init: Tensor,
        times: Tensor,
        *,
        keys: Tensor | None = None,  # noqa: ARG002
    ) -> Trajectory:
        check_times(times)
        grid = times.to(x_init.device)
        states, velocity = [x_init], field(x_init, grid[0].expand(len(x_init)))
        for t, s in pairwise(grid):
            x = states[-1]
            for _ in range(self.evaluations):
                velocity = field(x + (s - t) * velocity, s.expand(len(x)))
            states.append((x + (s - t) * velocity).to(x_init.dtype))
        return Trajectory(torch.stack(states), times, {"network": 1 + self.evaluations * (len(times) - 1)})


SAFETY = 0.4
"""Share of the smallest measured bound that a step takes. The pairs of a run see few directions, and the steepest one
may be missing among them."""

RESOLUTION = 1e-4
"""Least |df| / |f| of a pair that gives a bound: nearer ones differ by the rounding of a long drawing."""


def contraction_bound(noise_change: Tensor, drawn_change: Tensor, drawn: Tensor) -> Tensor:
    """The step size below which an iteration brings two noises nearer, 2 <df, dz> / |df|^2, float64 [B].

    dz and df are the changes [B, *D] of the noise and of the states that it leads to; dz becomes dz - eta df, which is
    shorter exactly for eta between 0 and this. For a linear f with symmetric positive matrix no pair has less than
    gradient descent, 2 / (largest eigenvalue). Infinite where df is within rounding of the states, or <df, dz> <= 0.
    Ronai et al., FlowOpt, arXiv 2510.22010, has the condition for all pairs at once.
    """
    dz, df = noise_change.double().flatten(1), drawn_change.double().flatten(1)
    along, square = (df * dz).sum(1), df.square().sum(1)
    is_measurable = (along > 0) & (square > RESOLUTION**2 * drawn.double().flatten(1).square().sum(1))
    return torch.where(is_measurable, 2 * along / torch.where(is_measurable, square, 1.0), torch.inf)


FIRST_BOUND = 1.0
"""The bound that a run begins with: that of a map which is nowhere steeper than 2, as flows to unit variance are."""

Drawn = Callable[[Tensor], Tensor]
"""From noise [B, *D] to the states [B, *D] that a flow leads it to."""
Watch = Callable[[int, Tensor, Tensor], None]
"""Sees each iterate: its number from 0, the noise [B, *D], and the states [B, *D] that it leads to."""


@dataclass(frozen=True)
class Iterated:
    """The result of zero-order inversion: the iterate [B, *D] nearest to the target, and the states that it leads to.

    `errors` are the mean squared distances of all iterates, float32 [I + 1, B]; `bound` float32 [B] is the smallest
    `contraction_bound` of successive ones, infinite without any. A `step_size` near it or above it is too large.
    """

    noise: Tensor
    drawn: Tensor
    errors: Tensor
    bound: Tensor


@torch.no_grad()
def zero_order(
    drawn: Drawn,
    target: Tensor,
    initial: Tensor,
    iterations: int,
    step_size: float | None = None,
    watch: Watch | None = None,
) -> Iterated:
    """Corrects noise until the states that it leads to are near a target: z <- z - eta (f(z) - y).

    It is gradient descent on |f(z) - y|^2 / 2 with the identity in place of the Jacobian of f, which may be any sampler
    with guidance, controls and a decoder of the same shape. Inversion: f draws under the condition of the target, and
    the more iterations, the nearer. Editing: f draws under *another* condition from the inversion of the picture; the
    first iterate is the plain edit, and each further one is nearer to the picture, until the edit itself is undone. It
    needs a small `step_size`, 0.05 for some 8 iterations: larger or automatic steps undo most edits in two
    (`tests/benchmarks/methods/flowopt_editing.py`). Ronai, Kulikov and Michaeli, "FlowOpt", arXiv 2510.22010.

    Args:
        drawn: f; it is called `iterations` + 1 times, without gradients, and nothing is read back to the host.
        target: [B, *D] y.
        initial: [B, *D] the first noise.
        iterations: corrections, 0 or more.
        step_size: eta of all examples; None: 0.4 of the smallest bound that the iterates of each have shown so far, and
            0.4 before there is one, which suits a flow between states of unit variance.
        watch: sees every iterate.
    """
    z, y = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (initial, target))
    image = drawn(z).to(z.dtype)
    error = _mean_square(image - y)
    best, best_image, least, errors = z, image, error, [error]
    bound = torch.full_like(error, torch.inf)
    if watch is not None:
        watch(0, z, image)
    for number in range(1, iterations + 1):
        shown = SAFETY * bound.masked_fill(bound.isinf(), FIRST_BOUND)
        eta = shown if step_size is None else torch.full_like(bound, step_size)
        z_next = z - per_value(eta.to(z.dtype), z) * (image - y)
        image_next = drawn(z_next).to(z.dtype)
        bound = torch.minimum(bound, contraction_bound(z_next - z, image_next - image, image))
        z, image = z_next, image_next
        error = _mean_square(image - y)
        errors.append(error)
        nearer = (error < least) | least.isnan()
        least = torch.where(nearer, error, least)
        kept = per_value(nearer, z)
        best, best_image = torch.where(kept, z, best), torch.where(kept, image, best_image)
        if watch is not None:
            watch(number, z, image)
    return Iterated(best, best_image, torch.stack(errors).float(), bound.float())


def _mean_square(difference: Tensor) -> Tensor:
    return difference.double().square().flatten(1).mean(1)


class ZeroOrder(BuiltIn):
    """FlowOpt: z <- z - eta (f(z) - y), where f draws with the sampler of the run and y are the given states.

    Attributes:
        initial: the inversion that gives the first noise.
        iterations: corrections of the noise; each costs one drawing.
        step_size: step eta, the same for all examples; null: for each example 0.4 of the smallest bound that
            its run has shown.
    """

    kind: Literal["zero_order"] = "zero_order"
    initial: Annotated[Reverse | UniInversion, Setting(discriminator="kind")] = UniInversion()
    iterations: PositiveInt = 30
    step_size: PositiveFloat | None = None

    def build(self, sampler: samplers.AnyConfig, path: Path) -> Self:
        built = super().build(sampler, path)
        return built.model_copy(update={"initial": self.initial.build(sampler, path)})

    def invert(self, field: Field, states: Tensor, times: Tensor, *, keys: Tensor) -> Inverted:
        """Takes T (iterations + 1) evaluations for T a drawing, besides those of the first inversion."""
        first = self.initial.invert(field, states, times, keys=keys)
        calls = first.calls

        def drawn(noise: Tensor) -> Tensor:
            nonlocal calls
            trajectory = self._sampler.sample(field, noise, times, keys=keys)
            calls += trajectory.calls["network"]
            return trajectory.final

        best = zero_order(drawn, states, first.noise, self.iterations, self.step_size)
        return Inverted(best.noise, calls, best.errors, best.bound)


AnyConfig = Reverse | UniInversion | ZeroOrder
Config = Annotated[AnyConfig, Setting(discriminator="kind")]
