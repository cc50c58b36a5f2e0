"""Drawing pairs with a network."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import trainer.data
from moe.seed import derive_seed
from trainer.config import RunConfig
from trainer.engine.protocol import Network
from trainer.flow import Condition, sampler
from trainer.flow.coupling import Pairs
from trainer.pairs.request import PairsRequest
from trainer.sampling import follow
from trainer.starts import starts
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
        """Draws some of the pairs; each is a function of the seed and its number.

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
        keys = torch.tensor([derive_seed(seed, "way", number) for number in own.tolist()])
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
            pairs = Pairs(noise[rows].to(device), self.task.data_scale * examples[rows].to(device), condition)
            generator = torch.Generator().manual_seed(derive_seed(seed, "path", int(own[0]), segment))
            start = self.task.path.sample(pairs, times[:1].expand(len(rows)).to(device), generator=generator).x_t
            field = self.task.field(self.model, condition, request.guidance)
            follows = sampler.build(request.sampler, path=self.task.path)
            x_s[rows] = start.cpu()
            x_e[rows] = self.task.data_of(follows.sample(field, start, times, keys=keys[rows]).final).cpu()
        arrays = {"x_0": x_s, "x_1": x_e, "interval": interval}
        return arrays if labels is None else {**arrays, "labels": labels}

    def _examples(self, own: Tensor, seed: int) -> tuple[Tensor, Tensor | None]:
        """A real example for each pair, and its label."""
        dataset = trainer.data.build(self.config.data)
        keys = torch.tensor([derive_seed(seed, "example", number) for number in own.tolist()])
        ids = keys % 2**40 if dataset.endless else dataset.indices("train")[keys % len(dataset.indices("train"))]
        batch = dataset.get(ids)
        return batch.x_1, batch.labels
