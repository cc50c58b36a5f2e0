"""How a run is laid out over its ranks, decided and checked before any process group exists."""

from dataclasses import dataclass

import numpy as np

from moe.files import FileError
from moe.placement.placement import Placement
from trainer.config import RunConfig
from trainer.data import accumulation_steps


@dataclass(frozen=True)
class Layout:
    """The division of the work.

    Attributes:
        world_size: all ranks.
        expert_parallel: ranks that share the experts of a layer; consecutive ranks form such a group.
        expert_data_parallel: groups of that kind, each with its own copy of every expert.
        micro_batch: examples of one forward pass on one rank.
        accumulation: forward passes of one rank in an optimiser step.
        placement: where each expert lives, None for a dense model.
    """

    world_size: int
    expert_parallel: int
    expert_data_parallel: int
    micro_batch: int
    accumulation: int
    placement: Placement | None

    def slot_to_expert(self, moe_layer: int) -> np.ndarray:
        """Logical expert of each slot of an expert-parallel group.

        Args:
            moe_layer: index among the MoE layers.

        Returns:
            int64 [num_experts].
        """
        assert self.placement is not None
        return self.placement.slot_to_expert(moe_layer)


def plan_layout(config: RunConfig, world_size: int) -> Layout:
    """Divides a run over its ranks.

    Args:
        config: the run.
        world_size: ranks, at least 1.

    Returns:
        The layout.

    Raises:
        ValueError: the ranks, the batch, the experts or the image do not divide; names field, value and remedy.
        FileError: the placement file is malformed or made for another model or group.
    """
    expert = config.parallel.expert
    if config.moe is None and expert > 1:
        raise ValueError(f"parallel.expert: {expert} ranks share experts that the model does not have; use 1")
    if world_size % expert:
        raise ValueError(
            f"parallel.expert: {expert} does not divide the {world_size} ranks; "
            f"use one of {_divisors(world_size)} or start a multiple of {expert} ranks"
        )
    if config.moe is not None and config.moe.num_experts % expert:
        raise ValueError(
            f"moe.num_experts: {config.moe.num_experts} experts do not divide among parallel.expert {expert} ranks; "
            f"use {expert * max(1, round(config.moe.num_experts / expert))}"
        )
    if config.moe is not None and config.engine.zero_stage == 3:
        raise ValueError("engine.zero_stage: 3 shards parameters, which DeepSpeed refuses for experts; use 0, 1 or 2")
    if config.engine.zero_stage == 0 and config.engine.precision == "bf16":
        raise ValueError("engine.precision: bf16 keeps its fp32 weights in the ZeRO optimiser; use zero_stage 1 to 3")
    _check_image(config)
    _check_sampler(config, world_size)
    micro_batch = config.optim.micro_batch
    if micro_batch is None:
        micro_batch = accumulation_steps(config.optim.global_batch, 1, world_size)
    return Layout(
        world_size=world_size,
        expert_parallel=expert,
        expert_data_parallel=world_size // expert,
        micro_batch=micro_batch,
        accumulation=accumulation_steps(config.optim.global_batch, micro_batch, world_size),
        placement=_placement(config),
    )


def describe(config: RunConfig, layout: Layout) -> str:
    """One line for a person: how the run is divided."""
    ranks = f"{layout.world_size} rank{'s' * (layout.world_size > 1)}"
    experts = ""
    if config.moe is not None:
        experts = (
            f" = expert {layout.expert_parallel} x expert data {layout.expert_data_parallel}, "
            f"{config.moe.num_experts // layout.expert_parallel} of {config.moe.num_experts} experts a rank and layer"
        )
    return (
        f"{ranks}{experts}; batch {config.optim.global_batch} = {layout.micro_batch} x {layout.accumulation} micro "
        f"x {layout.world_size}; ZeRO {config.engine.zero_stage}, {config.engine.precision}"
    )


def _check_image(config: RunConfig) -> None:
    size = config.data.shape[1]
    if size % config.model.patch_size:
        raise ValueError(
            f"model.patch_size: {config.model.patch_size} does not divide images of {size} pixels; "
            f"use one of {_divisors(size)}"
        )


def _check_sampler(config: RunConfig, world_size: int) -> None:
    shared = config.parallel.expert > 1 or (config.engine.zero_stage == 3 and world_size > 1)
    if shared and config.sample.every is not None and config.sample.sampler.kind == "dopri5":
        raise ValueError(
            "sample.sampler.kind: dopri5 takes another number of steps on each rank, and ranks that share weights must "
            "take them together; use heun or euler, or sample.every=null and the sample verb afterwards"
        )


def _placement(config: RunConfig) -> Placement | None:
    if config.moe is None:
        return None
    num_layers, num_experts, ranks = config.model.num_layers, config.moe.num_experts, config.parallel.expert
    path = config.moe.placement
    if path is None:
        return Placement.contiguous(num_layers, num_experts, 1, ranks)
    placement = Placement.read(path)
    for field, found, wanted in (
        ("num_layers", placement.num_layers, num_layers),
        ("num_experts", placement.num_experts, num_experts),
        ("num_nodes x ranks_per_node", placement.num_ranks, ranks),
    ):
        if found != wanted:
            raise FileError(
                path,
                field,
                f"is {found} where the run has {wanted}",
                "place this run's own trace (python -m moe place)",
            )
    return placement


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
