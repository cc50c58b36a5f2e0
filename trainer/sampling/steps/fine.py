"""The solution on a fine grid of times, of which coarser grids are parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.flow.sampler import Field

Grid = tuple[int, ...]
"""Nodes of a fine grid, strictly increasing from 0 to the last."""


@dataclass(frozen=True)
class FineSolution:
    """Euler's solution in many equal steps, for examples that pass through the network together.

    Attributes:
        states: [T, B, *D] at the times of the fine grid, T = nodes + 1.
        velocities: [T - 1, B, *D] of the steps.
        segments: equal segments of time; no step crosses an edge between them, because the velocity may jump there.
    """

    field: Field
    states: Tensor
    velocities: Tensor
    segments: int

    @property
    def nodes(self) -> int:
        """Steps of the fine grid."""
        return len(self.velocities)

    @property
    def times(self) -> Tensor:
        """float32 [T] times of the fine grid, where the states are."""
        return fine_times(self.nodes).to(self.states.device)

    def field_from(self, node: int, before: Field) -> Field:
        """The field of a step from a node: another one than that of the step before where a segment begins."""
        return entered(self.field, node, self.nodes, self.segments, before)


@torch.no_grad()
def fine_solution(field: Field, x_0: Tensor, *, nodes: int, segments: int = 1) -> FineSolution:
    """Follows a field from x_0 [B, *D] in equal steps of Euler's method, none of which crosses an edge of a segment."""
    if nodes % segments:
        raise ValueError(
            f"nodes: {nodes} is not a multiple of the {segments} segments; use {-(-nodes // segments)} each"
        )
    times = fine_times(nodes).to(x_0.device)
    states, velocities, current = [x_0], [], field
    for node in range(nodes):
        x, t = states[-1], times[node]
        current = entered(field, node, nodes, segments, current)
        velocities.append(current(x, t.expand(len(x))).to(x.dtype))
        states.append(x + (times[node + 1] - t) * velocities[-1])
    return FineSolution(field, torch.stack(states), torch.stack(velocities), segments)


def entered(field: Field, node: int, nodes: int, segments: int, before: Field) -> Field:
    """The field of a step from a node of a fine grid: `before`, of the step that led there, within a segment."""
    width = nodes // segments
    return field.within(node // width) if segments > 1 and node % width == 0 else before


def fine_times(nodes: int) -> Tensor:
    """The times of the nodes, float32 [nodes + 1], as a sampler reads them from a file."""
    return torch.tensor(times_of(tuple(range(nodes + 1)), nodes))


def times_of(grid: Grid, nodes: int) -> tuple[float, ...]:
    """The times of a grid."""
    return tuple(node / nodes for node in grid)


def uniform_grid(nodes: int, evaluations: int) -> Grid:
    """The grid whose steps are equal, or as equal as whole nodes allow; it holds the edges of segments that divide
    both.
    """
    return tuple((2 * step * nodes + evaluations) // (2 * evaluations) for step in range(evaluations + 1))


def check_evaluations(evaluations: int, nodes: int, segments: int = 1) -> None:
    """Refuses a number of evaluations for which there is no grid."""
    if evaluations > nodes:
        raise ValueError(f"evaluations: {evaluations} exceed the {nodes} nodes of the fine grid; use more nodes")
    if evaluations < 1 or evaluations % segments:
        least = max(1, evaluations // segments) * segments
        what = "is below 1" if evaluations < 1 else f"is not a multiple of the {segments} segments of the sampler"
        raise ValueError(f"evaluations: {evaluations} {what}; use {least}")
