"""The grid whose end lies nearest to the end of the fine solution, by coordinate descent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.flow.sampler import Field
from trainer.sampling.steps.fine import FineSolution, Grid


class Found(NamedTuple):
    """Result of a search: grid, mean squared distance summed over the values of a state, and number of grids tried."""

    grid: Grid
    error: float
    tried: int


def endpoint_grid(
    solutions: Sequence[FineSolution],
    starts: Sequence[Grid],
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> Found:
    """Moves one node after the other for as long as the ends come nearer to those of the fine solution.

    A node moves by a number of places that is halved when no move helps; the states before it are kept. The edges of
    segments stay. The result, the best of the descents from all starts, is no worse on these noises than any start.
    """
    best: Found | None = None
    for start in dict.fromkeys(starts):
        tried = 0 if best is None else best.tried
        found = _descend(solutions, start, tried, progress)
        if best is None or found.error < best.error:
            best = found
        best = best._replace(tried=found.tried)
    assert best is not None, "there is a start"
    return best


@torch.no_grad()
def endpoint_error(solutions: Sequence[FineSolution], grid: Grid) -> float:
    """The mean squared distance of a grid's ends to those of the fine solution, summed over the values of a state."""
    return _Ladder.along(solutions, grid).error


class _Point(NamedTuple):
    """Where a step begins: states and velocities [B, *D] of it, and the field that goes on from there."""

    node: int
    x: Tensor
    velocity: Tensor
    field: Field


class _Ladder(NamedTuple):
    """The points of a grid from the noises of each solution, and the error at its end."""

    grid: Grid
    points: list[list[_Point]]
    error: float

    @classmethod
    def along(
        cls, solutions: Sequence[FineSolution], grid: Grid, kept: Sequence[list[_Point]] | None = None
    ) -> _Ladder:
        """Follows a grid; `kept` are the first points of each solution, as far as they are those of the grid."""
        points, total = [], 0.0
        for solution, first in zip(solutions, kept or [[]] * len(solutions), strict=True):
            own, end = _followed(solution, grid, first)
            points.append(own)
            missed = (end - solution.states[-1]).flatten()
            total += float(torch.linalg.vector_norm(missed, dtype=torch.float64).square())
        return cls(grid, points, total / sum(solution.states.shape[1] for solution in solutions))


def _followed(solution: FineSolution, grid: Grid, first: list[_Point]) -> tuple[list[_Point], Tensor]:
    """The points of a grid and the states at its end, of which the first points are known."""
    points, times = list(first), solution.times
    x, field = solution.states[0], solution.field
    for number, node in enumerate(grid[len(points) :], start=len(points)):
        if number:
            last = points[-1]
            x, field = last.x + (times[node] - times[last.node]) * last.velocity, last.field
        if node == solution.nodes:
            break
        field = solution.field_from(node, field)
        points.append(_Point(node, x, field(x, times[node].expand(len(x))).to(x.dtype), field))
    return points, x


@torch.no_grad()
def _descend(solutions: Sequence[FineSolution], start: Grid, tried: int, progress: Callable[[int], None]) -> Found:
    nodes, segments = solutions[0].nodes, solutions[0].segments
    best = _Ladder.along(solutions, start)
    tried += 1
    movable = [place for place, node in enumerate(start) if node % (nodes // segments)]
    reach = max(1, nodes // (2 * (len(start) - 1)))
    while reach:
        moved = False
        for place in movable:
            for move in (-reach, reach):
                node = best.grid[place] + move
                if not best.grid[place - 1] < node < best.grid[place + 1]:
                    continue
                grid = (*best.grid[:place], node, *best.grid[place + 1 :])
                other = _Ladder.along(solutions, grid, [points[:place] for points in best.points])
                tried += 1
                progress(tried)
                if other.error < best.error:
                    best, moved = other, True
        if not moved:
            reach //= 2
    return Found(best.grid, best.error, tried)
