"""How tokens reach their experts. A dispatcher is a Megatron-Core ``MoETokenDispatcher`` (six calls)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe.dispatch.all_to_all import HomeReturnDispatcher
    from moe.dispatch.deduplicated import DeduplicatedDispatcher


def _home(*arguments: Any) -> "HomeReturnDispatcher":
    from moe.dispatch.all_to_all import HomeReturnDispatcher  # Megatron takes seconds to import

    return HomeReturnDispatcher(*arguments)


def _capped(*arguments: Any) -> "HomeReturnDispatcher":
    from moe.dispatch.capped import CappedDispatcher

    return CappedDispatcher(*arguments)


def _copies(*arguments: Any) -> "DeduplicatedDispatcher":
    from moe.dispatch.deduplicated import DeduplicatedDispatcher

    return DeduplicatedDispatcher(*arguments)


def _hierarchical(*arguments: Any) -> "DeduplicatedDispatcher":
    from moe.dispatch.hierarchical import HierarchicalDispatcher
    from moe.dispatch.node_groups import node_groups

    nodes = node_groups()
    if nodes is None:  # one node, or one rank a node: there is one level only, and the modes are the same
        return _copies(*arguments)
    return HierarchicalDispatcher(*arguments, nodes=nodes)


DISPATCHERS: dict[str, "Callable[..., HomeReturnDispatcher | DeduplicatedDispatcher]"] = {
    "home": _home,
    "capped": _capped,
    "copies": _copies,
    "hierarchical": _hierarchical,
}
"""Builds the dispatcher of a mode: slots of this rank, their numbers, Megatron's configuration, process groups and what
chooses the slot of every choice."""

__all__ = ["DISPATCHERS"]
