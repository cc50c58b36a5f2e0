"""Choices of switches as arrays.

Each pair of leaves and epoch (of the packet's departure) has a tree of choices: its nodes are the links that continue
the path so far, in the order of the routes. A packet descends in this tree.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from netsim.engine.core.fabric import FabricArrays


class Tree(NamedTuple):
    """Choices of all pairs and epochs; a packet begins at node pair * E + epoch."""

    begin: np.ndarray  # rows of the next two of each node
    link: np.ndarray  # links that lead on
    node: np.ndarray  # nodes to which they lead
    route: np.ndarray  # of each node, a route that begins with the links to it


def tree(fabric: FabricArrays) -> Tree:
    """The trees of choices of a fabric."""
    epochs = len(fabric.epoch_ps)
    roots = (len(fabric.route_begin) - 1) * epochs
    route = [-1] * roots
    children: list[dict[int, int]] = [{} for _ in range(roots)]
    for root in range(roots):
        first = int(fabric.route_begin[root // epochs])
        for index in fabric.usable[fabric.usable_begin[root] : fabric.usable_begin[root + 1]].tolist():
            links: Sequence[int] = fabric.route_links[first + index, : fabric.route_length[first + index]].tolist()
            node = root
            route[root] = first + index if route[root] < 0 else route[root]
            for link in links:
                if link not in children[node]:
                    children[node][link] = len(children)
                    children.append({})
                    route.append(first + index)
                node = children[node][link]
    begin = np.cumsum([0, *(len(of_node) for of_node in children)])
    link = np.array([link for of_node in children for link in of_node], dtype=np.int64)
    node = np.array([node for of_node in children for node in of_node.values()], dtype=np.int64)
    return Tree(begin.astype(np.int64), link, node, np.array(route, dtype=np.int64))
