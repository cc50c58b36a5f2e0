"""The fastest algorithm of a collective on a fabric, by estimates from rates and delays.

Each estimate adds up the rounds of the algorithm, each with the passage of a message through an empty fabric or, where
it is longer, the load of the busiest link, with an allowance for collisions between switches. Direct algorithms of
reductions and gatherings, in which all ranks send to all others at once, are no candidates: libraries lack them.
"""

from collections.abc import Callable

import numpy as np

from netsim.collective.algorithms import in_order_tree, pieces, teams
from netsim.collective.group import Group

Estimate = Callable[[Group, int], float]
"""Picoseconds of an algorithm, given a group and the bytes of `netsim.collective.group.size_of`."""


def fastest(op: str, group: Group, size_bytes: int) -> str:
    """The algorithm with the least estimate, the first among equals; for two ranks or more, no send or barrier."""
    estimated = estimates(op, group, size_bytes)
    return min(estimated, key=estimated.__getitem__)


def estimates(op: str, group: Group, size_bytes: int) -> dict[str, float]:
    """Estimate of each algorithm that can serve the group, in picoseconds."""
    candidates = dict(_ESTIMATES[op])
    if len(set(group.by_host.values())) > 1 or max(group.by_host.values()) == 1 or len(group.by_host) == 1:
        candidates.pop("hierarchical", None)
    return {name: estimate(group, size_bytes) for name, estimate in candidates.items()}


def _everyone(group: Group) -> np.ndarray:
    return np.arange(group.ranks, dtype=np.int64)


def _ring(times: int) -> Estimate:
    """Estimate of `times` passes around a ring; rounds overlap along it, so that the mean passage counts."""

    def estimate(group: Group, size_bytes: int) -> float:
        channels = group.channels(size_bytes, ring=True)
        each = -(-size_bytes // (group.ranks * len(channels)))
        src, dst = np.concatenate(channels), np.concatenate([np.roll(order, -1) for order in channels])
        return times * (group.ranks - 1) * group.round_ps(src, dst, each, most=False)

    return estimate


def _recursive_doubling(group: Group, size_bytes: int) -> float:
    members = teams(group.ranks)
    leaders = np.array([team[0] for team in members], dtype=np.int64)
    total, reach = _joined(group, size_bytes) + _joined(group, size_bytes, back=True), 1
    while reach < len(leaders):
        total += group.round_ps(leaders, leaders[np.arange(len(leaders)) ^ reach], size_bytes)
        reach *= 2
    return total


def _halving_doubling(times: int) -> Estimate:
    """Estimate of `times` series of exchanges whose distances and sizes halve or double."""

    def estimate(group: Group, size_bytes: int) -> float:
        leaders = np.array([team[0] for team in teams(group.ranks)], dtype=np.int64)
        total, reach = 0.0, 1
        while reach < len(leaders):
            part = -(-size_bytes * reach // len(leaders))
            total += times * group.round_ps(leaders, leaders[np.arange(len(leaders)) ^ reach], part)
            reach *= 2
        small, whole = -(-size_bytes // group.ranks), size_bytes
        sides = (whole, whole) if times == 2 else (small, whole)
        return total + sum(_joined(group, side) for side in sides)

    return estimate


def _joined(group: Group, size_bytes: int, *, back: bool = False) -> float:
    """Time of a round inside teams of two, to their leaders or `back`, in picoseconds; 0 without such teams."""
    pairs = np.array([team for team in map(tuple, teams(group.ranks)) if len(team) == 2], dtype=np.int64).reshape(-1, 2)
    leaders, seconds = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
    return group.round_ps(leaders, seconds, size_bytes) if back else group.round_ps(seconds, leaders, size_bytes)


def _tree(trees: int) -> Estimate:
    """Estimate of pipelined trees: pieces go up and down, and on an edge each one waits until the last has arrived."""

    def estimate(group: Group, size_bytes: int) -> float:
        channels = group.channels(size_bytes, ring=False)
        cut = pieces(-(-size_bytes // (trees * len(channels))))
        first = np.array(in_order_tree(group.ranks), dtype=np.int64).reshape(-1, 2)
        turned = [(order, shift) for order in channels for shift in range(trees)]
        up = np.concatenate([order[(first + shift) % group.ranks] for order, shift in turned])
        height = group.ranks.bit_length() - 1
        ways = np.ascontiguousarray(np.concatenate([up, up[:, ::-1]]).T)
        fill = 0.0
        for level in _levels(first, group.ranks):
            child, parent = (
                np.ascontiguousarray(
                    np.concatenate([order[(level[:, end] + shift) % group.ranks] for order, shift in turned])
                )
                for end in (0, 1)
            )
            fill += group.round_ps(child, parent, cut[0]) + group.round_ps(parent, child, cut[0])
        steady = group.round_ps(ways[0], ways[1], cut[0])
        return fill + (len(cut) - 1) * steady if height else 0.0

    return estimate


def _levels(edges: np.ndarray, ranks: int) -> list[np.ndarray]:
    """Edges by the height of the child, from the bottom up."""
    height = np.array([((int(child) + 1) & -(int(child) + 1)).bit_length() for child, _ in edges], dtype=np.int64)
    return [edges[height == level] for level in range(1, ranks.bit_length() + 1) if (height == level).any()]


def _hierarchical(within: int, between: int) -> Estimate:
    """Estimate of rings within hosts, then rings between hosts among participants of equal local index."""

    def estimate(group: Group, size_bytes: int) -> float:
        order = np.argsort(group.machines, kind="stable")
        grid = order.reshape(len(group.by_host), -1)
        hosts, local = grid.shape
        near, far = np.roll(grid, -1, axis=1), np.roll(grid, -1, axis=0)
        inner = group.round_ps(grid.reshape(-1), near.reshape(-1), -(-size_bytes // local), most=False)
        outer = group.round_ps(grid.reshape(-1), far.reshape(-1), -(-size_bytes // group.ranks), most=False)
        return within * (local - 1) * inner + between * (hosts - 1) * outer

    return estimate


def _binomial(group: Group, size_bytes: int) -> float:
    ranks, total, reach = _everyone(group), 0.0, 1
    while reach < group.ranks:
        holders = ranks[: min(reach, group.ranks - reach)]
        total += group.round_ps(holders, holders + reach, size_bytes)
        reach *= 2
    return total


def _chain(group: Group, size_bytes: int) -> float:
    channels = group.channels(size_bytes, ring=True)
    cut = pieces(-(-size_bytes // len(channels)))
    src = np.concatenate([order[:-1] for order in channels])
    dst = np.concatenate([order[1:] for order in channels])
    mean, longest = group.round_ps(src, dst, cut[0], most=False), group.round_ps(src, dst, cut[0])
    return (group.ranks - 1) * mean + (len(cut) - 1) * longest


def _from_root(group: Group, size_bytes: int) -> float:
    others = np.arange(1, group.ranks, dtype=np.int64)
    return group.round_ps(np.zeros_like(others), others, size_bytes)


def _exchange(group: Group, size_bytes: int) -> float:
    """Every rank sends all but its own part: as many rounds of one part as there are others."""
    ranks, each = _everyone(group), -(-size_bytes // group.ranks)
    return (group.ranks - 1) * group.round_ps(ranks, np.roll(ranks, -(group.ranks // 2)), each, most=False)


_ESTIMATES: dict[str, dict[str, Estimate]] = {
    "all_reduce": {
        "ring": _ring(2),
        "tree": _tree(1),
        "double_tree": _tree(2),
        "recursive_doubling": _recursive_doubling,
        "halving_doubling": _halving_doubling(2),
        "hierarchical": _hierarchical(2, 2),
    },
    "all_gather": {"ring": _ring(1), "halving_doubling": _halving_doubling(1), "hierarchical": _hierarchical(1, 1)},
    "reduce_scatter": {"ring": _ring(1), "halving_doubling": _halving_doubling(1), "hierarchical": _hierarchical(1, 1)},
    "all_to_all": {"direct": _exchange},
    "broadcast": {"tree": _binomial, "ring": _chain, "direct": _from_root},
}
