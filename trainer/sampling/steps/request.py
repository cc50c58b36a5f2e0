"""What is asked of a search for step sizes."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from netsim.foundation.settings import Section
from trainer.config.sample import FlowSample

NODES = 100


class StepsRequest(Section):
    """Grids of times for the averaged weights of a run's newest whole checkpoint."""

    run: Path
    """Folder of the run."""
    evaluations: tuple[PositiveInt, ...] = Field(default=(2, 4, 6, 8), min_length=1)
    """Evaluations of the field, one a step; a grid is searched for each."""
    search: Literal["endpoint", "chord"] = "endpoint"
    """`endpoint`: the ends come near to those of the fine grid; `chord`: the steps together cost least."""
    nodes: PositiveInt | None = None
    """Equal steps of the fine grid; null: 100, or the next multiple of the segments that the run samples by."""
    num: PositiveInt = 100
    """Noises that the grids are searched with."""
    fresh: int = Field(default=1000, ge=2)
    """Other noises that they are measured with."""
    guidance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Scale of classifier-free guidance; null: that of the run."""
    seed: NonNegativeInt = 0
    """Of the noises."""

    @field_validator("evaluations")
    @classmethod
    def _stand_there_once(cls, evaluations: tuple[int, ...]) -> tuple[int, ...]:
        for number in evaluations:
            if evaluations.count(number) > 1:
                raise ValueError(f"{number} is given twice; give each number once")
        return tuple(sorted(evaluations))

    def nodes_for(self, segments: int) -> int:
        return -(-NODES // segments) * segments if self.nodes is None else self.nodes

    def guidance_for(self, sample: FlowSample) -> float:
        return sample.guidance if self.guidance is None else self.guidance
