"""What the routers chose since the last look, counted where they run.

Shape suffixes: T tokens of a micro batch on this rank, L MoE layers, E experts, N ranks of the expert-parallel group.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from moe.placement.statistics import RoutingStatistics


class SourceWindow:
    """Counts for home-return dispatch: the choices of each expert by the rank of the token.

    Nothing is copied to the host until the look, and one all-reduce then adds up all ranks.
    """

    def __init__(self, routers: Sequence[nn.Module], num_experts: int, group: dist.ProcessGroup) -> None:
        """Listens to the routers of a network; only what they do in training counts.

        Args:
            routers: of each MoE layer, on the device where they run.
            num_experts: experts of a layer.
            group: the expert-parallel group.
        """
        self._group = group
        device = next(routers[0].parameters()).device
        self._counts_LE = torch.zeros(len(routers), num_experts, dtype=torch.long, device=device)
        self._tokens = 0
        for layer, router in enumerate(routers):
            router.register_forward_hook(self._counter(layer))

    def clear(self) -> None:
        """Forgets all counts."""
        self._counts_LE.zero_()
        self._tokens = 0

    def reduced(self) -> RoutingStatistics:
        """Adds up the counts of all ranks; collective."""
        num_layers, num_experts = self._counts_LE.shape
        counts_LE = self._counts_LE.cpu().numpy()
        sources_LNE = np.zeros((num_layers, self._group.size(), num_experts), np.int64)
        sources_LNE[:, self._group.rank()] = counts_LE
        own = RoutingStatistics(
            num_tokens=self._tokens,
            transitions=np.zeros((num_layers - 1, num_experts, num_experts), np.int64),
            jumps=np.zeros((0, 5), np.int64),
            source_counts=sources_LNE,
            loads=counts_LE,
            dropped=0,
            anchors=np.zeros_like(counts_LE),
            coactivation=np.zeros((num_layers, num_experts, num_experts), np.int64),
        )
        vector = torch.as_tensor(own.to_vector(), device=self._counts_LE.device)
        dist.all_reduce(vector)
        return RoutingStatistics.from_vector(vector.cpu().numpy(), num_layers, num_experts, self._group.size())

    def state(self) -> dict[str, Any]:
        """The counts of this rank, for its checkpoint."""
        return {"counts": self._counts_LE.cpu(), "tokens": self._tokens}

    def load(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state` gave."""
        self._counts_LE.copy_(state["counts"])
        self._tokens = state["tokens"]

    def _counter(self, layer: int) -> Any:
        def count(router: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            if router.training:
                routing_map_TE = output[1]
                self._counts_LE[layer] += routing_map_TE.sum(dim=0)
                if layer == 0:
                    self._tokens += len(routing_map_TE)

        return count
