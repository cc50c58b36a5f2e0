"""A task of a user's: it asks its own network, keeps a memory and shares what it collected over three steps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from pydantic import BaseModel
from torch import Tensor

from netsim.foundation.run_reference import ReferenceConfig
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.flow import Condition
from trainer.flow.objective import LossTerms
from trainer.sampling.trained import Reference
from trainer.task import Networks, Task


class Rehearsed(NamedTuple):
    """Points, where the network is called, and what it should predict there.

    Attributes:
        log_weight: none.
        x: [B, D] states.
        t: [B] times.
        wanted: [B, D] what the network should predict.
        labels: int64 [B].
    """

    log_weight: None
    x: Tensor
    t: Tensor
    wanted: Tensor
    labels: Tensor


class Rehearsal(Task[Rehearsed]):
    """Learns the velocity towards data, pulled towards what the network predicted when the cycle began.

    The pull is the network's own prediction, less the mean of all predictions that were ever collected (the memory).

    Args:
        config: its settings.
        run: the run.
    """

    cycle = 3

    class Config(BaseModel):
        """Settings of the task."""

        pull: float = 0.5
        passes: int = 1
        teacher: ReferenceConfig | None = None
        """The run that is asked in place of this one's own network."""

    def __init__(self, config: Config, run: RunConfig) -> None:
        self.pull, self.passes, self.classes = config.pull, config.passes, run.data.num_classes
        self.teacher = config.teacher and Reference.of_run(config.teacher)
        self.total, self.count, self.collections = torch.zeros(run.state_shape, dtype=torch.float64), 0, 0

    def draw(
        self,
        batches: Sequence[Batch],
        generators: Sequence[torch.Generator],
        ranks: dist.ProcessGroup | None = None,  # noqa: ARG002
    ) -> list[Rehearsed]:
        """Draws noise and times; the points lie on straight lines to the data."""
        return [self._points(batch, generator) for batch, generator in zip(batches, generators, strict=True)]

    def collect(
        self, drawn: Sequence[Rehearsed], networks: Networks, ranks: dist.ProcessGroup | None = None
    ) -> list[Rehearsed]:
        """Asks the network at every point of the cycle, and cuts each micro batch into the passes."""
        with networks.current() as own, torch.no_grad():
            model = self.teacher.model(drawn[0].x.device) if self.teacher else own
            predicted = [model(one.x, one.t, Condition(one.labels)) for one in drawn]
        sums = torch.stack([one.double().sum(0) for one in predicted]).sum(0)
        count = torch.tensor(float(sum(len(one) for one in predicted)), dtype=torch.float64)
        if ranks is not None:
            dist.all_reduce(sums, group=ranks)
            dist.all_reduce(count, group=ranks)
        self.total, self.count = self.total + sums, self.count + int(count)
        self.collections += 1
        memory = (self.total / self.count).float()
        pulled = [
            one._replace(wanted=one.wanted + self.pull * (own - memory))
            for one, own in zip(drawn, predicted, strict=True)
        ]
        return [part for one in pulled for part in self._cut(one)]

    def loss(self, model: Callable[..., Any], drawn: Rehearsed) -> LossTerms:
        """Mean squared error of the prediction."""
        error = model(drawn.x, drawn.t, Condition(drawn.labels)) - drawn.wanted
        return LossTerms(error.square().mean(1), terms={})

    def state(self) -> dict[str, Any]:
        """The memory."""
        return {"total": self.total, "count": self.count, "collections": self.collections}

    def load(self, state: dict[str, Any] | None) -> None:
        """Takes up the memory."""
        if state is not None:
            self.total, self.count, self.collections = state["total"], state["count"], state["collections"]

    def _points(self, batch: Batch, generator: torch.Generator) -> Rehearsed:
        noise = torch.randn(batch.x_1.shape, generator=generator)
        t = torch.rand(len(noise), generator=generator)
        labels = torch.full((len(noise),), self.classes) if batch.labels is None else batch.labels
        x = (1 - t[:, None]) * noise + t[:, None] * batch.x_1
        return Rehearsed(None, x, t, batch.x_1 - noise, labels)

    def _cut(self, one: Rehearsed) -> list[Rehearsed]:
        parts = zip(*(values.chunk(self.passes) for values in one[1:]), strict=True)
        return [Rehearsed(None, *values) for values in parts]
