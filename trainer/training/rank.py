"""One rank of a run: the objects that its steps use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist

from moe.router.protocol import Router
from trainer.checkpoint.directory import step_folder
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.data import Dataset, Loader
from trainer.data.loader import BadExampleList, Prefetcher
from trainer.distributed.engine.ema import MovingAverage
from trainer.distributed.engine.protocol import Engine
from trainer.distributed.groups import Launch
from trainer.distributed.process.signals import StopRequest
from trainer.observe.expert_load import ExpertLoad
from trainer.observe.protocol import Sink
from trainer.observe.speed import OwnWork, ProfileWindow, Speed
from trainer.trace.session import TraceSession
from trainer.training.guard import Guard
from trainer.training.schedule import logs
from trainer.training.shares import Shares
from trainer.training.task import Networks, Task


class Saves(Protocol):
    """The writer of checkpoints, which works while the run continues."""

    def save(self, step: int) -> None:
        """Begins the checkpoint after a step; collective."""
        ...

    def wait(self) -> None:
        """Waits until the last checkpoint is complete; collective."""
        ...


class Moves(Protocol):
    """The protocol of expert migration between ranks."""

    def after(self, step: int) -> None:
        """Moves experts, if it is time and that pays; collective then."""
        ...

    def figures(self) -> Mapping[str, float]:
        """Figures for the sinks by name."""
        ...


@dataclass(kw_only=True)
class Training:
    """One rank of a run, at the step that it starts or resumes after.

    Attributes:
        num_losses: losses that this rank computes in a step: micro batches times passes of the task.
        sources: names of the sources of a mixture.
    """

    config: RunConfig
    layout: Layout
    launch: Launch
    task: Task[Any]
    dataset: Dataset
    sinks: Sequence[Sink]
    stop: StopRequest
    started: int
    num_losses: int
    sources: tuple[str, ...]
    engine: Engine
    routers: Sequence[Router]
    average: MovingAverage
    networks: Networks
    loader: Loader
    prefetcher: Prefetcher
    data_ranks: dist.ProcessGroup | None
    shares: Shares
    bad_examples: BadExampleList
    guard: Guard
    own_work: OwnWork
    expert_load: ExpertLoad
    speed: Speed
    trace: TraceSession
    profile: ProfileWindow
    checkpointer: Saves
    migration: Moves | None

    def logs(self, step: int) -> bool:
        """Whether the figures of a step go to the sinks."""
        config = self.config
        return logs(step, steps=config.optim.steps, intervals=(config.observe.log_every, config.evaluate.every))

    def show(self, step: int) -> None:
        """Makes the task write what it has learned to samples/; collective."""
        name = step_folder(Path(), step).name
        self.task.show(self.networks, self.config.run.dir / "samples" / name, seed=self.config.run.seed)
