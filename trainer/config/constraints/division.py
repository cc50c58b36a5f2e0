"""Ranks, heads, widths and experts that do not divide."""

import math

from trainer.config.network.sizes import divisors
from trainer.config.run import RunConfig

MOST_EXPERTS = 262_144
"""Of all layers together: each has names and shapes of its own in checkpoints."""


def check_tensor(config: RunConfig, world_size: int) -> None:
    """Refuses matrices that cannot be shared as `parallel.tensor` says.

    Args:
        config: the run.
        world_size: ranks, at least 1.

    Raises:
        ValueError: names field, value and remedy.
    """
    tensor = config.parallel.tensor
    if tensor == 1:
        return
    if world_size % tensor:
        raise ValueError(
            f"parallel.tensor: {tensor} needs a multiple of {tensor} ranks, and there {_count(world_size)}; "
            f"{_divisor_remedy(world_size)}, or start {tensor} ranks or a multiple"
        )
    widths = config.model.shared_widths(mixture=config.moe is not None)
    if not widths:
        raise ValueError(f"parallel.tensor: {tensor} ranks {config.model.no_division}; use 1")
    for field, width in widths.items():
        if width % tensor:
            raise ValueError(
                f"parallel.tensor: {tensor} ranks do not divide {field} {width} among them; use one of "
                f"{divisors(math.gcd(*widths.values()))}, or another {field}"
            )
    if config.moe is not None:
        raise ValueError(
            f"parallel.tensor: {tensor} ranks would send the same tokens to the experts {tensor} times; "
            "use 1 with a moe section, and parallel.expert to divide the experts"
        )


def check_experts(config: RunConfig, world_size: int) -> None:
    """Refuses experts that cannot be shared as `parallel.expert` says.

    Args:
        config: the run.
        world_size: ranks, at least 1.

    Raises:
        ValueError: names field, value and remedy.
    """
    expert = config.parallel.expert
    layers = config.model.num_layers
    if config.moe is not None and config.moe.num_experts * layers > MOST_EXPERTS:
        raise ValueError(
            f"moe.num_experts: {config.moe.num_experts} in each of {layers} layers are more than the {MOST_EXPERTS:,} "
            f"that are possible; use {MOST_EXPERTS // layers} or less, or fewer layers"
        )
    if config.moe is None and expert > 1:
        raise ValueError(f"parallel.expert: {expert} ranks share experts that the model does not have; use 1")
    if world_size % expert:
        raise ValueError(
            f"parallel.expert: {expert} needs a multiple of {expert} ranks, and there {_count(world_size)}; "
            f"{_divisor_remedy(world_size)}, or start {expert} ranks or a multiple"
        )
    if config.moe is not None and config.moe.num_experts % expert:
        raise ValueError(
            f"moe.num_experts: {config.moe.num_experts} experts do not divide among parallel.expert {expert} ranks; "
            f"use {expert * max(1, round(config.moe.num_experts / expert))}"
        )


def expert_nodes(config: RunConfig, ranks_per_node: int) -> int:
    """Nodes of a group of ranks that share experts, as the dispatch sees them.

    Args:
        config: the run.
        ranks_per_node: consecutive ranks that share a node.

    Returns:
        1 unless the dispatch is hierarchical.

    Raises:
        ValueError: hierarchical dispatch, and some node holds another number of a group's ranks than others.
    """
    expert = config.parallel.expert
    if config.moe is None or config.moe.dispatch != "hierarchical" or ranks_per_node % expert == 0:
        return 1
    if expert % ranks_per_node:
        raise ValueError(
            f"parallel.expert: {expert} ranks that share experts lie unevenly on nodes of {ranks_per_node} ranks, and "
            f"moe.dispatch hierarchical needs as many on each; use a multiple of {ranks_per_node}, or dispatch copies"
        )
    return expert // ranks_per_node


def _count(world_size: int) -> str:
    return "is one" if world_size == 1 else f"are {world_size}"


def _divisor_remedy(world_size: int) -> str:
    return "use 1" if world_size == 1 else f"use one of {divisors(world_size)}"
