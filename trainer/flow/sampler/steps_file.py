"""Grids of times that were searched for a trained flow: a file of the format ``flowfabric.steps/1``."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from netsim.foundation.documents import JsonFile

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
    """Refuses times that do not lead from source to data.

    Args:
        times: of a grid.

    Raises:
        ValueError: there are fewer than two, they do not begin at 0 and end at 1, or one is not above that before it.
    """
    if len(times) < 2 or times[0] != 0 or times[-1] != 1:
        raise ValueError(f"{list(times)} does not lead from 0 to 1; begin with 0 and end with 1")
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise ValueError(f"{list(times)} is not strictly increasing; sort the times and remove repeats")
