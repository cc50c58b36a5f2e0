"""The training data of each optimiser step: drawn, and for tasks that call their own network collected by cycle."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from moe.collective_trace import ROLLOUT
from trainer.data import Batch, Loader
from trainer.data.loader import BadExampleList, DataLoadingConfig, Prefetcher
from trainer.observe.speed import OwnWork
from trainer.trace.context import phase
from trainer.trace.session import TraceSession
from trainer.training.generators import micro_batch_generator
from trainer.training.task import Drawn, Networks, Task
from trainer.training.weighting import relative_weights


def reading_ahead(
    task: Task[Any], loader: Loader, config: DataLoadingConfig, *, seed: int, device: torch.device
) -> Prefetcher:
    """A prefetcher of a run's batches, with the task's draws by `Task.source`; pinned for copies to a device."""

    def complete(step: int, local: int, batch: Batch) -> Batch:
        generator = micro_batch_generator(seed, "train source", step + 1, loader.global_micro(local))
        source = task.source(batch, generator)
        completed = batch if source is None else replace(batch, x_0=source)
        return completed if device.type == "cpu" else completed.pinned()

    return Prefetcher(loader, config, complete)


@dataclass(frozen=True)
class Share:
    """Example ids of a step by micro batch, and for each loss its drawn inputs and weights.

    Weights have mean 1 over the global batch; None: all equal.
    """

    examples: list[Tensor]
    drawn: Sequence[Drawn]
    weights: list[Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Provides the share of each step; a cycle is drawn and collected when its first step is taken."""

    task: Task[Any]
    networks: Networks
    loader: Loader
    prefetcher: Prefetcher
    bad_examples: BadExampleList
    trace: TraceSession
    own_work: OwnWork
    ranks: dist.ProcessGroup | None
    seed: int
    device: torch.device
    _coming: deque[Share] = field(default_factory=deque)

    def take(self, step: int) -> Share:
        """The share of a step from 1; steps come one after the other, from the first of a cycle; collective."""
        if not self._coming:
            self._coming.extend(self._cycle(step))
        return self._coming.popleft()

    def _cycle(self, first: int) -> Iterator[Share]:
        """The shares of the cycle that begins with step `first`, to which all its communication is attributed."""
        steps = range(first, first + self.task.cycle)
        batches = [self._read(step) for step in steps]
        drawn: list[Drawn] = []
        for step, of_step in zip(steps, batches, strict=True):
            micros = [self.loader.global_micro(local) for local in range(self.loader.accumulation)]
            generators = [micro_batch_generator(self.seed, "train", step, micro) for micro in micros]
            with self.trace.drawing(first), phase("forward"), self.own_work.measured():
                drawn += self.task.draw(of_step, generators, self.ranks)
        with self.trace.drawing(first), phase(ROLLOUT), self.own_work.measured():
            collected = self.task.collect(drawn, self.networks, self.ranks)
        num = self.loader.accumulation * self.task.passes
        if len(collected) != num * len(steps):
            raise RuntimeError(
                f"{type(self.task).__name__}.collect: gave {len(collected)} entries; {len(drawn)} micro batches in "
                f"{self.task.passes} passes need {num * len(steps)}"
            )
        for place, of_step in enumerate(batches):
            own = collected[place * num : (place + 1) * num]
            with self.trace.drawing(first), phase("forward"):
                weights = relative_weights([micro_batch.log_weight for micro_batch in own])
            yield Share([batch.ids for batch in of_step], own, weights)

    def _read(self, step: int) -> list[Batch]:
        """The micro batches of this rank for a step, on its device."""
        with self.own_work.measured():
            return [
                self.bad_examples.take(step, self.prefetcher.batch(step - 1, local)).to(self.device)
                for local in range(self.loader.accumulation)
            ]
