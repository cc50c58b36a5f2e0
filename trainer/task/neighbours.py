"""A memory of the last examples, in which new examples find their nearest neighbours.

Everything is computed from vectors gathered from all ranks, and no decision on the host needs a value. The memory is
therefore the same on every rank, and no host waits for a device. Shape suffixes: M examples of the memory, K clusters,
G new examples of a step, B examples with neighbours, N neighbours, P projected values; all vectors have length 1.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from moe.host_copies import to_device
from moe.ot import euclidean, sinkhorn
from moe.seeds import derive_seed, fold_in
from trainer.config.task.representation import DynamicClusters, NearestNeighbours

ROUNDS = 10
"""Rounds of k-means, once the memory is full."""


class Memory:
    """A ring buffer of the last examples; new ones replace the oldest."""

    def __init__(self, settings: NearestNeighbours, seed: int) -> None:
        self._settings, self._seed = settings, seed
        self._steps = self._written = 0
        self._tensors: dict[str, Tensor] = {}

    @property
    def begun(self) -> bool:
        """Whether the memory is full and `begin` steps have passed, so that neighbours are used."""
        return self._steps >= self._settings.begin and self._written >= self._settings.memory

    def neighbours(self, queries_BP: Tensor) -> Tensor:
        """The N nearest allowed examples [B, N, P] of each vector."""
        cosines_BM = self._allowed(queries_BP, queries_BP @ self._tensors["examples"].mT)
        return self._tensors["examples"][cosines_BM.topk(self._settings.neighbours).indices]

    def write(self, new_GP: Tensor) -> None:
        """Stores the examples of a step, at most as many as the memory holds; called once a step."""
        memory = self._settings.memory
        if not self._tensors:
            self._tensors["examples"] = new_GP.new_zeros(memory, new_GP.shape[1])
        first = self._written % memory
        places = to_device((first + torch.arange(len(new_GP))) % memory, new_GP.device)
        self._put(places, new_GP)
        was_full, self._written = self._written >= memory, self._written + len(new_GP)
        self._steps += 1
        self._settle(first=not was_full)

    def figures(self) -> dict[str, Tensor]:
        """Scalars for the metrics."""
        return {}

    def state(self) -> dict[str, Any]:
        tensors = {name: values.to("cpu", copy=True) for name, values in self._tensors.items()}
        return {"steps": self._steps, "written": self._written, **tensors}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        tensors = dict(state)
        self._steps, self._written = tensors.pop("steps"), tensors.pop("written")
        self._tensors = {name: values.to(device, copy=True) for name, values in tensors.items()}

    def _allowed(self, queries_BP: Tensor, cosines_BM: Tensor) -> Tensor:
        """The cosines, with -infinity for examples that must not be neighbours."""
        del queries_BP
        return cosines_BM

    def _put(self, places: Tensor, new_GP: Tensor) -> None:
        self._tensors["examples"][places] = new_GP

    def _settle(self, *, first: bool) -> None:
        """Completes a step; `first`: the memory was not full before."""


class ClusteredMemory(Memory):
    """Examples in clusters of about equal size; neighbours are in the nearest cluster, or anywhere if it is too small.

    The published programme exponentiates the distance itself where a plan needs its negative: the assignment here is
    that of the formula.
    """

    def __init__(self, settings: DynamicClusters, seed: int) -> None:
        super().__init__(settings, seed)
        self._settings: DynamicClusters = settings

    def figures(self) -> dict[str, Tensor]:
        """`cluster_load`: the size of the largest cluster, over the mean."""
        if "centres" not in self._tensors:
            return {}
        return {"cluster_load": self._members().sum(0).max() * self._settings.clusters / self._settings.memory}

    def _allowed(self, queries_BP: Tensor, cosines_BM: Tensor) -> Tensor:
        nearest_B = (queries_BP @ functional.normalize(self._tensors["centres"]).mT).argmax(1)
        within_BM = self._tensors["labels"] == nearest_B[:, None]
        small_B = within_BM.sum(1) <= self._settings.neighbours
        return cosines_BM.masked_fill(~(within_BM | small_B[:, None]), -torch.inf)

    def _put(self, places: Tensor, new_GP: Tensor) -> None:
        super()._put(places, new_GP)
        if "centres" in self._tensors:
            self._tensors["labels"][places] = self.assigned(new_GP)

    def assigned(self, new_GP: Tensor) -> Tensor:
        """The clusters [G] of new examples, by a transport plan that gives each cluster the same mass."""
        clusters = self._settings.clusters
        cost_GK = euclidean(new_GP, functional.normalize(self._tensors["centres"]))
        masses = cost_GK.new_full((len(new_GP),), 1 / len(new_GP)), cost_GK.new_full((clusters,), 1 / clusters)
        limits = {"tolerance": 0.0, "max_iterations": self._settings.iterations}
        return sinkhorn(cost_GK, *masses, epsilon=self._settings.epsilon, **limits).values.argmax(1)

    def _settle(self, *, first: bool) -> None:
        if self._written < self._settings.memory:
            return
        if first:
            self._cluster()
            return
        keeps = self._settings.momentum
        centres_KP = self._tensors["centres"]
        self._tensors["centres"] = keeps * centres_KP + (1 - keeps) * self._means(centres_KP)

    def _cluster(self) -> None:
        """Clusters the memory by k-means, which starts at some of the examples."""
        examples_MP = self._tensors["examples"]
        keys = fold_in(torch.tensor(derive_seed(self._seed, "clusters")), torch.arange(len(examples_MP)))
        begun = to_device(keys.argsort()[: self._settings.clusters], examples_MP.device)
        self._tensors["centres"] = examples_MP[begun]
        for _ in range(ROUNDS):
            centres_KP = self._tensors["centres"]
            self._tensors["labels"] = (examples_MP @ functional.normalize(centres_KP).mT).argmax(1)
            self._tensors["centres"] = self._means(centres_KP)

    def _means(self, otherwise_KP: Tensor) -> Tensor:
        """Means [K, P] of the clusters' examples; an empty cluster keeps its row of `otherwise_KP`."""
        members_MK = self._members()
        sizes_K1 = members_MK.sum(0)[:, None]
        means_KP = members_MK.mT @ self._tensors["examples"] / sizes_K1.clamp_min(1)
        return torch.where(sizes_K1 > 0, means_KP, otherwise_KP)

    def _members(self) -> Tensor:
        """Membership [M, K] of examples in clusters, 0 or 1 in floating point."""
        numbers = torch.arange(self._settings.clusters, device=self._tensors["labels"].device)
        return (self._tensors["labels"][:, None] == numbers).to(self._tensors["examples"].dtype)
