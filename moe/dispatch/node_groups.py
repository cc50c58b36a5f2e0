"""Process groups between and inside the nodes of an expert-parallel group, beside Megatron-Core's own global ones."""

from dataclasses import dataclass

import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class NodeGroups:
    """Process groups by which a token crosses to a node once and is passed on there.

    Attributes:
        rail: the ranks with this rank's place on their node, one of each node of the expert-parallel group.
        node: the ranks of that group on this rank's node.
    """

    rail: dist.ProcessGroup
    node: dist.ProcessGroup


_divided: list[NodeGroups] = []
"""Node groups of the current division of ranks; at most one."""


def divide_nodes(expert_parallel: int, node_ranks: int) -> None:
    """Makes the groups out of all ranks, until :func:`unite_nodes`; collective.

    Args:
        expert_parallel: ranks of an expert-parallel group, consecutive; a multiple of node_ranks.
        node_ranks: ranks of such a group on one node, consecutive.
    """
    nodes = [list(range(first, first + node_ranks)) for first in range(0, dist.get_world_size(), node_ranks)]
    num_nodes = expert_parallel // node_ranks
    rails = [
        list(rail)
        for first in range(0, len(nodes), num_nodes)
        for rail in zip(*nodes[first : first + num_nodes], strict=True)
    ]
    rail, _ = dist.new_subgroups_by_enumeration(rails)
    node, _ = dist.new_subgroups_by_enumeration(nodes)
    assert isinstance(rail, dist.ProcessGroup)
    assert isinstance(node, dist.ProcessGroup)
    _divided.append(NodeGroups(rail, node))


def node_groups() -> NodeGroups | None:
    """Groups of this rank; None if the nodes are not divided."""
    return _divided[0] if _divided else None


def unite_nodes() -> None:
    """Destroys the process groups of :func:`divide_nodes`, if it was called."""
    for groups in _divided:
        dist.destroy_process_group(groups.rail)
        dist.destroy_process_group(groups.node)
    _divided.clear()
