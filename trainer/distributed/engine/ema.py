"""The exponential moving average of the weights, kept in the pieces in which the engine keeps the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trainer.distributed.engine.protocol import Engine
from trainer.model.parallel.state import StatePiece


class MovingAverage:
    """average <- d average + (1 - d) weight after each optimiser step s, d = min(decay, (1 + s) / (10 + s)).

    Kept in float32 of what the network computes with: bf16 weights under bf16.
    """

    def __init__(self, engine: Engine, decay: float) -> None:
        """Starts at the engine's present weights.

        Args:
            engine: whose weights are averaged.
            decay: largest decay, in [0, 1).
        """
        self._engine, self._decay = engine, decay
        self._averages = [shard.tensor.detach().float().clone() for shard in engine.shards()]

    @property
    def averages(self) -> dict[str, Tensor]:
        """This rank's pieces by logical name; an expert that has moved is found where it is now."""
        return {shard.name: average for shard, average in zip(self._engine.shards(), self._averages, strict=True)}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after an optimiser step.

        Args:
            step: optimiser steps done, from 1.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        weights = [shard.tensor.float() for shard in self._engine.shards()]
        torch._foreach_lerp_(self._averages, weights, 1 - decay)

    def state(self) -> list[StatePiece]:
        """This rank's averages as rectangles of the whole parameters, of kind ``ema``; writing to them changes them."""
        return [
            StatePiece(shard.name, "ema", shard.shape, offset, values)
            for shard, average in zip(self._engine.shards(), self._averages, strict=True)
            for offset, values in shard.rectangles(average)
        ]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While entered, the network computes with the averages, in evaluation mode; collective."""
        shards = self._engine.shards()
        kept = [shard.tensor.clone() for shard in shards]
        with torch.no_grad():
            for shard, average in zip(shards, self._averages, strict=True):
                shard.tensor.copy_(average)
        try:
            with self._engine.evaluating():
                yield
        finally:
            with torch.no_grad():
                for shard, weights in zip(shards, kept, strict=True):
                    shard.tensor.copy_(weights)
