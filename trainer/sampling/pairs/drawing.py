"""Drawing pairs with a network."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import trainer.data
from moe.seeds import derive_seed, fold_in, normal
from trainer.data import Dataset
from trainer.data.companions import in_shuffled_epochs
from trainer.flow import Condition
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import keys_of
from trainer.sampling.pairs.request import PairsRequest

TOGETHER = 1024
"""Pairs that pass through the network at once."""


@dataclass(frozen=True)
class PairDrawing:
    """Pairs of the flow of a teacher."""

    flow: TrainedFlow

    def draw(
        self, request: PairsRequest, numbers: Tensor, progress: Callable[[int], None]
    ) -> dict[str, NDArray[np.generic]]:
        """Draws some of the pairs; everything that is drawn for one is a function of the seed and its number.

        Args:
            numbers: int64 [B], of the pairs.

        Returns:
            The arrays of a shard of them.
        """
        dtype = torch.float32 if request.dtype == "float32" else torch.float16
        drawn_by = self._whole if request.nodes is None else self._at_nodes
        if request.begins_at_data:
            drawn_by = self._from_data
        parts: list[dict[str, Tensor]] = []
        for own in numbers.split(TOGETHER):
            parts.append(drawn_by(request, own))
            progress(sum(len(part["x_0"]) for part in parts))
        arrays = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        for name in ("x_0", "x_1"):
            arrays[name] = arrays[name].to(dtype)
        return {name: values.numpy() for name, values in arrays.items()}

    def _whole(self, request: PairsRequest, own: Tensor) -> dict[str, Tensor]:
        labels = torch.arange(request.num) % max(1, self.flow.config.data.num_classes)
        settings = {"guidance": request.guidance, "seed": request.seed, "split": "train"}
        trajectory = self.flow.follow(Condition(labels), own, request.sampler, **settings)
        arrays = {"x_0": trajectory.x[0].cpu(), "x_1": self.flow.parts.data_of(trajectory.final).cpu()}
        return {**arrays, "labels": labels[own]} if self.flow.config.data.num_classes else arrays

    def _at_nodes(self, request: PairsRequest, own: Tensor) -> dict[str, Tensor]:
        """Pair i is of interval i mod K: two states of trajectory i div K, which the teacher follows from noise."""
        places, classes = request.places, self.flow.config.data.num_classes
        examples, rows = (own // (len(places) - 1)).unique(return_inverse=True)
        number = own % (len(places) - 1)
        labels = torch.arange(int(examples[-1]) + 1) % max(1, classes)
        settings = {"guidance": request.guidance, "seed": request.seed, "split": "train"}
        x = self.flow.follow(Condition(labels), examples, request.sampler, **settings).x[list(places)]
        x_0, x_1 = x[number, rows], self.flow.parts.data_of(x[number + 1, rows])
        interval = torch.stack([torch.stack([times[0], times[-1]]) for times in request.parts()])[number]
        arrays = {"x_0": x_0.cpu(), "x_1": x_1.cpu(), "interval": interval}
        return {**arrays, "labels": labels[examples][rows]} if classes else arrays

    @torch.no_grad()
    def _from_data(self, request: PairsRequest, own: Tensor) -> dict[str, Tensor]:
        """Pair i is of part i mod P: real data, noised to its first time, and where the teacher goes from there."""
        device, seed, parts = self.flow.device, request.seed, self.flow.parts
        examples, labels = self._examples(own, seed)
        noise = parts.starts(Condition(labels), own, seed=seed, split="train")
        keys, path_keys = keys_of(own, "trajectory", seed=seed), keys_of(own, "path", seed=seed)
        times_of = request.parts()
        part = own % len(times_of)
        x_s, x_e = torch.empty_like(noise), torch.empty_like(noise)
        interval = torch.stack([torch.stack([times[0], times[-1]]) for times in times_of])[part]
        for number in part.unique().tolist():
            rows, times = (part == number).nonzero()[:, 0], times_of[number]
            condition = Condition(label=None if labels is None else labels[rows].to(device))
            x_0, x_1 = noise[rows].to(device), parts.data_scale * examples[rows].to(device)
            start = self._placed(x_0, x_1, times[:1].to(device), path_keys[rows].to(device))
            field = parts.field(self.flow.model, condition, request.guidance)
            follows = request.sampler.build(parts.path)
            x_s[rows] = start.cpu()
            x_e[rows] = parts.data_of(follows.sample(field, start, times, keys=keys[rows]).final).cpu()
        arrays = {"x_0": x_s, "x_1": x_e, "interval": interval}
        return arrays if labels is None else {**arrays, "labels": labels}

    def _placed(self, x_0: Tensor, x_1: Tensor, t: Tensor, keys: Tensor) -> Tensor:
        """Points [B, *D] of paths at a time [1]; a key of each, int64 [B], decides the path's own noise."""
        c = self.flow.parts.path.coefficients(t).broadcast(x_1)
        values = torch.arange(x_1[0].numel(), device=x_1.device)
        z = normal(fold_in(keys[:, None], values)).reshape(x_1.shape).to(x_1.dtype)
        return c.a * x_0 + c.b * x_1 + c.g * z

    @cached_property
    def _data(self) -> tuple[Dataset, Tensor]:
        """What the teacher learned from, and the ids of its data points, none if it is endless."""
        dataset = trainer.data.build(self.flow.config.data)
        return dataset, dataset.data_points("train")

    def _examples(self, own: Tensor, seed: int) -> tuple[Tensor, Tensor | None]:
        """A real example for each pair, and its label."""
        dataset, ids = self._data
        if dataset.endless:
            batch = dataset.get(keys_of(own, "example", seed=seed) % 2**40)
        else:
            batch = dataset.get(in_shuffled_epochs(ids, own, seed=derive_seed(seed, "example")))
        return batch.x_1, batch.labels
