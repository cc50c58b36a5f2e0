"""A sampler whose steps do not cross the edges of segments of time."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Annotated, Literal

import torch
from pydantic import Field as Setting
from pydantic import field_validator
from torch import Tensor

from moe.seeds import fold_in
from netsim.foundation.settings import Section
from trainer.flow.sampler.grid import SAME_TIME
from trainer.flow.sampler.ode import Dopri5Config, EulerConfig, FirstOrderConfig, HeunConfig
from trainer.flow.sampler.protocol import Field, Sampler, Trajectory, check_times
from trainer.flow.sampler.sde import EulerMaruyamaConfig, StochasticHeunConfig

Within = EulerConfig | HeunConfig | Dopri5Config | FirstOrderConfig | EulerMaruyamaConfig | StochasticHeunConfig


class SegmentedConfig(Section):
    """Another sampler, applied to each of several equal segments of time in turn.

    Attributes:
        segments: number of segments.
        within: the other sampler; its number of steps is that of a segment. A file of grids covers the whole time.
    """

    kind: Literal["segmented"] = "segmented"
    segments: int = Setting(default=6, ge=1)
    within: Annotated[Within, Setting(discriminator="kind")] = EulerConfig(steps=8)

    @field_validator("within")
    @classmethod
    def _has_the_times_of_a_segment(cls, within: Within) -> Within:
        if isinstance(within, FirstOrderConfig) and within.trained_times is not None:
            raise ValueError(f"trained_times {within.trained_times} counts times of the whole path; use null here")
        if not isinstance(within, Dopri5Config) and isinstance(within.times, tuple):
            raise ValueError(f"times {list(within.times)} cover the whole path; use steps, or a file of the steps verb")
        return within


class Segmented(Sampler):
    """Follows the field `Field.within` of one segment after the other, so that no stage of a step crosses an edge."""

    def __init__(self, within: Sampler, segments: int) -> None:
        self.inner = within
        self.segments = segments

    def sample(self, field: Field, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:
        """A step across an edge is divided there into two."""
        check_times(times)
        grid, places = self._with_edges(times)
        numbers = ((grid[1:] + grid[:-1]) / 2 * self.segments).floor().clamp(0, self.segments - 1).int().tolist()
        states, calls, first = [x_init[None]], Counter[str](), 0
        for number, steps in groupby(numbers):
            end = first + len(list(steps))
            own = None if keys is None else fold_in(keys, number)
            part = self.inner.sample(field.within(number), states[-1][-1], grid[first : end + 1], keys=own)
            states.append(part.x[1:])
            calls.update(part.calls)
            first = end
        return Trajectory(torch.cat(states)[places], times, dict(calls))

    def _with_edges(self, times: Tensor) -> tuple[Tensor, list[int]]:
        """The grid with the edges that it crosses added, and the places of the original times in it."""
        edges = torch.arange(1, self.segments, dtype=times.dtype, device=times.device) / self.segments
        new = (edges[:, None] - times).abs().amin(1) > SAME_TIME
        crossed = edges[new & (edges > times.min()) & (edges < times.max())]
        grid, order = torch.cat([times, crossed]).sort(descending=bool(times[0] > times[-1]))
        return grid, (order < len(times)).nonzero()[:, 0].tolist()
