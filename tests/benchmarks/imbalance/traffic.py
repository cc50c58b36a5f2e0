"""What choices load and send: busiest expert and rank, visits, bytes by the dispatch mode, simulated time.

Shape legend: S batches, R ranks, T tokens of a rank, E experts, K most choices of a token.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe.collective_trace import CollectiveRecord, TraceHeader, write
from moe.dispatch.coherent_messages import Moves, coherent_exchanges
from moe.dispatch.messages import PATTERNS, Exchange, Sizes, Visits
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.solve import solve
from moe.placement.topology import Topology
from moe.routing_trace import RoutingHeader, RoutingTrace
from netsim.simulation.compare import simulate
from tests.benchmarks.imbalance.workloads import Shape

Choices = NDArray[np.int64]
"""Experts of every token, [S, R, T, K], the best first, -1 where there is none."""
Ranks = NDArray[np.int64]
"""Rank of each expert, [E]."""
NODES = 2
MAX_LOAD = 1.1
"""The placement's cap on the busiest rank, over the mean; where no placement keeps it, a little above the least."""
FABRIC = {
    "kind": "leaf_spine",
    "leaves": 2,
    "spines": 1,
    "hosts_per_leaf": 2,
    "host_rate": "10Gbps",
    "fabric_rate": "5Gbps",
    "link_delay": "500ns",
}
"""A leaf is a node of two ranks; its link to the other node has a quarter of the bandwidth of its ranks together."""


def expert_load(chosen: Choices, num_experts: int) -> NDArray[np.float64]:
    """Busiest expert over the mean of all, for each batch [S]."""
    loads_SE = np.stack([np.bincount(ids[ids >= 0], minlength=num_experts) for ids in chosen])
    return loads_SE.max(axis=1) / np.maximum(loads_SE.mean(axis=1), 1e-9)


def visits(chosen: Choices, ranks_E: Ranks, num_ranks: int) -> list[Visits]:
    """Visits of each batch."""
    return [Visits.of(list(enumerate(ids_RTK)), ranks_E, num_ranks) for ids_RTK in chosen]


def rank_load(batches: Sequence[Visits]) -> NDArray[np.float64]:
    """Busiest rank over the mean of all, for each batch [S]."""
    loads_SR = np.stack([batch.choices.sum(axis=0) for batch in batches])
    return loads_SR.max(axis=1) / np.maximum(loads_SR.mean(axis=1), 1e-9)


def visits_of_a_token(batches: Sequence[Visits], shape: Shape) -> float:
    """Ranks that a token visits, mean over tokens and batches."""
    return sum(int(batch.tokens.sum()) for batch in batches) / (shape.batch * len(batches))


def contiguous(shape: Shape) -> Ranks:
    """Experts by number."""
    return contiguous_ranks(1, shape.experts, shape.ranks)[0]


def placed(chosen: Choices, shape: Shape, seed: int) -> Ranks:
    """Experts placed for the fewest copies under a cap on the busiest rank, by other batches than those measured.

    Args:
        chosen: choices to solve on.
        shape: sizes.
        seed: of the solver.

    Returns:
        Rank of each expert.
    """
    steps, ranks, tokens, width = chosen.shape
    header = RoutingHeader(
        num_experts=shape.experts, num_layers=1, top_k=width, world_size=ranks, model="imbalance", dispatch="copies"
    )
    source = np.broadcast_to(np.arange(ranks)[None, :, None], (steps, ranks, tokens)).reshape(-1)
    trace = RoutingTrace(chosen.reshape(-1, 1, width), source, header)
    statistics = RoutingStatistics.collect(trace, shape.ranks)
    topology = Topology.hops(1, shape.ranks)
    placement = solve(statistics, topology, objective="copies", seed=seed, max_load=MAX_LOAD, strict=False)
    return placement.expert_ranks()[0]


def exchanges(chosen: Choices, ranks_E: Ranks, mode: str, sizes: Sizes) -> Iterator[tuple[int, str, Exchange]]:
    """Batch, phase and exchange of every collective of the layer, in program order.

    In coherent dispatch the layer is alone: its tokens come from home and stay, and no attention gathers anything.
    """
    for step, ids_RTK in enumerate(chosen):
        by_home = list(enumerate(ids_RTK))
        for phase in ("forward", "backward"):
            if mode == "coherent":
                expanded = [(home, ids_TK[:, None]) for home, ids_TK in by_home]
                (moves,) = Moves.of(expanded, ranks_E[None], len(by_home))
                own = coherent_exchanges(moves, sizes, phase)
            else:
                own = PATTERNS[mode](Visits.of(by_home, ranks_E, len(by_home), NODES), sizes, phase)
            yield from ((step, phase, exchange) for exchange in own)


def crossing_bytes(issued: Sequence[tuple[int, str, Exchange]], places: int) -> float:
    """Bytes of a batch that leave their rank, or their node, mean.

    Args:
        issued: batch, phase and exchange of every collective.
        places: ranks, or nodes, that the ranks are divided into.
    """
    volume_NN = np.sum([exchange.volume for _, _, exchange in issued], axis=0)
    place_N = np.arange(len(volume_NN)) // (len(volume_NN) // places)
    steps = len({step for step, _, _ in issued})
    return float(volume_NN[place_N[:, None] != place_N].sum()) / steps


def simulated_us(issued: Sequence[tuple[int, str, Exchange]], num_ranks: int) -> float:
    """Time of a batch's exchanges on the fabric, one after the other with nothing in between, mean, us."""
    steps = sorted({step for step, _, _ in issued})
    groups = {"world": tuple(range(num_ranks))}
    records = []
    for rank in range(num_ranks):
        for seq, (step, phase, exchange) in enumerate(issued):
            own = exchange.members(rank)
            group = exchange.group if exchange.parts is None else f"{exchange.group}_{exchange.parts[rank]}"
            groups[group] = tuple(own.tolist())
            about = {"rank": rank, "seq": seq, "step": step, "micro": 0, "phase": phase, "group": group, "layer": 0}
            records.append(CollectiveRecord(**about, size1=len(own) == 1, **exchange.fields(rank)))
    header = TraceHeader("formula", num_ranks, num_ranks // NODES, groups, tuple(steps), None, None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "collectives.jsonl"
        write(path, header, records)
        scenario = {
            "format": "flowfabric.scenario/1",
            "topology": FABRIC,
            "packet": {"payload": "1448B", "header": "52B"},
            "workload": {"kind": "trace", "path": str(path), "steps": "all"},
            "transports": ["ideal"],
            "seeds": [0],
        }
        (run,) = simulate(scenario).runs
    return run.completion_ps / 1e6 / len(steps)
