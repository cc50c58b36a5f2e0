"""The search for the grids of a trained flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.config.derived import with_controls
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import Objections, caught
from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample, PointSample
from trainer.flow.sampler import EulerConfig
from trainer.sampling.searched import euler_of, segments_of
from trainer.sampling.steps.chord import chord_grid
from trainer.sampling.steps.cost_matrix import cost_matrix
from trainer.sampling.steps.endpoint import endpoint_grid
from trainer.sampling.steps.fine import FineSolution, Grid, check_evaluations, uniform_grid
from trainer.sampling.steps.request import StepsRequest

Progress = Callable[[str], None]
"""Takes a line of text about the progress, for a person."""


@dataclass(frozen=True)
class Search:
    """The grids of a flow, by number of evaluations and by kind: ``uniform``, ``chord`` and, if searched, ``endpoint``.

    `cost` is float64 [T, T]; `tried` counts the grids that the search for ``endpoint`` has tried.
    """

    cost: NDArray[np.float64]
    grids: dict[int, dict[str, Grid]]
    tried: dict[int, int]

    @property
    def nodes(self) -> int:
        """Steps of the fine grid."""
        return len(self.cost) - 1


def of_search(config: RunConfig, request: StepsRequest) -> Objections:
    """A search that the run does not allow."""
    assert isinstance(config.sample, ImageSample | PointSample)
    own = config.sample.sampler
    segments = segments_of(own)
    nodes = request.nodes_for(segments)
    if nodes % segments:
        problem = f"{nodes} is not a multiple of the {segments} segments of the run's sampler"
        yield "nodes", problem, f"use {-(-nodes // segments) * segments}, or leave it out"
    for evaluations in request.evaluations:
        yield from caught(check_evaluations, evaluations, nodes, segments)
    yield from of_drawn(with_controls(config, ()), euler_of(own, EulerConfig()), request.guidance_for(config.sample))


def search(solutions: Sequence[FineSolution], request: StepsRequest, progress: Progress = lambda _: None) -> Search:
    """Searches a grid for each number of evaluations; all solutions are on one fine grid."""
    progress("costs of steps")
    cost, nodes = cost_matrix(solutions), solutions[0].nodes
    grids, tried = {}, {}
    for evaluations in request.evaluations:
        found = {"uniform": uniform_grid(nodes, evaluations), "chord": chord_grid(cost, evaluations)}
        if request.search == "endpoint":

            def tell(number: int, evaluations: int = evaluations) -> None:
                progress(f"{evaluations} evaluations: {number} grids tried")

            best = endpoint_grid(solutions, tuple(found.values()), progress=tell)
            found["endpoint"], tried[evaluations] = best.grid, best.tried
        grids[evaluations] = found
    return Search(cost, grids, tried)
