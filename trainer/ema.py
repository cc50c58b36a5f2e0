"""The exponential moving average of the weights, kept in the pieces in which the engine keeps the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from trainer.engine.protocol import Engine


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
        self._shards = engine.shards()
        self.averages = {shard.name: shard.tensor.detach().float().clone() for shard in self._shards}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after an optimiser step.

        Args:
            step: optimiser steps done, from 1.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        weights = [shard.tensor.float() for shard in self._shards]
        torch._foreach_lerp_(list(self.averages.values()), weights, 1 - decay)

    def load(self, whole: Mapping[str, Tensor]) -> None:
        """Takes averages over from a checkpoint.

        Args:
            whole: by logical name, in the parameters' own shapes.
        """
        for shard in self._shards:
            self.averages[shard.name].copy_(self._engine.part(shard, whole[shard.name].to(shard.tensor.device)))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While entered, the network computes with the averages."""
        kept = [shard.tensor.clone() for shard in self._shards]
        with torch.no_grad():
            for shard in self._shards:
                shard.tensor.copy_(self.averages[shard.name])
        self._engine.module.eval()
        try:
            yield
        finally:
            self._engine.module.train()
            with torch.no_grad():
                for shard, weights in zip(self._shards, kept, strict=True):
                    shard.tensor.copy_(weights)
