"""Fine solutions of a run's flow by Euler's method, from numbered noises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.flow.sampler import Euler, Field
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.sampler_choice import euler_of, segments_of

Grid = tuple[int, ...]
"""Nodes of a fine grid, strictly increasing from the first, 0, to the last."""


@dataclass(frozen=True)
class FineSolution:
    """Euler's solution in many equal steps, for one batch of examples.

    Attributes:
        states: [T, B, *D] at the times of the fine grid, T = nodes + 1.
        velocities: [T - 1, B, *D] the velocity of each step.
        segments: equal segments of time; no step crosses an edge between them, because the velocity may jump there.
    """

    field: Field
    states: Tensor
    velocities: Tensor
    segments: int

    @property
    def nodes(self) -> int:
        """Number of steps of the fine grid."""
        return len(self.velocities)

    @property
    def times(self) -> Tensor:
        """The times float32 [T] of the states."""
        return fine_times(self.nodes).to(self.states.device)


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
    """The field of the step from a node: a new one where a segment begins, else `before`, that of the last step."""
    width = nodes // segments
    return field.within(node // width) if segments > 1 and node % width == 0 else before


def fine_times(nodes: int) -> Tensor:
    """The times of the nodes, float32 [nodes + 1], as a sampler reads them from a file."""
    return torch.tensor(times_of(tuple(range(nodes + 1)), nodes))


def times_of(grid: Grid, nodes: int) -> tuple[float, ...]:
    """The times of the nodes of a grid."""
    return tuple(node / nodes for node in grid)


def uniform_grid(nodes: int, evaluations: int) -> Grid:
    """The grid of steps as equal as whole nodes allow; contains the edges of S segments if S divides both numbers."""
    return tuple((2 * step * nodes + evaluations) // (2 * evaluations) for step in range(evaluations + 1))


def check_evaluations(evaluations: int, nodes: int, segments: int = 1) -> None:
    """Refuses a number of evaluations for which there is no grid."""
    if evaluations > nodes:
        raise ValueError(f"evaluations: {evaluations} exceed the {nodes} nodes of the fine grid; use more nodes")
    if evaluations < 1 or evaluations % segments:
        least = max(1, evaluations // segments) * segments
        what = "is below 1" if evaluations < 1 else f"is not a multiple of the {segments} segments of the sampler"
        raise ValueError(f"evaluations: {evaluations} {what}; use {least}")


TOGETHER = 250
"""Examples that pass through the network at once."""


class Noises:
    """Source states of a run, each a function of the seed and its number, and paths from them without controls."""

    def __init__(self, flow: TrainedFlow, num: int, *, guidance: float, seed: int) -> None:
        self.flow, self.guidance, self.seed = flow, guidance, seed
        self.segments = segments_of(flow.sample.sampler)
        self._conditioning = flow.conditioning(num, seed=seed)

    def solutions(self, numbers: Tensor, nodes: int) -> list[FineSolution]:
        """Fine solutions of noises int64 [B], batch by batch."""
        settings = {"nodes": nodes, "segments": self.segments}
        return [fine_solution(*self._begun(own), **settings) for own in numbers.split(TOGETHER)]

    @torch.no_grad()
    def ends(self, numbers: Tensor, times: Tensor) -> Tensor:
        """Final states float32 [B, *D] by the Euler sampler on times [T] from 0 to 1, with the edges of segments."""
        euler = euler_of(self.flow.sample.sampler, Euler()).build(self.flow.parts.path)
        return torch.cat([euler.sample(*self._begun(own), times).final.cpu() for own in numbers.split(TOGETHER)])

    def decoded(self, states: Tensor, numbers: Tensor) -> Tensor:
        """The images or points [B, *shape] of states [B, *D] at the ends of paths."""
        rows, seen = numbers % len(self._conditioning.labels), self._conditioning.seen
        only = Conditioning(self._conditioning.condition.rows(rows), seen and seen.rows(rows))
        return self.flow.decode(self.flow.parts.data_of(states), only)

    def _begun(self, numbers: Tensor) -> tuple[Field, Tensor]:
        """The field and the source states of some numbers; if there are too few contexts, they are used in turn."""
        flow, condition = self.flow, self._conditioning.condition
        own = condition.rows(numbers % len(self._conditioning.labels)).to(flow.device)
        x_0 = flow.parts.starts(own, numbers, seed=self.seed).to(flow.device)
        return flow.parts.field(flow.model, own, self.guidance), x_0
