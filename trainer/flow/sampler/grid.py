"""Times of a sampler's steps: equal, given, or searched, and the file of searched ones."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from netsim.foundation.documents import JsonFile
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section

Times = tuple[float, ...] | Path | None
"""Times from 0 to 1, a file that the steps verb wrote, or None for equal steps."""


class GridConfig(Section):
    """Settings of a sampler that stops at the times of a grid.

    Subclasses have the fields ``kind``, ``steps`` and ``times``. Times that are written out decide the number of steps.
    """

    if TYPE_CHECKING:  # fields of the subclasses, which give them their place in the YAML

        @property
        def kind(self) -> str:
            """Name of the sampler."""
            ...

        @property
        def steps(self) -> int:
            """Steps from source to data."""
            ...

        @property
        def times(self) -> Times:
            """Where they end; None: the steps are equal."""
            ...

    @model_validator(mode="before")
    @classmethod
    def _written_times_decide_the_steps(cls, document: Any) -> Any:
        times = document.get("times") if isinstance(document, dict) else None
        return {"steps": len(times) - 1, **document} if isinstance(times, list | tuple) else document

    @model_validator(mode="after")
    def _times_fit_the_steps(self) -> GridConfig:
        if isinstance(self.times, tuple):
            try:
                check_grid(self.times)
            except ValueError as error:
                raise ValueError(f"times: {error}") from error
            if len(self.times) - 1 != self.steps:
                raise ValueError(
                    f"steps: {self.steps}, and times holds {len(self.times)} times; leave out steps, or give "
                    f"{self.steps + 1} times"
                )
        return self


def grid_times(config: GridConfig, *, evaluations_per_step: int, segments: int = 1) -> Tensor:
    """The grid of a sampler in equal segments of time, float32 [steps + 1] on the CPU, from 0 to 1.

    Raises:
        Refusal: the file of the grids is missing or malformed, or has none for this sampler and number of steps.
    """
    match config.times:
        case None:
            return torch.linspace(0.0, 1.0, config.steps + 1)
        case tuple():
            return torch.tensor(config.times)
    grids = searched_grids(config, segments)
    evaluations = config.steps * evaluations_per_step
    if evaluations not in grids:
        numbers = ", ".join(map(str, sorted(grids)))
        problem, remedy = f"has none for {evaluations} evaluations", f"use one of {numbers}, or search for more"
        raise Refusal(config.times, "grids", problem, remedy)
    times = torch.tensor(grids[evaluations])
    if len(times) - 1 != config.steps:
        problem = f"has {len(times) - 1} steps, and {evaluations} evaluations of {config.kind} are {config.steps}"
        raise Refusal(config.times, f"grids.{evaluations}", problem, "search again")
    for edge in (number / segments for number in range(1, segments)):
        if (times - edge).abs().min() > SAME_TIME:
            problem = f"has no time {edge:.4g}, where a segment ends"
            raise Refusal(config.times, f"grids.{evaluations}", problem, "search again")
    return times


def searched_grids(config: GridConfig, segments: int = 1) -> dict[int, tuple[float, ...]]:
    """The grids of the file that a sampler names, by evaluations of the field.

    Raises:
        Refusal: the file is missing or malformed, or its grids are those of another sampler or of other segments.
    """
    assert isinstance(config.times, Path)
    file = StepsFile.read(config.times)
    for field, made_for, used in (("sampler", file.sampler, config.kind), ("segments", file.segments, segments)):
        if made_for != used:
            remedy = f"search with a run that samples by {field} {used}"
            raise Refusal(config.times, field, f"is {made_for}, and the samples are drawn by {used}", remedy)
    return file.grids


FORMAT = "flowfabric.steps/1"
SAME_TIME = 1e-6
"""A time that is nearer to an edge of a segment counts as the edge."""


class StepsFile(JsonFile):
    """Grids of times for one sampler, by the number of evaluations that each takes.

    Attributes:
        format: name and version of the format.
        sampler: kind of the sampler that the grids were searched for.
        segments: equal segments of time whose edges every grid holds; 1: the whole time.
        guidance: scale of classifier-free guidance that they were searched at.
        grids: evaluations of the field to times from 0 to 1, strictly increasing.
        figures: what was measured of each grid and of its rivals.
        made_by: what decided the grids: digest of the weights, search, seed and numbers.
    """

    remedy: ClassVar[str] = "write it with python -m trainer steps"
    format: Literal["flowfabric.steps/1"] = FORMAT
    sampler: str
    segments: int = Field(default=1, ge=1)
    guidance: float = Field(default=1.0, ge=0)
    grids: dict[int, tuple[float, ...]] = Field(min_length=1)
    figures: dict[str, Any] = Field(default_factory=dict)
    made_by: dict[str, Any] = Field(default_factory=dict)

    @field_validator("grids")
    @classmethod
    def _lead_from_source_to_data(cls, grids: dict[int, tuple[float, ...]]) -> dict[int, tuple[float, ...]]:
        for evaluations, times in grids.items():
            if evaluations < 1:
                raise ValueError(f"{evaluations} evaluations are below 1; give grids by 1 or more")
            check_grid(times)
            if evaluations % (len(times) - 1):
                raise ValueError(
                    f"{evaluations} evaluations do not divide among {len(times) - 1} steps; correct either"
                )
        return grids


def check_grid(times: tuple[float, ...]) -> None:
    """Refuses, by a ValueError, times that do not lead from 0 to 1, each above that before it."""
    if len(times) < 2 or times[0] != 0 or times[-1] != 1:
        raise ValueError(f"{list(times)} does not lead from 0 to 1; begin with 0 and end with 1")
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise ValueError(f"{list(times)} is not strictly increasing; sort the times and remove repeats")
