"""Request for pairs of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

import trainer.flow.sampler
from netsim.foundation.refusal import Refusal, prefixed, problem_and_remedy
from netsim.foundation.settings import Section
from trainer.flow.sampler.protocol import SAME_TIME, StepsFile, check_grid

LEAST_INTERVAL = 1e-3
"""Least difference in time of two states; between closer ones rounding hides the path."""


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


class PairsRequest(Section):
    """Pairs of source and data points, drawn with the averaged weights of a run's newest whole checkpoint."""

    run: Path
    """Folder of the teacher's run."""
    num: PositiveInt
    """Pairs to draw, the classes in turn; with segments, the segments in turn, each pair with the class of its
    example."""
    sampler: trainer.flow.sampler.Config = trainer.flow.sampler.Dopri5()
    """How the teacher's field is followed; a coarse one bakes its error into the pairs."""
    guidance: float = Field(default=1.0, ge=0)
    """Scale of classifier-free guidance of the teacher; the student learns it, and needs none of its own."""
    seed: NonNegativeInt = 0
    """Seed of all draws."""
    segments: PositiveInt | None = None
    """Number of parts that time is cut into; each pair holds the ends of one part, from noised examples of the
    teacher's data. null: pairs are whole paths from noise, unless there are nodes."""
    nodes: tuple[float, ...] | Path | None = None
    """Cut time at these times from 0 to 1, which are times of the sampler's grid; or a file of the steps verb, whose
    grid of so many `evaluations` is used. Each pair holds the states at two neighbouring nodes."""
    evaluations: PositiveInt | None = None
    """Number of evaluations whose grid in the file of `nodes` is used."""
    begin: Literal["noise", "data"] = "noise"
    """Where the states at nodes come from. noise: the teacher is followed from noise to its last node, and its
    intervals make pairs in turn; data: the first state of each pair is a noised example of the teacher's data."""
    dtype: Literal["float32", "float16"] = "float32"
    """Number format of the files; float16 is for images."""
    shard_examples: PositiveInt = 4096
    """Pairs of a file; ranks share the work file by file."""

    @model_validator(mode="after")
    def _steps_divide_among_the_segments(self) -> PairsRequest:
        if self.segments is None:
            return self
        if self.num < self.segments:
            raise ValueError(f"num: {self.num} leave some of the {self.segments} segments without a pair; draw more")
        steps = len(self.sampler.grid()) - 1
        if steps % self.segments and steps > 1:
            raise ValueError(
                f"segments: {self.segments} do not divide the {steps} steps of the sampler; use a divisor, or other "
                "sampler.steps"
            )
        return self

    @model_validator(mode="after")
    def _nodes_stand_alone(self) -> PairsRequest:
        if self.nodes is None:
            if self.evaluations is not None:
                raise ValueError(
                    f"evaluations: {self.evaluations} choose a grid from a file of nodes, and there is none; give nodes"
                )
            if self.begin != "noise":
                raise ValueError(f"begin: {self.begin} is for nodes; give nodes, or leave it out")
            return self
        if self.segments is not None:
            raise ValueError(f"segments: {self.segments} cut time into equal parts, and nodes cut it too; give one")
        if self.dtype != "float32":
            raise ValueError(f"dtype: {self.dtype} is too coarse for the difference of near states; use float32")
        if isinstance(self.nodes, tuple):
            if self.evaluations is not None:
                raise ValueError(f"evaluations: {self.evaluations} go with a file of nodes; leave them out")
            with prefixed("nodes: "):
                self._check_nodes(self.nodes)
        elif self.evaluations is None:
            raise ValueError(f"evaluations: must be given to choose one of the grids in {self.nodes}; use 4, say")
        return self

    def resolved(self) -> PairsRequest:
        """The same request with the nodes of its file written out."""
        if not isinstance(self.nodes, Path):
            return self
        assert self.evaluations is not None
        nodes = searched_nodes(self.nodes, self.evaluations, self.guidance)
        try:
            self._check_nodes(nodes)
        except ValueError as error:
            raise Refusal(self.nodes, f"grids.{self.evaluations}", *problem_and_remedy(error)) from error
        return self.model_copy(update={"nodes": nodes, "evaluations": None})

    @property
    def begins_at_data(self) -> bool:
        """Whether pairs begin at noised examples of the teacher's data."""
        return self.segments is not None or self.begin == "data"

    @property
    def cuts_paths(self) -> bool:
        """Whether each pair holds the ends of a part of a path."""
        return self.segments is not None or self.nodes is not None

    @property
    def places(self) -> tuple[int, ...]:
        """Places of a resolved request's nodes in the time grid of its sampler; from 0 to the last."""
        assert isinstance(self.nodes, tuple)
        return places_of(self.nodes, self.sampler.grid())

    @property
    def node_times(self) -> list[float] | None:
        """The times of the sampler's grid that are the nodes of a resolved request; None: there are none."""
        if self.nodes is None:
            return None
        parts = self.parts()
        return [*(float(times[0]) for times in parts), float(parts[-1][-1])]

    def parts(self) -> list[Tensor]:
        """The teacher's times in each part of a path, both ends included; of a resolved request."""
        grid = self.sampler.grid()
        if isinstance(self.sampler, trainer.flow.sampler.Segmented):
            edges = torch.arange(self.sampler.segments + 1, dtype=grid.dtype) / self.sampler.segments
            distance, nearest = (grid[:, None] - edges).abs().min(dim=1)
            grid = torch.where(distance <= SAME_TIME, edges[nearest], grid)
        if self.nodes is not None:
            return [grid[first : last + 1] for first, last in pairwise(self.places)]
        assert self.segments is not None
        steps = (len(grid) - 1) // self.segments
        if steps == 0:
            grid, steps = torch.linspace(0.0, 1.0, self.segments + 1), 1
        return [grid[number * steps : (number + 1) * steps + 1] for number in range(self.segments)]

    def _check_nodes(self, nodes: tuple[float, ...]) -> None:
        places_of(nodes, self.sampler.grid())
        if self.num < len(nodes) - 1:
            raise ValueError(f"{self.num} pairs leave some of the {len(nodes) - 1} intervals without one; draw more")

    def what_decides(self, weights: str, source: dict[str, Any] | None) -> dict[str, Any]:
        """Everything that the pairs of a resolved request depend on; paths begin at `source`, None: at noise."""
        begins: dict[str, Any] = {} if source is None else {"source": source}
        if self.sampler.steps_file is not None:
            begins["times"] = self.sampler.grid().tolist()
        fields = self.model_dump(mode="json", exclude={"run", "nodes", "evaluations", "begin"})
        at_nodes = {} if self.nodes is None else {"nodes": self.node_times, "begin": self.begin}
        return {"weights": weights, **begins, **fields, **at_nodes}
