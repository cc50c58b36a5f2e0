"""The search for the grids of a trained flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.config.constraints.drawing import check_drawn_by
from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.flow import Condition
from trainer.flow.sampler import AnyConfig, EulerConfig, SegmentedConfig
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.source import source_samples
from trainer.sampling.steps.chord import chord_grid
from trainer.sampling.steps.cost_matrix import cost_matrix
from trainer.sampling.steps.endpoint import endpoint_grid
from trainer.sampling.steps.fine import FineSolution, Grid, check_evaluations, fine_solution, uniform_grid
from trainer.sampling.steps.request import StepsRequest

TOGETHER = 250
"""Examples that pass through the network at once."""

Progress = Callable[[str], None]
"""Takes a line of text about the progress, for a person."""


@dataclass(frozen=True)
class Searched:
    """What a search has found for one number of evaluations.

    Attributes:
        uniform: nodes of the grid whose steps are equal, as far as whole nodes allow.
        chord: nodes of the grid whose steps together cost least.
        endpoint: nodes of the grid whose ends come nearest; None: not searched for.
        tried: grids that the search for the last one tried.
    """

    uniform: Grid
    chord: Grid
    endpoint: Grid | None
    tried: int

    @property
    def chosen(self) -> Grid:
        """The grid that was asked for."""
        return self.chord if self.endpoint is None else self.endpoint


def euler_of(own: AnyConfig, evaluations: int) -> EulerConfig | SegmentedConfig:
    """Euler's method as a run can follow it: segment by segment, where its own sampler does so.

    Args:
        own: the run's sampler.
        evaluations: of the field, a multiple of the segments.
    """
    if not isinstance(own, SegmentedConfig):
        return EulerConfig(steps=evaluations)
    return own.model_copy(update={"within": EulerConfig(steps=evaluations // own.segments)})


def segments_of(own: AnyConfig) -> int:
    """Segments of time that a sampler steps through; 1: the whole time."""
    return own.segments if isinstance(own, SegmentedConfig) else 1


def check_search(config: RunConfig, request: StepsRequest) -> None:
    """Refuses a search that the run does not allow.

    Args:
        config: the run.
        request: what is asked for.

    Raises:
        ValueError: names field, value and remedy.
    """
    assert isinstance(config.sample, ImageSample | PointSample)
    own = config.sample.sampler
    segments = segments_of(own)
    nodes = request.nodes_for(segments)
    if nodes % segments:
        remedy = f"use {-(-nodes // segments) * segments}, or leave it out"
        raise ValueError(f"nodes: {nodes} is no multiple of the {segments} segments of the run's sampler; {remedy}")
    for evaluations in request.evaluations:
        check_evaluations(evaluations, nodes, segments)
    guidance = config.sample.guidance if request.guidance is None else request.guidance
    check_drawn_by(config, euler_of(own, nodes), guidance)


class NoiseSet:
    """The noises and conditions of a run by number; what stands for number i depends on the seed and on i alone.

    Args:
        flow: the run and its network.
        num: noises in all.
        guidance: scale of classifier-free guidance.
        seed: of all draws.
    """

    def __init__(self, flow: TrainedFlow, num: int, *, guidance: float, seed: int) -> None:
        self.flow, self.guidance, self.seed = flow, guidance, seed
        self.conditioning = flow.conditioning(num, seed=seed)

    def condition(self, numbers: torch.Tensor) -> Condition:
        """Conditions of some noises; where there are fewer contexts than noises, they are used again in turn."""
        return self.conditioning.condition.rows(numbers % len(self.conditioning.labels))

    def solutions(self, numbers: torch.Tensor, nodes: int, progress: Callable[[int], None]) -> list[FineSolution]:
        """Fine solutions from noises.

        Args:
            numbers: int64 [B] of the noises.
            nodes: steps of the fine grid.
            progress: called with the number of noises that are done.
        """
        flow, segments, found = self.flow, segments_of(self.flow.sample.sampler), []
        for own in numbers.split(TOGETHER):
            field = flow.parts.field(flow.model, self.condition(own).to(flow.device), self.guidance)
            x_0 = source_samples(flow.config, own, seed=self.seed).to(flow.device)
            found.append(fine_solution(field, x_0, nodes=nodes, segments=segments))
            progress(sum(one.states.shape[1] for one in found))
        return found


@dataclass(frozen=True)
class Search:
    """The grids of a run.

    Attributes:
        cost: float64 [T, T], see `cost_matrix`.
        found: by number of evaluations.
    """

    cost: NDArray[np.float64]
    found: dict[int, Searched]


def search(solutions: Sequence[FineSolution], request: StepsRequest, progress: Progress = lambda _: None) -> Search:
    """Searches a grid for each number of evaluations.

    Args:
        solutions: from the noises of the search.
        request: what is asked for.
        progress: called with what is being done.
    """
    progress("costs of steps")
    cost, nodes, found = cost_matrix(solutions), solutions[0].nodes, {}
    for evaluations in request.evaluations:
        uniform, chord = uniform_grid(nodes, evaluations), chord_grid(cost, evaluations)
        one = Searched(uniform, chord, None, 0)
        if request.search == "endpoint":

            def told(tried: int, number: int = evaluations) -> None:
                progress(f"{number} evaluations: {tried} grids tried")

            best = endpoint_grid(solutions, (uniform, chord), progress=told)
            one = replace(one, endpoint=best.grid, tried=best.tried)
        found[evaluations] = one
    return Search(cost, found)
