"""Fields, the samplers that follow them, and times of their steps: equal, given, or searched and in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, cast

import torch
from pydantic import Field as Setting
from pydantic import PrivateAttr, field_validator, model_validator
from torch import Tensor

from netsim.foundation.documents import JsonFile
from netsim.foundation.refusal import Refusal, prefixed
from netsim.foundation.settings import Section
from trainer.flow.path.protocol import Path as FlowPath
from trainer.flow.target import Quantity

VelocityField = Callable[[Tensor, Tensor], Tensor]
"""From states [B, *D] and times [B] to velocities [B, *D], with condition and guidance already bound."""


class Field(Protocol):
    """The quantities that a network predicts at a state, with condition and guidance already bound."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        """Returns the velocity [B, *D] at states [B, *D] and times [B]."""
        ...

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        """Returns several quantities [B, *D] at states [B, *D] and times [B], from one evaluation of the network."""
        ...

    def within(self, segment: int, /) -> Field:  # noqa: ARG002
        """Returns the field of one segment of time, counted from 0 at the source, with both of its edges.

        A time at an edge belongs to two segments, so the sampler states which one it is in. A field that does not
        depend on segments returns itself.
        """
        return self


@dataclass(frozen=True)
class Trajectory:
    """The states of a batch along the time grid.

    Attributes:
        x: [T, B, *D] the state at every time of the grid.
        times: [T] the grid.
        calls: calls for the batch of each part of the model: ``network``, and ``head`` where one is called by itself.
    """

    x: Tensor
    times: Tensor
    calls: Mapping[str, int]

    @property
    def final(self) -> Tensor:
        return self.x[-1]


class Sampler(Protocol):
    """Follows a field from the first time of a grid to the last."""

    def sample(self, field: Field, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:
        """Integrates the field. The result has gradients, unless the call is inside `torch.no_grad()`.

        Args:
            field: the field; a solver of dx/dt = v evaluates only its velocity.
            x_init: [B, *D] states at `times[0]`.
            times: [T] strictly increasing (towards the data) or strictly decreasing, T >= 2, float32 or float64.
            keys: int64 [B] keys of the examples. The draws of a random sampler for an example are a function of its key
                and of no other example; deterministic samplers ignore the keys.

        Returns:
            The trajectory, in the type of `x_init`.

        Raises:
            ValueError: if `times` is not such a grid, or the sampler is random and `keys` is None.
        """
        ...


def check_times(times: Tensor) -> None:
    """Refuses, by a ValueError, a grid of fewer than two times, or one that is not strictly monotonic and finite."""
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(
            f"times: shape {tuple(times.shape)} is not that of a grid; give at least two times in one dimension"
        )
    steps = times.diff()
    if not (bool((steps > 0).all()) or bool((steps < 0).all())) or not bool(times.isfinite().all()):
        raise ValueError(f"times: {times.tolist()} is not strictly monotonic; sort the times and remove repeats")


class CountedField(Field):
    """A field that counts its evaluations, for a solver of dx/dt = v, which needs the velocity alone."""

    def __init__(self, field: VelocityField) -> None:
        self._field = field
        self._evaluations = 0

    @property
    def calls(self) -> dict[str, int]:
        """Calls by part, as `Trajectory.calls`: an evaluation of a field is one call of its network."""
        return {"network": self._evaluations}

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        self._evaluations += 1
        return self._field(x, t)

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        self._evaluations += 1
        return cast(Field, self._field).estimate(x, t, *quantities)


Times = tuple[float, ...] | Path | None
"""Times from 0 to 1, a file that the steps verb wrote, or None for equal steps."""


class BuiltIn(Section):
    """A sampler that is its settings, and is built on the path of the fields that it follows."""

    follows_velocity: ClassVar[bool] = True
    """Whether it follows the velocity from source to data, so that a solver of ordinary equations may replace it."""
    _path: FlowPath = PrivateAttr()

    def build(self, path: FlowPath) -> Self:
        built = self.model_copy()
        built._path = path
        return built

    @property
    def steps_file(self) -> Path | None:
        return None

    def grid(self) -> Tensor:
        """The configured grid [T] from source (0) to data (1), float32 on the CPU; a Refusal if its file lacks it."""
        return torch.linspace(0.0, 1.0, 2)

    def calls(self) -> dict[str, int] | None:
        """How often each part of a model is called for an example; None if the sampler chooses its steps itself."""
        return None

    def with_evaluations(self, evaluations: int) -> Self | None:  # noqa: ARG002
        """The same sampler with as many steps as take `evaluations` evaluations, 1 or more; None if no number does.

        Also None if the sampler's file of grids has none for this number, or if the sampler chooses its steps itself.
        Raises a Refusal for an unreadable file.
        """
        return None


class GridSampler(BuiltIn):
    """A sampler that stops at the times of a grid.

    Times that are written out decide the number of steps. Subclasses give `kind` and `steps` their values.

    Attributes:
        steps: number of steps from source to data.
        times: where the steps end, from 0 to 1, or a file of the steps verb; null: the steps are equal.
    """

    evaluations_per_step: ClassVar[int] = 1
    kind: str
    steps: int
    times: Times = None

    @model_validator(mode="before")
    @classmethod
    def _written_times_decide_the_steps(cls, document: Any) -> Any:
        times = document.get("times") if isinstance(document, dict) else None
        return {"steps": len(times) - 1, **document} if isinstance(times, list | tuple) else document

    @model_validator(mode="after")
    def _times_fit_the_steps(self) -> Self:
        if isinstance(self.times, tuple):
            with prefixed("times: "):
                check_grid(self.times)
            if len(self.times) - 1 != self.steps:
                raise ValueError(
                    f"steps: {self.steps}, and times holds {len(self.times)} times; leave out steps, or give "
                    f"{self.steps + 1} times"
                )
        return self

    @property
    def steps_file(self) -> Path | None:
        return self.times if isinstance(self.times, Path) else None

    def grid(self, segments: int = 1) -> Tensor:
        """The grid from 0 to 1; a grid that was searched must contain the edges of all equal `segments`."""
        match self.times:
            case None:
                return torch.linspace(0.0, 1.0, self.steps + 1)
            case tuple():
                return torch.tensor(self.times)
        grids = self.searched(segments)
        evaluations = self.steps * self.evaluations_per_step
        if evaluations not in grids:
            numbers = ", ".join(map(str, sorted(grids)))
            problem, remedy = f"has none for {evaluations} evaluations", f"use one of {numbers}, or search for more"
            raise Refusal(self.times, "grids", problem, remedy)
        times = torch.tensor(grids[evaluations])
        if len(times) - 1 != self.steps:
            problem = f"has {len(times) - 1} steps, and {evaluations} evaluations of {self.kind} are {self.steps}"
            raise Refusal(self.times, f"grids.{evaluations}", problem, "search again")
        for edge in (number / segments for number in range(1, segments)):
            if (times - edge).abs().min() > SAME_TIME:
                problem = f"has no time {edge:.4g}, where a segment ends"
                raise Refusal(self.times, f"grids.{evaluations}", problem, "search again")
        return times

    def searched(self, segments: int = 1) -> dict[int, tuple[float, ...]]:
        """The grids of the file, by evaluations; a Refusal if it is damaged, or for another sampler or segments."""
        assert isinstance(self.times, Path)
        file = StepsFile.read(self.times)
        for field, made_for, used in (("sampler", file.sampler, self.kind), ("segments", file.segments, segments)):
            if made_for != used:
                remedy = f"search with a run that samples by {field} {used}"
                raise Refusal(self.times, field, f"is {made_for}, and the samples are drawn by {used}", remedy)
        return file.grids

    def calls(self) -> dict[str, int] | None:
        return {"network": self.evaluations_per_step * self.steps}

    def with_evaluations(self, evaluations: int, segments: int = 1) -> Self | None:
        """The sampler whose steps take `evaluations` evaluations in all segments together; None if no number does."""
        if self.steps_file is not None and evaluations not in self.searched(segments):
            return None
        steps, rest = divmod(evaluations, segments * self.evaluations_per_step)
        fixed = isinstance(self.times, tuple) and steps != self.steps
        return None if rest or not steps or fixed else self.model_copy(update={"steps": steps})


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
    segments: int = Setting(default=1, ge=1)
    guidance: float = Setting(default=1.0, ge=0)
    grids: dict[int, tuple[float, ...]] = Setting(min_length=1)
    figures: dict[str, Any] = Setting(default_factory=dict)
    made_by: dict[str, Any] = Setting(default_factory=dict)

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
    """Refuses, by a ValueError, times that do not increase strictly from 0 to 1."""
    if len(times) < 2 or times[0] != 0 or times[-1] != 1:
        raise ValueError(f"{list(times)} does not lead from 0 to 1; begin with 0 and end with 1")
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise ValueError(f"{list(times)} is not strictly increasing; sort the times and remove repeats")
