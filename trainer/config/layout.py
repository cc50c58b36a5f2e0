"""How the work of a run is divided over its ranks, decided before any process group exists."""

from dataclasses import dataclass

import numpy as np

from moe.placement.placement import Placement, objective_of
from moe.replica import Slots
from trainer.config.run import RunConfig


@dataclass(frozen=True)
class Layout:
    """The division of the work.

    Attributes:
        expert_parallel: consecutive ranks that share the experts of a layer.
        expert_data_parallel: groups of that kind, each with a copy of every expert.
        tensor_parallel: consecutive ranks that share the matrices of a block and see the same examples.
        accumulation: forward passes of `micro_batch` examples of one rank in an optimiser step.
        placement: where each expert lives, None for a dense model.
        relay_ranks: ranks of a group on one node, if a token crosses to a node only once; None: dispatch ignores nodes.
    """

    world_size: int = 1
    expert_parallel: int = 1
    expert_data_parallel: int = 1
    tensor_parallel: int = 1
    micro_batch: int = 1
    accumulation: int = 1
    placement: Placement | None = None
    relay_ranks: int | None = None

    @classmethod
    def single(cls, config: RunConfig) -> "Layout":
        """The layout of one process that uses a trained network: it holds all of it, the experts in order."""
        moe = config.moe
        if moe is None:
            return cls()
        dispatch = objective_of(moe.dispatch)
        return cls(placement=Placement.contiguous(config.model.num_layers, moe.num_experts, 1, 1, dispatch=dispatch))

    @property
    def data_parallel(self) -> int:
        return self.world_size // self.tensor_parallel

    def data_rank(self, rank: int) -> int:
        return rank // self.tensor_parallel

    def slot_to_expert(self, moe_layer: int) -> np.ndarray:
        """Logical expert of each slot of an expert-parallel group, int64 [slots], homes first on every rank."""
        assert self.placement is not None
        return self.placement.slot_to_expert(moe_layer)

    @property
    def slots(self) -> list[Slots]:
        """Homes and replicas of each MoE layer; empty for a dense model."""
        placed = self.placement
        if placed is None:
            return []
        return [
            Slots.of(placed.slot_to_expert(layer), placed.num_experts, placed.num_ranks)
            for layer in range(placed.num_layers)
        ]

    @property
    def hops(self) -> np.ndarray:
        """Cost of one token's move between two ranks of an expert-parallel group, [ranks, ranks]."""
        assert self.placement is not None
        return np.array(self.placement.cost_matrix)
