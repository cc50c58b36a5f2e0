"""The grid whose steps together cost least, by dynamic programming."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trainer.sampling.steps.fine import Grid, uniform_grid


def chord_grid(cost: NDArray[np.float64], evaluations: int) -> Grid:
    """The grid of a number of steps, 1 to T - 1, with the least sum of the costs [T, T] of steps from the fine
    solution.

    That is not the error at the end, which may be larger than that of equal steps. Source: Nguyen et al., "Bellman
    Optimal Step-size Straightening of Flow-Matching Models", ICLR 2024: Bellman's equation for exactly K steps.
    """
    nodes = len(cost) - 1
    remaining, choices = np.full(nodes + 1, np.inf), []
    remaining[nodes] = 0.0
    for _ in range(evaluations):
        total = cost + remaining
        choices.append(total.argmin(axis=1))
        remaining = total.min(axis=1)
    if not np.isfinite(remaining[0]):
        raise ValueError(f"evaluations: no grid of {evaluations} steps over {nodes} nodes holds all edges of segments")
    if evaluations == nodes:
        return uniform_grid(nodes, evaluations)
    grid = [0]
    for choice in reversed(choices):
        grid.append(int(choice[grid[-1]]))
    return tuple(grid)


def chord_cost(cost: NDArray[np.float64], grid: Grid) -> float:
    """The sum of the costs of the steps of a grid."""
    return float(sum(cost[step] for step in pairwise(grid)))
