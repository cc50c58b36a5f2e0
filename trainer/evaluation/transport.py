"""Optimal transport between samples and data, length and straightness of the paths of a flow, and its Monge gap."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe.ot import monge_gap as gap_of_points
from moe.ot import squared_euclidean
from trainer.config.rules.composition import has_one_step_map
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.evaluation.quality import as_pair
from trainer.flow import sampler
from trainer.flow.sampler import Trajectory

MAX_PIVOTS = 10_000_000


def wasserstein_2(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """2-Wasserstein distance between equally weighted points [N, ...] and [M, ...], by the network simplex of POT.

    In units of the points. Two finite sets of one distribution have a distance above 0: compare with the distance
    between two sets of real examples of the same sizes. Two sets of 2,000 points take about two seconds. Source:
    Bonneel et al., "Displacement interpolation using Lagrangian mass transport", 2011, section 4.
    """
    import ot  # a second to import

    x, y = as_pair(x, y)
    return float(np.sqrt(np.asarray(ot.emd2([], [], ot.dist(x, y), numItermax=MAX_PIVOTS))))


def path_energy(trajectory: Trajectory) -> float:
    """E int |v|^2 dt of a solver of dx/dt = v, where v is the mean velocity of each step; squared units of the states.

    That of a stochastic sampler is unbounded. On a grid of length 1 it is at least the :func:`transport_cost`, and
    equal to it if all paths are straight with constant velocity.
    """
    velocity, length = _velocities(trajectory)
    return _integral(velocity, length)


def transport_cost(trajectory: Trajectory) -> float:
    """Returns E |Z_1 - Z_0|^2 between the ends of the trajectory, in squared units of the states."""
    return float(_displacement(trajectory).square().sum(-1).mean())


def straightness(trajectory: Trajectory) -> float:
    """E int |(Z_1 - Z_0) - v|^2 dt / E |Z_1 - Z_0|^2: 0 if all paths are straight with constant velocity.

    Source: Liu et al., "Flow Straight and Fast", arXiv 2209.03003, equation 3, here in units of the transport cost.
    """
    velocity, length = _velocities(trajectory)
    detour = _integral(_displacement(trajectory) - velocity, length)
    return detour / transport_cost(trajectory) if detour else 0.0


def _displacement(trajectory: Trajectory) -> Tensor:
    return (trajectory.final - trajectory.x[0]).double().flatten(1)


def _velocities(trajectory: Trajectory) -> tuple[Tensor, Tensor]:
    """The mean velocity of each step, [T - 1, B, F], and its length in time, [T - 1]."""
    length = trajectory.times.to(trajectory.x.device).double().diff()
    return trajectory.x.double().flatten(2).diff(dim=0) / length[:, None, None], length.abs()


def _integral(values: Tensor, length: Tensor) -> float:
    return float((values.square().sum(-1) * length[:, None]).sum(0).mean())


Drawn = Callable[[sampler.AnyConfig], sampler.Trajectory]
"""Draws the same examples by any sampler."""


@dataclass(frozen=True)
class Moved:
    """How far points are moved.

    Attributes:
        gap: E |Z_1 - Z_0|^2 less its minimum over all pairings of the same points; 0: the map is optimal.
        transport_cost: E |Z_1 - Z_0|^2 in the same squared units of the states.
    """

    gap: float
    transport_cost: float

    @property
    def share(self) -> float:
        """The part of the transport cost that is not needed, 0 to 1."""
        return self.gap / self.transport_cost if self.gap else 0.0


@dataclass(frozen=True)
class MongeGaps:
    """The Monge gaps of a flow without guidance.

    In expectation the gap of a sample is at most that of the flow, since more points allow more pairings.

    Attributes:
        one_step: by the map x_0 + v(x_0, 0); None: the flow has none.
    """

    num: int
    sampler: Moved
    one_step: Moved | None

    @property
    def figure(self) -> str:
        """The share of the run's own sampler, in percent."""
        return f"{self.sampler.share:.1%}"

    @property
    def explained(self) -> str:
        """Meaning of the figure in words, with the share of one step."""
        one_step = "" if self.one_step is None else f"; in one step {self.one_step.share:.1%}"
        return f"of the transport cost{one_step} ({self.num} points; 0: no other pairing of them costs less)"


def measure_gaps(config: RunConfig, labels: Tensor, drawn: Drawn) -> MongeGaps | None:
    """Measures the Monge gaps of a flow; None if each example has a context, and with it a map, of its own.

    Points of different classes are never paired, since each class has a map of its own. `drawn` draws these examples
    without guidance.
    """
    assert config.flow is not None
    assert isinstance(config.sample, FlowSample)
    if config.context_shape is not None:
        return None
    own = config.sample.sampler
    has_map = has_one_step_map(config.flow.path, config.flow.target) and isinstance(own, _ANY_FLOW)
    return MongeGaps(
        num=len(labels),
        sampler=_moved(drawn(own), labels),
        one_step=_moved(drawn(sampler.Euler(steps=1)), labels) if has_map else None,
    )


_ANY_FLOW = (
    sampler.Euler | sampler.Heun | sampler.Dopri5 | sampler.FirstOrder | sampler.EulerMaruyama | sampler.StochasticHeun
)
"""Samplers of flows that have a velocity at the source; others have segments, or a model of another kind."""


def _moved(trajectory: sampler.Trajectory, labels: Tensor) -> Moved:
    start, end = (states.double().flatten(1).cpu() for states in (trajectory.x[0], trajectory.final))

    def within_classes(x: Tensor, y: Tensor) -> Tensor:
        return squared_euclidean(x, y).masked_fill(labels[:, None] != labels, torch.inf)

    gap, cost = float(gap_of_points(start, end, cost=within_classes)), transport_cost(trajectory)
    return Moved(min(max(gap, 0.0), cost), cost)  # between them but for rounding
