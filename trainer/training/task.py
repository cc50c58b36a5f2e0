"""The protocol of tasks, which define the draws and the loss of a training step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.config.run import RunConfig
from trainer.config.task import TaskSettings
from trainer.data import Batch, Dataset
from trainer.distributed.engine.ema import MovingAverage
from trainer.distributed.engine.protocol import Engine
from trainer.flow.objective import LossTerms
from trainer.model.network import Network
from trainer.observe.measurement import Measurement, MeasurementSpec, Progress


class Drawn(Protocol):
    """The inputs of one micro batch's loss, drawn before the network is called."""

    @property
    def log_weight(self) -> Tensor | None:
        """[B] logarithms of the examples' weights, of which only the differences matter; None: all equal."""
        ...


@runtime_checkable
class Weighted(Drawn, Protocol):
    """A drawn micro batch that gives the points to which its weights belong, so that their tilt is measured."""

    @property
    def weighted(self) -> Mapping[str, Tensor]:
        """[B, *D] the points, by name."""
        ...


D = TypeVar("D", bound=Drawn)


@runtime_checkable
class OfSources(Drawn, Protocol):
    """A drawn micro batch with the mixture source of each example, so that losses are reported by source."""

    @property
    def sources(self) -> Tensor | None:
        """int64 [B] numbers of the sources; None: the data are no mixture."""
        ...


class Networks(Protocol):
    """The run's own network, for calls between steps: no gradient reaches its parameters. Both calls are collective."""

    def current(self) -> AbstractContextManager[Network]:
        """The weights that learn, in evaluation mode."""
        ...

    def average(self) -> AbstractContextManager[Network]:
        """Their moving average, in evaluation mode."""
        ...


class Task(Protocol[D]):
    """Turns batches into losses.

    A task of one's own extends this class and writes `draw` and `loss`; everything else has a default. What it draws
    must be a function of the generators that it is given, so that a resumed run is the same run.

    Attributes:
        passes: number of losses into which one micro batch is divided.
        cycle: number of optimiser steps that share one collection. Checkpoints lie between cycles.
    """

    passes: int = 1
    cycle: int = 1

    @abstractmethod
    def draw(
        self, batches: Sequence[Batch], generators: Sequence[torch.Generator], ranks: dist.ProcessGroup | None = None
    ) -> Sequence[D]:
        """Draws everything that a step needs, for all of its micro batches at once.

        Args:
            batches: the micro batches of this rank, on the device of the network.
            generators: the generator of the draws for each micro batch.
            ranks: the ranks with different data of the same step, with which this rank may draw together; None: there
                is no other rank.

        Returns:
            For each micro batch the input of :meth:`collect`.
        """
        ...

    def first_weights(self, dataset: Dataset) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Initial values that depend on the training examples, in place of draws; collective. By default none.

        Args:
            dataset: the run's data.

        Returns:
            Whole parameters on the CPU by name, the same on every rank.
        """
        return {}

    def source(self, batch: Batch, generator: torch.Generator) -> Tensor | None:  # noqa: ARG002
        """Draws the source points that depend on a batch's size alone, in the threads that read ahead.

        Args:
            batch: as it was read, on the CPU.
            generator: a CPU generator for these draws alone.

        Returns:
            The `x_0` of the batch that :meth:`draw` is given, on the CPU; None: the batch stays as it is.
        """
        return None

    def collect(self, drawn: Sequence[D], networks: Networks, ranks: dist.ProcessGroup | None = None) -> Sequence[D]:  # noqa: ARG002
        """Completes the draws by calls of the run's own network, once a cycle; collective.

        Args:
            drawn: the draws of every micro batch of all steps of the cycle, in their order.
            networks: the run's network.
            ranks: as in :meth:`draw`.

        Returns:
            Inputs of :meth:`loss`: `passes` entries for each of `drawn`, in the same order.
        """
        return drawn

    @abstractmethod
    def loss(self, model: Callable[..., Any], drawn: D) -> LossTerms:
        """Computes the loss of one micro batch; nothing is drawn but the network's own dropout.

        Args:
            model: the network, possibly wrapped by the engine.
            drawn: an entry of what :meth:`collect` returned.
        """
        ...

    def examine(self, model: Callable[..., Any], drawn: D) -> Mapping[str, Tensor]:
        """Figures of held-out examples under the averaged weights.

        Args:
            model: the network, in evaluation mode.
            drawn: the result of :meth:`draw` for some held-out examples.

        Returns:
            Figures [B] by name; the metrics show each one's mean over the held-out split under this name.
        """
        return {"held_out_loss": self.loss(model, drawn).per_example}

    def summarise(self, figures: Mapping[str, float]) -> Mapping[str, float]:  # noqa: ARG002
        """Further figures of the held-out split, computed from its means.

        Args:
            figures: the means of the figures of :meth:`examine`, by name.
        """
        return {}

    def show(self, networks: Networks, stem: Path, *, seed: int) -> None:
        """Writes a picture of samples or results on rank 0; collective. The default writes none.

        Args:
            networks: the run's network.
            stem: the file without its ending.
            seed: seed of all draws.
        """

    def measure(self, networks: Networks, spec: MeasurementSpec, progress: Progress) -> Measurement | None:  # noqa: ARG002
        """Measures a trained network for the evaluate verb. The default has nothing to measure.

        Args:
            networks: the trained network.
            spec: how much is drawn and measured.
            progress: is called with a line about the current work.

        Returns:
            The figures, their table and their page; None: the task has none.
        """
        return None

    def cautions(self, figures: Mapping[str, float]) -> Mapping[str, str]:  # noqa: ARG002
        """Warnings about suspicious figures; each is printed once a run.

        Args:
            figures: metrics of a step, by name.

        Returns:
            The lines, by the name of the figure that they are about.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """The task's state for a checkpoint, the same on every rank: tensors and plain values."""
        return {}

    def load(self, state: dict[str, Any] | None) -> None:
        """Restores a result of :meth:`state`; None: starts afresh."""


class MicroBatchTask(Task[D]):
    """A task that draws each micro batch by itself."""

    @abstractmethod
    def draw_one(self, batch: Batch, generator: torch.Generator) -> D:
        """Draws everything that a step needs for one micro batch."""
        ...

    def draw(
        self,
        batches: Sequence[Batch],
        generators: Sequence[torch.Generator],
        ranks: dist.ProcessGroup | None = None,  # noqa: ARG002
    ) -> Sequence[D]:
        return [self.draw_one(batch, generator) for batch, generator in zip(batches, generators, strict=True)]


Builders = dict[type[TaskSettings], Callable[[RunConfig], Task[Any]]]
"""From the settings of tasks to their classes."""


class TrainingNetworks(Networks):
    """The network of a run that trains, with the weights that learn or with their moving average."""

    def __init__(self, engine: Engine, average: MovingAverage) -> None:
        self._engine, self._average = engine, average

    @contextmanager
    def current(self) -> Iterator[Network]:
        with torch.no_grad(), self._engine.evaluating():
            yield self._engine.module

    @contextmanager
    def average(self) -> Iterator[Network]:
        with torch.no_grad(), self._average.in_place():
            yield self._engine.module


class TrainedNetworks(Networks):
    """A network that no longer learns: its weights are the averaged ones."""

    def __init__(self, model: Network) -> None:
        self._model = model

    @contextmanager
    def current(self) -> Iterator[Network]:
        with torch.no_grad():
            yield self._model

    @contextmanager
    def average(self) -> Iterator[Network]:
        with torch.no_grad():
            yield self._model
