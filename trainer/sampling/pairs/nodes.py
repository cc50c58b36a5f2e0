"""Nodes: times at which the trajectories of a teacher are cut into pairs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from netsim.foundation.refusal import Refusal
from trainer.flow.sampler.grid import SAME_TIME, StepsFile, check_grid

LEAST_INTERVAL = 1e-3
"""A whole path cannot be told from two states that are closer in time: their difference has lost its digits."""


def searched_nodes(path: Path, evaluations: int, guidance: float) -> tuple[float, ...]:
    """The grid of a number of evaluations in a file of the steps verb, searched with this guidance."""
    file = StepsFile.read(path)
    if evaluations not in file.grids:
        numbers = ", ".join(map(str, sorted(file.grids)))
        problem, remedy = f"has none for {evaluations} evaluations", f"use one of {numbers}, or search for more"
        raise Refusal(path, "grids", problem, remedy)
    if file.guidance != guidance:
        problem = f"is {file.guidance:g}, and the teacher is followed with {guidance:g}"
        raise Refusal(path, "guidance", problem, "use one guidance for the search and for the pairs")
    return file.grids[evaluations]


def places_of(nodes: Sequence[float], grid: Tensor) -> tuple[int, ...]:
    """Places of nodes in the grid [T] of times that a teacher is followed on: increasing from 0 to T - 1."""
    check_grid(tuple(nodes))
    for start, end in pairwise(nodes):
        if end - start < LEAST_INTERVAL:
            raise ValueError(
                f"{start:g} and {end:g} are less than {LEAST_INTERVAL:g} apart, so that rounding would spoil the "
                "difference of their states; use fewer nodes"
            )
    distances = [(grid.double() - node).abs() for node in nodes]
    for node, distance in zip(nodes, distances, strict=True):
        if float(distance.min()) > SAME_TIME:
            raise ValueError(
                f"{node:g} is not a time of the sampler's grid of {len(grid) - 1} steps; use a sampler of finer steps, "
                "such as {kind: euler, steps: 100}, and nodes among its times"
            )
    return tuple(int(distance.argmin()) for distance in distances)
