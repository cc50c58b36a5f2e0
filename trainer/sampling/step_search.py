"""Search for grids of few steps whose ends are near those of the fine solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.config.derived import with_controls
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import Objections, caught
from trainer.config.rules.states import of_pictures_alone
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.flow import sampler
from trainer.sampling.fine_grid import FineSolution, Grid, check_evaluations, entered, uniform_grid
from trainer.sampling.sampler_choice import euler_of, segments_of

NODES = 100


class StepsRequest(Section):
    """Grids of times for the averaged weights of a run's newest whole checkpoint."""

    run: Path
    """Folder of the run."""
    evaluations: tuple[PositiveInt, ...] = Field(default=(2, 4, 6, 8), min_length=1)
    """Evaluations of the field, one a step; a grid is searched for each."""
    search: Literal["endpoint", "chord"] = "endpoint"
    """Aim of the search. endpoint: the ends come near to the ends of the fine grid; chord: the steps together cost
    least."""
    nodes: PositiveInt | None = None
    """Equal steps of the fine grid; null: 100, or the next multiple of the segments that the run samples by."""
    num: PositiveInt = 100
    """Noises that the grids are searched with."""
    fresh: int = Field(default=1000, ge=2)
    """Other noises that the grids are measured with."""
    guidance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Scale of classifier-free guidance; null: that of the run."""
    seed: NonNegativeInt = 0
    """Seed of the noises."""

    @field_validator("evaluations")
    @classmethod
    def _stand_there_once(cls, evaluations: tuple[int, ...]) -> tuple[int, ...]:
        for number in evaluations:
            if evaluations.count(number) > 1:
                raise ValueError(f"{number} is given twice; give each number once")
        return tuple(sorted(evaluations))

    def nodes_for(self, segments: int) -> int:
        return -(-NODES // segments) * segments if self.nodes is None else self.nodes

    def guidance_for(self, sample: FlowSample) -> float:
        return sample.guidance if self.guidance is None else self.guidance


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
    """Costs of the steps from node `start` to each node from the second after it up to `end`."""
    total, number = np.zeros(end - start - 1), 0
    for solution in solutions:
        x, lengths = solution.states, solution.times[start + 2 : end + 1] - solution.times[start]
        steps = lengths.reshape(-1, *[1] * (x.ndim - 1)) * solution.velocities[start]
        missed = (x[start] + steps - x[start + 2 : end + 1]).flatten(1)
        total += torch.linalg.vector_norm(missed, dim=1, dtype=torch.float64).square().cpu().numpy()
        number += x.shape[1]
    return total / number


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


class Descent(NamedTuple):
    """Result of a search: grid, mean squared distance summed over the values of a state, and number of grids tried."""

    grid: Grid
    error: float
    tried: int


def endpoint_grid(
    solutions: Sequence[FineSolution],
    starts: Sequence[Grid],
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> Descent:
    """Moves one node after the other for as long as the ends come nearer to those of the fine solution.

    A node moves by a number of places that is halved when no move helps; the states before it are kept. The edges of
    segments stay. The result, the best of the descents from all starts, is no worse on these noises than any start.
    """
    descents: list[Descent] = []
    for start in dict.fromkeys(starts):
        descents.append(_descend(solutions, start, descents[-1].tried if descents else 0, progress))
    return min(descents, key=lambda one: one.error)._replace(tried=descents[-1].tried)


@torch.no_grad()
def endpoint_error(solutions: Sequence[FineSolution], grid: Grid) -> float:
    """The mean squared distance of a grid's ends to those of the fine solution, summed over the values of a state."""
    return _Ladder.along(solutions, grid).error


class _Point(NamedTuple):
    """The start of a step: its states and velocities [B, *D], and the field of the step."""

    node: int
    x: Tensor
    velocity: Tensor
    field: sampler.Field


class _Ladder(NamedTuple):
    """The states along a grid, from the noises of each solution, and the error at its end."""

    grid: Grid
    points: list[list[_Point]]
    error: float

    @classmethod
    def along(
        cls, solutions: Sequence[FineSolution], grid: Grid, kept: Sequence[list[_Point]] | None = None
    ) -> _Ladder:
        """Follows a grid; `kept` are known first points of each solution, which the grid shares."""
        points, total = [], 0.0
        for solution, first in zip(solutions, kept or [[]] * len(solutions), strict=True):
            own, end = _followed(solution, grid, first)
            points.append(own)
            missed = (end - solution.states[-1]).flatten()
            total += float(torch.linalg.vector_norm(missed, dtype=torch.float64).square())
        return cls(grid, points, total / sum(solution.states.shape[1] for solution in solutions))


def _followed(solution: FineSolution, grid: Grid, first: list[_Point]) -> tuple[list[_Point], Tensor]:
    """The points along a grid and the states at its end, given the first points."""
    points, times = list(first), solution.times
    x, field = solution.states[0], solution.field
    for number, node in enumerate(grid[len(points) :], start=len(points)):
        if number:
            last = points[-1]
            x, field = last.x + (times[node] - times[last.node]) * last.velocity, last.field
        if node == solution.nodes:
            break
        field = entered(solution.field, node, solution.nodes, solution.segments, field)
        points.append(_Point(node, x, field(x, times[node].expand(len(x))).to(x.dtype), field))
    return points, x


@torch.no_grad()
def _descend(solutions: Sequence[FineSolution], start: Grid, tried: int, progress: Callable[[int], None]) -> Descent:
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
    return Descent(best.grid, best.error, tried)


Progress = Callable[[str], None]
"""Reports the current work as a line of text."""


@dataclass(frozen=True)
class Search:
    """The grids of a flow, by number of evaluations and by kind: ``uniform``, ``chord`` and, if searched, ``endpoint``.

    `cost` is float64 [T, T].
    """

    cost: NDArray[np.float64]
    grids: dict[int, dict[str, Grid]]

    @property
    def nodes(self) -> int:
        """Number of steps of the fine grid."""
        return len(self.cost) - 1


def of_search(config: RunConfig, request: StepsRequest) -> Objections:
    """Yields objections to a search that does not suit the run."""
    assert isinstance(config.sample, FlowSample)
    yield from of_pictures_alone(config, "steps")
    own = config.sample.sampler
    segments = segments_of(own)
    nodes = request.nodes_for(segments)
    if nodes % segments:
        problem = f"{nodes} is not a multiple of the {segments} segments of the run's sampler"
        yield "nodes", problem, f"use {-(-nodes // segments) * segments}, or leave it out"
    for evaluations in request.evaluations:
        yield from caught(check_evaluations, evaluations, nodes, segments)
    yield from of_drawn(with_controls(config, ()), euler_of(own, sampler.Euler()), request.guidance_for(config.sample))


def search(solutions: Sequence[FineSolution], request: StepsRequest, progress: Progress = lambda _: None) -> Search:
    """Searches a grid for each number of evaluations; all solutions are on one fine grid."""
    progress("costs of steps")
    cost, nodes = cost_matrix(solutions), solutions[0].nodes
    grids = {}
    for evaluations in request.evaluations:
        searched = {"uniform": uniform_grid(nodes, evaluations), "chord": chord_grid(cost, evaluations)}
        if request.search == "endpoint":

            def show(number: int, evaluations: int = evaluations) -> None:
                progress(f"{evaluations} evaluations: {number} grids tried")

            searched["endpoint"] = endpoint_grid(solutions, tuple(searched.values()), progress=show).grid
        grids[evaluations] = searched
    return Search(cost, grids)
