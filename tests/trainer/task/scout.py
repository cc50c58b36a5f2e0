"""A task of a user's that says how it calls its network: it goes from noise towards data before each cycle."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from pydantic import BaseModel
from torch import Tensor

from netsim.foundation.run_reference import RunReference
from trainer.config.run import RunConfig
from trainer.config.task import Calls
from trainer.data import Batch
from trainer.flow import Condition
from trainer.flow.objective import LossTerms
from trainer.sampling.trained import Reference
from trainer.task import Networks, Task


class Found(NamedTuple):
    """Where the network is called, and what it should predict there.

    Attributes:
        log_weight: [B] zeros, or None.
        x: [R, *D] states, R rows for each of B examples.
        t: [R] times.
        wanted: [R, *D] predictions.
        labels: int64 [R].
    """

    log_weight: Tensor | None
    x: Tensor
    t: Tensor
    wanted: Tensor
    labels: Tensor


class Scout(Task[Found]):
    """Follows its own network over some steps with several states of each example, and learns from where they come.

    Args:
        config: its settings.
        run: the run.
    """

    class Config(BaseModel):
        """Settings of the task."""

        passes: int = 2
        cycle: int = 2
        steps: int = 3
        rows: int = 2
        weighs: bool = False
        in_a_loss: int = 1
        """Calls of the network in a loss."""
        differentiates: bool = False
        """Whether it also takes a gradient in the last state that it finds."""
        teacher: RunReference | None = None
        """The run that is asked where the rollouts end, and in each loss."""

        @property
        def calls(self) -> tuple[Calls, ...]:
            """How it calls networks."""
            asked = (Calls("rollout", 1, self.rows, reference=True),) if self.teacher else ()
            again = (Calls("learn", 1, self.rows, reference=True),) if self.teacher else ()
            back = (Calls("rollout", 1, self.rows, gradient=True),) if self.differentiates else ()
            learned = Calls("learn", self.in_a_loss, self.rows, gradient=True)
            return (Calls("rollout", self.steps, self.rows), *back, *asked, *again, learned)

    def __init__(self, config: Config, run: RunConfig) -> None:
        self.config, self.passes, self.cycle, self.classes = config, config.passes, config.cycle, run.data.num_classes
        self.teacher = config.teacher and Reference.of_run(config.teacher)

    def draw(
        self,
        batches: Sequence[Batch],
        generators: Sequence[torch.Generator],
        ranks: dist.ProcessGroup | None = None,  # noqa: ARG002
    ) -> list[Found]:
        """Draws noise for the rows of each example."""
        return [self._begin(batch, generator) for batch, generator in zip(batches, generators, strict=True)]

    def collect(
        self,
        drawn: Sequence[Found],
        networks: Networks,
        ranks: dist.ProcessGroup | None = None,  # noqa: ARG002
    ) -> list[Found]:
        """Follows the network, one micro batch after the other."""
        with networks.current() as network:
            return [part for one in drawn for part in self._found(one, network)]

    def loss(self, model: Callable[..., Any], drawn: Found) -> LossTerms:
        """Mean squared error of the prediction, a mean over the rows of an example."""
        wanted, condition = drawn.wanted, Condition(drawn.labels)
        if self.teacher:
            with torch.no_grad():
                wanted = wanted + self.teacher.model(drawn.x.device)(drawn.x, drawn.t, condition)
        errors = [model(drawn.x + 0.1 * n, drawn.t, condition) - wanted for n in range(self.config.in_a_loss)]
        error = torch.stack([error.square().flatten(1).mean(1) for error in errors]).mean(0)
        return LossTerms(error.unflatten(0, (-1, self.config.rows)).mean(1), terms={})

    def _begin(self, batch: Batch, generator: torch.Generator) -> Found:
        x_1 = batch.x_1.repeat_interleave(self.config.rows, 0)
        labels = torch.full((len(batch.x_1),), self.classes) if batch.labels is None else batch.labels
        noise, t = torch.randn(x_1.shape, generator=generator), torch.rand(len(x_1), generator=generator)
        log_weight = torch.zeros(len(batch.x_1)) if self.config.weighs else None
        return Found(log_weight, noise, t, x_1, labels.repeat_interleave(self.config.rows))

    def _found(self, one: Found, network: Callable[..., Any]) -> list[Found]:
        x, condition = one.x, Condition(one.labels)
        for step in range(self.config.steps):
            x = x + network(x, torch.full_like(one.t, step / self.config.steps), condition) / self.config.steps
        if self.config.differentiates:
            with torch.enable_grad():
                at = x.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(network(at, one.t, condition).square().sum(), at)
            x = x - 0.01 * gradient
        if self.teacher:
            x = x + self.teacher.model(x.device)(x, one.t, condition)
        return [one._replace(x=one.x + 0.1 * number, wanted=one.wanted - x) for number in range(self.passes)]
