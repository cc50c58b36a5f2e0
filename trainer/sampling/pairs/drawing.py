"""Drawing pairs with a network."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import trainer.data
from moe.random.keyed import derived_keys, normal
from trainer.config.run import RunConfig
from trainer.data import Dataset
from trainer.flow import Condition, sampler
from trainer.model.network import Network
from trainer.sampling.draw import follow, keys_of
from trainer.sampling.pairs.request import PairsRequest
from trainer.sampling.source import starts
from trainer.task import FlowTask

TOGETHER = 1024
"""Pairs that pass through the network at once."""


@dataclass(frozen=True)
class Teacher:
    """A network that draws pairs.

    Attributes:
        config: of its run.
        task: that it was trained for.
        model: the network, in evaluation mode.
    """

    config: RunConfig
    task: FlowTask
    model: Network

    def draw(
        self, request: PairsRequest, numbers: Tensor, told: Callable[[int], None]
    ) -> dict[str, NDArray[np.generic]]:
        """Draws some of the pairs; everything that is drawn for one is a function of the seed and its number.

        Args:
            request: what is asked for.
            numbers: int64 [B], of the pairs.
            told: called with the number of pairs done, now and then.

        Returns:
            The arrays of a shard of them.
        """
        dtype = torch.float32 if request.dtype == "float32" else torch.float16
        parts: list[dict[str, Tensor]] = []
        for own in numbers.split(TOGETHER):
            parts.append(self._whole(request, own) if request.segments is None else self._segment(request, own))
            told(sum(len(part["x_0"]) for part in parts))
        arrays = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        for name in ("x_0", "x_1"):
            arrays[name] = arrays[name].to(dtype)
        return {name: values.numpy() for name, values in arrays.items()}

    def _whole(self, request: PairsRequest, own: Tensor) -> dict[str, Tensor]:
        labels = torch.arange(request.num) % max(1, self.config.data.num_classes)
        guided = {"guidance": request.guidance, "seed": request.seed}
        drawn = follow(self.config, self.task, self.model, Condition(labels), own, request.sampler, **guided)
        arrays = {"x_0": drawn.x[0].cpu(), "x_1": self.task.data_of(drawn.final).cpu()}
        return {**arrays, "labels": labels[own]} if self.config.data.num_classes else arrays

    @torch.no_grad()
    def _segment(self, request: PairsRequest, own: Tensor) -> dict[str, Tensor]:
        """Pair i is of segment i mod P: real data, noised to its first time, and where the teacher goes from there.

        Source: Wang et al., "Rectified Diffusion", arXiv 2410.07303, section 3.4 (phased).
        """
        assert request.segments is not None
        device, seed = next(self.model.parameters()).device, request.seed
        examples, labels = self._examples(own, seed)
        noise = starts(self.config, own, seed=seed)
        keys, path_keys = keys_of(own, "way", seed=seed), keys_of(own, "path", seed=seed)
        edges = torch.linspace(0.0, 1.0, request.segments + 1)
        grid = sampler.times(request.sampler)
        steps = (len(grid) - 1) // request.segments
        x_s, x_e = torch.empty_like(noise), torch.empty_like(noise)
        interval = torch.stack([edges[own % request.segments], edges[own % request.segments + 1]], dim=1)
        for segment in (own % request.segments).unique().tolist():
            rows = (own % request.segments == segment).nonzero()[:, 0]
            times = edges[segment : segment + 2] if steps == 0 else grid[segment * steps : (segment + 1) * steps + 1]
            interval[rows] = torch.stack([times[0], times[-1]])
            condition = Condition(label=None if labels is None else labels[rows].to(device))
            x_0, x_1 = noise[rows].to(device), self.task.data_scale * examples[rows].to(device)
            start = self._placed(x_0, x_1, times[:1].to(device), path_keys[rows].to(device))
            field = self.task.field(self.model, condition, request.guidance)
            follows = sampler.build(request.sampler, path=self.task.path)
            x_s[rows] = start.cpu()
            x_e[rows] = self.task.data_of(follows.sample(field, start, times, keys=keys[rows]).final).cpu()
        arrays = {"x_0": x_s, "x_1": x_e, "interval": interval}
        return arrays if labels is None else {**arrays, "labels": labels}

    def _placed(self, x_0: Tensor, x_1: Tensor, t: Tensor, keys: Tensor) -> Tensor:
        """Points [B, *D] of paths at a time [1]; a key of each, int64 [B], decides the path's own noise."""
        c = self.task.path.coefficients(t).broadcast(x_1)
        values = torch.arange(x_1[0].numel(), device=x_1.device)
        z = normal(derived_keys(keys[:, None], values)).reshape(x_1.shape).to(x_1.dtype)
        return c.a * x_0 + c.b * x_1 + c.g * z

    @cached_property
    def _data(self) -> tuple[Dataset, Tensor]:
        """What the teacher learned from, and the ids of its data points, none if it is endless."""
        dataset = trainer.data.build(self.config.data)
        return dataset, dataset.data_points("train")

    def _examples(self, own: Tensor, seed: int) -> tuple[Tensor, Tensor | None]:
        """A real example for each pair, and its label."""
        dataset, ids = self._data
        keys = keys_of(own, "example", seed=seed)
        batch = dataset.get(keys % 2**40 if dataset.endless else ids[keys % len(ids)])
        return batch.x_1, batch.labels
