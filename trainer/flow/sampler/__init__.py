"""Samplers: the protocol, and the union `Config` of its kinds, a sampler in segments of time among them."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, cast

import torch
from pydantic import Field as Setting
from pydantic import field_validator
from torch import Tensor

from moe.seeds import fold_in
from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.path import Path as FlowPath
from trainer.flow.sampler.ode import Dopri5, Euler, FirstOrder, Heun
from trainer.flow.sampler.protocol import SAME_TIME, BuiltIn, Field, Sampler, Trajectory, VelocityField, check_times
from trainer.flow.sampler.sde import (
    Ancestral,
    EulerMaruyama,
    FlowGRPODiffusion,
    Memoryless,
    MemorylessDiffusion,
    Renoise,
    StochasticHeun,
    mean_log_density,
)
from trainer.flow.sampler.transition import CausalTransition, TokenField, Transition

Within = Euler | Heun | Dopri5 | FirstOrder | EulerMaruyama | StochasticHeun


class Segmented(BuiltIn):
    """Another sampler, applied to each of several equal segments of time in turn.

    Attributes:
        segments: number of segments.
        within: the other sampler; its number of steps is that of a segment. A file of grids covers the whole time.
    """

    kind: Literal["segmented"] = "segmented"
    segments: int = Setting(default=6, ge=1)
    within: Annotated[Within, Setting(discriminator="kind")] = Euler(steps=8)

    @field_validator("within")
    @classmethod
    def _has_the_times_of_a_segment(cls, within: Within) -> Within:
        if isinstance(within, FirstOrder) and within.trained_times is not None:
            raise ValueError(f"trained_times {within.trained_times} counts times of the whole path; use null here")
        if not isinstance(within, Dopri5) and isinstance(within.times, tuple):
            raise ValueError(f"times {list(within.times)} cover the whole path; use steps, or a file of the steps verb")
        return within

    def build(self, path: FlowPath) -> Self:
        return self.model_copy(update={"within": self.within.build(path)})

    def sample(self, field: Field, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:
        return in_segments(self.within, self.segments, field, x_init, times, keys=keys)

    @property
    def steps_file(self) -> Path | None:
        return self.within.steps_file

    def grid(self) -> Tensor:
        within = self.within
        if isinstance(within, Dopri5) or within.times is None:
            steps = 1 if isinstance(within, Dopri5) else within.steps
            return torch.linspace(0.0, 1.0, self.segments * steps + 1)
        return within.model_copy(update={"steps": self.segments * within.steps}).grid(self.segments)

    def calls(self) -> dict[str, int] | None:
        within = self.within.calls()
        return None if within is None else {part: self.segments * count for part, count in within.items()}

    def with_evaluations(self, evaluations: int) -> Self | None:
        if isinstance(self.within, Dopri5):
            return None
        within = self.within.with_evaluations(evaluations, self.segments)
        return None if within is None else self.model_copy(update={"within": within})


def in_segments(
    within: Sampler,
    segments: int,
    field: Field,
    x_init: Tensor,
    times: Tensor,
    *,
    keys: Tensor | None = None,
) -> Trajectory:
    """Follows the field `Field.within` of one segment after the other; a step across an edge is divided there."""
    check_times(times)
    grid, places = _with_edges(times, segments)
    numbers = ((grid[1:] + grid[:-1]) / 2 * segments).floor().clamp(0, segments - 1).int().tolist()
    states, calls, first = [x_init[None]], Counter[str](), 0
    for number, steps in groupby(numbers):
        end = first + len(list(steps))
        of_segment = None if keys is None else fold_in(keys, number)
        part = within.sample(field.within(number), states[-1][-1], grid[first : end + 1], keys=of_segment)
        states.append(part.x[1:])
        calls.update(part.calls)
        first = end
    return Trajectory(torch.cat(states)[places], times, dict(calls))


def _with_edges(times: Tensor, segments: int) -> tuple[Tensor, list[int]]:
    """The grid with the edges that it crosses added, and the places of the original times in it."""
    edges = torch.arange(1, segments, dtype=times.dtype, device=times.device) / segments
    new = (edges[:, None] - times).abs().amin(1) > SAME_TIME
    crossed = edges[new & (edges > times.min()) & (edges < times.max())]
    grid, order = torch.cat([times, crossed]).sort(descending=bool(times[0] > times[-1]))
    return grid, (order < len(times)).nonzero()[:, 0].tolist()


class OwnSampler(OwnClass, frozen=True):
    """A class that keeps `Sampler`; its constructor may take ``path``.

    A setting ``steps`` is the number of equal steps; a class without it chooses its steps itself.
    """

    protocol: ClassVar[str] = "trainer.flow.sampler.Sampler"
    passed: ClassVar[tuple[str, ...]] = ("path",)
    follows_velocity: ClassVar[bool] = True
    steps_file: ClassVar[None] = None

    def build(self, path: FlowPath) -> Sampler:
        made = build_own(self, path=path)
        return cast(Sampler, made.build(path)) if isinstance(made, BuiltIn) else made

    def grid(self) -> Tensor:
        return torch.linspace(0.0, 1.0, self.setting("steps", 1) + 1)

    def calls(self) -> dict[str, int] | None:
        a_step, steps = self._evaluations_per_step, self.setting("steps")
        return None if a_step is None or steps is None else {"network": a_step * steps}

    def with_evaluations(self, evaluations: int) -> Self | None:
        a_step = self._evaluations_per_step
        if a_step is None or self.setting("steps") is None or evaluations % a_step:
            return None
        return self.with_settings(steps=evaluations // a_step)

    @property
    def _evaluations_per_step(self) -> int | None:
        return getattr(self.imported(), "evaluations_per_step", None)


AnyConfig = Within | Renoise | Segmented | Transition | CausalTransition | OwnSampler
Config = Annotated[AnyConfig, KindOrClass()]
