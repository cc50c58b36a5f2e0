"""Noises and conditions of a run, and Euler's method from them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.flow import sampler
from trainer.flow.sampler import EulerConfig, Field
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.searched import euler_of, segments_of
from trainer.sampling.source import source_samples
from trainer.sampling.steps.fine import FineSolution, fine_solution

TOGETHER = 250
"""Examples that pass through the network at once."""


class Noises:
    """States that a run's paths begin at, each a function of the seed and its number; the field has no controls."""

    def __init__(self, flow: TrainedFlow, num: int, *, guidance: float, seed: int) -> None:
        self.flow, self.guidance, self.seed = flow, guidance, seed
        self.segments = segments_of(flow.sample.sampler)
        self._conditioning = flow.conditioning(num, seed=seed)

    def solutions(
        self, numbers: Tensor, nodes: int, progress: Callable[[int], None] = lambda _: None
    ) -> list[FineSolution]:
        """Fine solutions of noises int64 [B], batch by batch; `progress` gets the number of noises that are done."""
        found, done = [], 0
        for own in numbers.split(TOGETHER):
            found.append(fine_solution(*self._begun(own), nodes=nodes, segments=self.segments))
            done += len(own)
            progress(done)
        return found

    @torch.no_grad()
    def ends(self, numbers: Tensor, times: Tensor) -> Tensor:
        """Ends float32 [B, *D] of Euler's method on times [T] from 0 to 1, by the sampler that draws; edges of segments
        included.
        """
        euler = sampler.build(euler_of(self.flow.sample.sampler, EulerConfig()), path=self.flow.parts.path)
        return torch.cat([euler.sample(*self._begun(own), times).final.cpu() for own in numbers.split(TOGETHER)])

    def decoded(self, states: Tensor, numbers: Tensor) -> Tensor:
        """The images or points [B, *shape] of states [B, *D] at the ends of paths."""
        rows, seen = numbers % len(self._conditioning.labels), self._conditioning.seen
        only = Conditioning(self._conditioning.condition.rows(rows), seen and seen.rows(rows))
        return self.flow.decode(self.flow.parts.data_of(states), only)

    def _begun(self, numbers: Tensor) -> tuple[Field, Tensor]:
        """The field of some noises and the states that it begins at; contexts that are too few are used in turn."""
        flow, condition = self.flow, self._conditioning.condition
        own = condition.rows(numbers % len(self._conditioning.labels)).to(flow.device)
        x_0 = source_samples(flow.config, numbers, seed=self.seed).to(flow.device)
        return flow.parts.field(flow.model, own, self.guidance), x_0
