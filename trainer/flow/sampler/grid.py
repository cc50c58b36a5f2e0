"""The times at which a sampler stops: equal steps, times that are written out, or a file of searched grids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import model_validator
from torch import Tensor

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.flow.sampler.steps_file import SAME_TIME, StepsFile, check_grid

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
    """The grid of a sampler.

    Args:
        config: its settings.
        evaluations_per_step: of the field.
        segments: equal segments of time that the sampler is used in.

    Returns:
        float32 [steps + 1] on the CPU, from 0 to 1.

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

    Args:
        config: its settings, whose `times` is a file.
        segments: equal segments of time that the sampler is used in.

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
