"""What it costs to replace several fine steps by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.sampling.steps.fine import FineSolution


@torch.no_grad()
def cost_matrix(solutions: Sequence[FineSolution]) -> NDArray[np.float64]:
    """Computes C[i, j] = mean |x_i + (t_j - t_i) v_i - x_j|^2: the error at node j of one step from node i.

    float64 [T, T], summed over the values of a state (of latents, in their units); 0 just above the diagonal, infinite
    on it, below, and where a step would cross an edge between segments. Source: Nguyen et al., "Bellman Optimal
    Step-size Straightening of Flow-Matching Models", ICLR 2024.
    """
    nodes, segments = solutions[0].nodes, solutions[0].segments
    cost = np.full((nodes + 1, nodes + 1), np.inf)
    width = nodes // segments
    for start in range(nodes):
        cost[start, start + 1] = 0.0
        end = (start // width + 1) * width
        if end > start + 1:
            cost[start, start + 2 : end + 1] = _of_steps(solutions, start, end)
    return cost


def _of_steps(solutions: Sequence[FineSolution], start: int, end: int) -> NDArray[np.float64]:
    """Costs of the steps from a node to each of those that are two or more after it, up to `end`."""
    total, number = np.zeros(end - start - 1), 0
    for solution in solutions:
        x, lengths = solution.states, solution.times[start + 2 : end + 1] - solution.times[start]
        steps = lengths.reshape(-1, *[1] * (x.ndim - 1)) * solution.velocities[start]
        missed = (x[start] + steps - x[start + 2 : end + 1]).flatten(1)
        total += torch.linalg.vector_norm(missed, dim=1, dtype=torch.float64).square().cpu().numpy()
        number += x.shape[1]
    return total / number
