"""A task of your own: the velocity of straight lines, learned from points that are far from noise more often.

A task turns batches into losses. It may also call its own network between drawing and learning (`collect`), keep a
state, write pictures (`show`) and measure what was learned (`measure`); see `trainer/training/task.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from pydantic import BaseModel, Field
from torch import Tensor

from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.flow import Condition
from trainer.flow.objective import LossTerms
from trainer.task import FlowTask, Task


class Points(NamedTuple):
    """What the loss of a micro batch is computed from; `log_weight` None: all examples weigh the same."""

    log_weight: None
    x_t: Tensor
    t: Tensor
    velocity: Tensor
    condition: Condition


class LateStraight(Task[Points]):
    """Straight paths at times t = u^(1 / (1 + late)), u uniform: later ones are drawn more often."""

    class Config(BaseModel, frozen=True):
        """The keys beside `class` in the configuration."""

        late: float = Field(default=0.5, ge=0)
        """0: times are uniform."""

    def __init__(self, config: Config, run: RunConfig) -> None:
        self.late, self.flow = config.late, FlowTask(run)
        self.show, self.measure = self.flow.show, self.flow.measure

    def draw(
        self,
        batches: Sequence[Batch],
        generators: Sequence[torch.Generator],
        ranks: dist.ProcessGroup | None = None,  # noqa: ARG002
    ) -> list[Points]:
        """All draws come from the generators, so that a resumed run is the same run."""
        return [self._points(batch, generator) for batch, generator in zip(batches, generators, strict=True)]

    def loss(self, model: Callable[..., Any], drawn: Points) -> LossTerms:
        """The squared error of each example."""
        error = model(drawn.x_t, drawn.t, drawn.condition) - drawn.velocity
        return LossTerms(error.square().flatten(1).mean(1), terms={})

    def _points(self, batch: Batch, generator: torch.Generator) -> Points:
        noise = torch.randn(batch.x_1.shape, generator=generator).to(batch.x_1.device)
        t = torch.rand(len(noise), generator=generator).to(noise.device) ** (1 / (1 + self.late))
        x_t = (1 - t[:, None]) * noise + t[:, None] * batch.x_1
        return Points(None, x_t, t, batch.x_1 - noise, Condition(batch.labels))
