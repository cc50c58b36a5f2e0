"""The network of a run, for calls between its steps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.distributed.engine.ema import MovingAverage
from trainer.distributed.engine.protocol import Engine
from trainer.model.network import Network
from trainer.training.task import Networks


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
