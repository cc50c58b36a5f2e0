"""Coherent dispatch as a mixed-integer linear programme: slow, but with its own bound; used to check the searches.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, S experts of one rank and layer.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.coherent import best_bound
from moe.placement.contiguous import contiguous_ranks
from moe.placement.cost.objective import coherent_cost
from moe.placement.counts.layer_counts import layer_blocks
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.slots import cheapest_ranks
from moe.placement.solver.protocol import Assignment
from moe.placement.topology import Topology

MOST_BINARIES = 512
_NODES = 3 * 10**6  # times binaries squared: branch-and-bound nodes, each dearer the more binaries there are
_TOLERANCE = 1e-5  # some ten times that of HiGHS; taken off its bound for every expert, in units of the programme


def solve_milp(statistics: RoutingStatistics, topology: Topology, *, seed: int) -> Assignment:
    """Minimise the coherent cost by branch and bound (HiGHS); a `PlacementSolver` that draws nothing.

    ExFlow's programme (arXiv 2401.08383) has a binary for every token and gap. Here x[l, i, g] is 1 if expert i of
    layer l is on rank g, and t[l, i, g] is what its tokens then pay to move on, 0 if it is elsewhere. Over balanced
    assignments that payment is at least low[l, i, g] and at most high[l, i, g], both by sorting, so that

        min sum t   with   t >= payment(x) - high (1 - x),   t >= low x,   every expert on a rank, S experts a rank

    is exact, for any cost matrix and with jumps. The search ends after a number of nodes, not of seconds.

    Raises:
        ValueError: The programme is too large.
    """
    del seed
    num_layers, num_experts, num_ranks = statistics.num_layers, statistics.num_experts, topology.num_ranks
    ranks = contiguous_ranks(num_layers, num_experts, num_ranks)
    binaries = ranks.size * num_ranks
    if binaries > MOST_BINARIES:
        raise ValueError(
            f"solver: milp takes at most {MOST_BINARIES:,} choices of expert and rank ({binaries:,}); choose pair"
        )
    bound = best_bound(statistics, topology)
    unit = statistics.moves * topology.cost.max() / ranks.size
    if unit > 0:
        chosen, dual_bound = _branch_and_bound(statistics, topology, unit)
        ranks = min(chosen, ranks, key=lambda ranks: coherent_cost(statistics, ranks, topology.cost).sum())
        bound = max(bound, (dual_bound - _TOLERANCE * ranks.size) * unit)
    return Assignment(ranks, bound)


def _branch_and_bound(
    statistics: RoutingStatistics, topology: Topology, unit: float
) -> tuple[NDArray[np.int64], float]:
    """The best assignment found, [L, E], and a lower bound on the optimum, in units."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_array, diags_array, eye_array, kron

    num_layers, num_experts, num_ranks = statistics.num_layers, statistics.num_experts, topology.num_ranks
    blocks = layer_blocks(statistics, 0, num_layers) / unit
    size = num_layers * num_experts
    payment = kron(blocks.reshape(size, size), topology.cost)
    low, high = _extremes(blocks, topology.cost)
    ones = eye_array(size * num_ranks)
    on_one_rank = kron(eye_array(size), np.ones((1, num_ranks)))
    on_each_rank = kron(eye_array(num_layers), kron(np.ones((1, num_experts)), eye_array(num_ranks)))
    nothing = 0 * ones
    constraints = [
        LinearConstraint(block_array([[-payment - diags_array(high), ones]]), lb=-high),  # pyright: ignore[reportArgumentType]
        LinearConstraint(block_array([[-diags_array(low), ones]]), lb=0),
        LinearConstraint(block_array([[on_one_rank, on_one_rank @ nothing]]), 1, 1),
        LinearConstraint(
            block_array([[on_each_rank, on_each_rank @ nothing]]), num_experts // num_ranks, num_experts // num_ranks
        ),
    ]
    highest = np.concatenate([_one_of_each_kind(num_layers, num_experts, topology), np.full(len(high), np.inf)])
    answer = milp(
        np.repeat([0.0, 1.0], len(high)),
        integrality=np.repeat([1, 0], len(high)),
        bounds=Bounds(0, highest),  # pyright: ignore[reportArgumentType]
        constraints=constraints,
        options={"node_limit": max(_NODES // len(high) ** 2, 1), "mip_rel_gap": 0.0},
    )
    if answer.x is None:
        return contiguous_ranks(num_layers, num_experts, num_ranks), answer.mip_dual_bound or 0.0
    shares = answer.x[: len(high)].reshape(num_layers, num_experts, num_ranks)
    return np.stack([cheapest_ranks(-layer) for layer in shares]), answer.mip_dual_bound


def _extremes(blocks: NDArray[np.float64], cost: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Least and largest cost of the next moves of each expert's tokens from each rank, both flat, [L * E * G]."""
    tokens = np.sort(blocks, axis=3)
    prices = np.sort(np.repeat(cost, blocks.shape[1] // len(cost), axis=1), axis=1)
    low = np.einsum("limj,gj->lig", tokens, prices[:, ::-1])
    high = np.einsum("limj,gj->lig", tokens, prices)
    return low.ravel(), high.ravel()


def _one_of_each_kind(num_layers: int, num_experts: int, topology: Topology) -> NDArray[np.float64]:
    """Upper bounds on x, [L * E * G], that keep one of all assignments that differ only by a renaming of ranks.

    Where all nodes are alike and all ranks of a node, name nodes and the ranks of each by the first expert of layer 0
    that they get: expert i cannot be on rank k of node n if i < n + k, nor on rank g if all ranks are alike and i < g.
    """
    rank = np.arange(topology.num_ranks)
    highest = np.ones((num_layers, num_experts, topology.num_ranks))
    same_node = topology.cost[(topology.off_rank > 0) & (topology.off_node == 0)]
    other_node = topology.cost[topology.off_node > 0]
    if len({*same_node, *other_node}) == 1:
        highest[0] = np.arange(num_experts)[:, None] >= rank
    elif len({*same_node}) <= 1 and len({*other_node}) <= 1:
        node, place = np.divmod(rank, topology.ranks_per_node)
        highest[0] = np.arange(num_experts)[:, None] >= node + place
    return highest.ravel()
