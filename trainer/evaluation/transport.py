"""Optimal transport distance between samples and data, and the length and straightness of the paths of a flow."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainer.evaluation.points import as_pair
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
