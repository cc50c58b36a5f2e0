"""How good the placements of each solver are and how long they take: python -m tests.benchmarks.placement.

Traces are Markov chains over experts, (1 - affinity) / E + affinity * (a convex mix of three permutations); what was
placed on one trace is judged on another of the same chain. Times are seconds of CPU time. Costs are hops per token and
gap: 1 inside a node, 2 between nodes.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from moe.placement.cost.evaluation import evaluate
from moe.placement.cost.objective import coherent_cost
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.coherent import solve_pair, solve_sweep
from moe.placement.solver.enumeration import solve_viterbi
from moe.placement.solver.protocol import Assignment, PlacementSolver
from moe.placement.solver.solve import SOLVERS, choose_solver
from moe.placement.topology import Topology
from tests.moe.traces import coherent_walk, dropping_trace, markov_trace
from tests.oracle.integer_programme import solve_milp

TOKENS = 20_000
SIZES = [
    *((8, 24, 4, 2), (8, 24, 8, 2), (16, 12, 4, 2), (16, 24, 8, 2), (16, 24, 16, 4)),
    *((32, 12, 8, 2), (64, 12, 8, 2), (64, 12, 16, 4), (64, 24, 16, 4)),
]
SEARCHES: dict[str, PlacementSolver] = {"sweep": solve_sweep, "pair": solve_pair}
PROGRAMMES = [(8, 4, 2, 1), (8, 4, 4, 2), (8, 12, 4, 1)]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--affinities", type=float, nargs="+", default=[0.0, 0.5, 0.8, 0.95])
    parser.add_argument("--largest", type=int, default=64, help="most experts of a layer")
    parser.add_argument("--seeds", type=int, default=5, help="traces of each kind that are compared to the optimum")
    parser.add_argument("--out", type=Path, help="JSON file for all that is printed")
    given = parser.parse_args()
    figures: dict[str, Any] = {"token_by_token": token_by_token()}
    print(f"counts and tokens one by one: {figures['token_by_token']} costs, all equal")
    print("\n8 experts, 24 layers, 4 ranks: per cent above the optimum, mean and worst, and CPU seconds")
    figures["above_optimum"] = above_optimum(given.seeds)
    print("\nE/L/G/N, cost per gap, CPU seconds, lower bound; moves of other tokens to other ranks and nodes")
    sizes = [size for size in SIZES if size[0] <= given.largest]
    figures["sizes"] = [row(*size, affinity) for affinity in given.affinities for size in sizes]
    print("\nhome-return dispatch, homes at random: moves to other ranks")
    figures["home"] = home()
    print("\nmixed-integer programme: cost and bound per gap against the optimum")
    figures["programme"] = [programme(*size) for size in PROGRAMMES]
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def token_by_token() -> int:
    """Compare the cost from counts with a walk over the tokens, exactly; returns how many were compared."""
    compared = 0
    for seed in range(5):
        for drop in (0.0, 0.3):
            routing = dropping_trace(16, 8, 2, 500, seed=seed, world_size=1, drop=drop)
            statistics, topology = RoutingStatistics.collect(routing, 8), Topology.hops(2, 4)
            for ranks in (contiguous_ranks(8, 16, 8), solve_sweep(statistics, topology, seed=seed).expert_ranks):
                cost = coherent_cost(statistics, ranks, topology.cost).sum()
                assert cost == coherent_walk(routing, ranks, topology.cost, copies=True)[0]
                compared += 1
    return compared


def above_optimum(seeds: int) -> dict[str, Any]:
    """Distance of the searches from the exact optimum."""
    gaps: dict[str, list[float]] = {name: [] for name in SEARCHES}
    times_s: dict[str, list[float]] = {name: [] for name in [*SEARCHES, "viterbi"]}
    for nodes in (1, 2):
        topology = Topology.hops(nodes, 4 // nodes)
        for affinity in (0.5, 0.8, 0.95):
            for seed in range(seeds):
                statistics = RoutingStatistics.collect(markov_trace(8, 24, affinity, TOKENS, seed=seed), 4)
                exact, passed_s = timed(solve_viterbi, statistics, topology)
                times_s["viterbi"].append(passed_s)
                for name, solve in SEARCHES.items():
                    found, passed_s = timed(solve, statistics, topology)
                    cost = coherent_cost(statistics, found.expert_ranks, topology.cost).sum()
                    gaps[name].append(100 * (cost / exact.lower_bound - 1))
                    times_s[name].append(passed_s)
    summary = {
        name: {
            "traces": len(passed),
            "mean_percent": float(np.mean(gaps.get(name, 0.0))),
            "worst_percent": float(np.max(gaps.get(name, 0.0))),
            "mean_s": float(np.mean(passed)),
            "worst_s": max(passed),
        }
        for name, passed in times_s.items()
    }
    for name, one in summary.items():
        print(
            f"{name:8} {one['traces']} traces: mean {one['mean_percent']:.2f} %, worst {one['worst_percent']:.2f} %; "
            f"mean {one['mean_s']:.2f} s, worst {one['worst_s']:.2f} s"
        )
    return summary


def row(experts: int, layers: int, ranks: int, nodes: int, affinity: float) -> dict[str, Any]:
    """All searches on one size, and what they do to other tokens."""
    topology = Topology.hops(nodes, ranks // nodes)
    known, other = (
        RoutingStatistics.collect(markov_trace(experts, layers, affinity, TOKENS, seed=1, tokens_seed=tokens), ranks)
        for tokens in (0, 1)
    )
    gaps = TOKENS * (layers - 1)
    contiguous = contiguous_ranks(layers, experts, ranks)
    before = evaluate(other, topology, contiguous, "coherent")
    auto = choose_solver(known, topology, "coherent")
    figures: dict[str, Any] = {
        "size": f"{experts}/{layers}/{ranks}/{nodes}",
        "affinity": affinity,
        "contiguous": float(coherent_cost(known, contiguous, topology.cost).sum()) / gaps,
        "auto": auto,
    }
    print(f"{figures['size']:12} a={affinity:.2f} contiguous {figures['contiguous']:.4f}", end="")
    for name, solve in {**SEARCHES, auto: SOLVERS["coherent"][auto]}.items():
        found, passed_s = timed(solve, known, topology)
        after = evaluate(other, topology, found.expert_ranks, "coherent")
        figures[name] = {
            "cost": float(coherent_cost(known, found.expert_ranks, topology.cost).sum()) / gaps,
            "lower_bound": found.lower_bound / gaps,
            "cpu_s": passed_s,
            "cross_rank": [before.cross_rank, after.cross_rank],
            "cross_node": [before.cross_node, after.cross_node],
        }
        print(
            f" | {name} {figures[name]['cost']:.4f} >= {figures[name]['lower_bound']:.4f}, {passed_s:.2f} s, "
            f"ranks {100 * (after.cross_rank / before.cross_rank - 1):+.0f} % to {after.cross_rank:.3f}, "
            f"nodes {100 * (after.cross_node / before.cross_node - 1):+.0f} %",
            end="",
        )
    print(flush=True)
    return figures


def home() -> dict[str, float]:
    """Moves to other ranks under a coherent placement, in both dispatch modes."""
    topology = Topology.hops(1, 8)
    statistics = RoutingStatistics.collect(markov_trace(16, 12, 0.8, TOKENS, seed=0, world_size=8), 8)
    placed = solve_pair(statistics, topology, seed=0).expert_ranks
    placements = {"contiguous": contiguous_ranks(12, 16, 8), "placed": placed}
    figures = {
        f"{dispatch}, {name}": evaluate(statistics, topology, ranks, dispatch).cross_rank
        for dispatch in ("home", "coherent")
        for name, ranks in placements.items()
    }
    print(", ".join(f"{name} {share:.4f}" for name, share in figures.items()), "(chance 0.8750)")
    return figures


def programme(experts: int, layers: int, ranks: int, nodes: int) -> dict[str, Any]:
    """The mixed-integer programme on one size with affinity 0.8."""
    topology = Topology.hops(nodes, ranks // nodes)
    statistics = RoutingStatistics.collect(markov_trace(experts, layers, 0.8, TOKENS, seed=1), ranks)
    found, passed_s = timed(solve_milp, statistics, topology)
    gaps = TOKENS * (layers - 1)
    figures = {
        "size": f"{experts}/{layers}/{ranks}/{nodes}",
        "optimum": solve_viterbi(statistics, topology, seed=0).lower_bound / gaps,
        "cost": float(coherent_cost(statistics, found.expert_ranks, topology.cost).sum()) / gaps,
        "lower_bound": found.lower_bound / gaps,
        "cpu_s": passed_s,
    }
    print(", ".join(f"{name} {value:.4f}" if name != "size" else f"{value:10}" for name, value in figures.items()))
    return figures


def timed(solve: PlacementSolver, statistics: RoutingStatistics, topology: Topology) -> tuple[Assignment, float]:
    """Solve with seed 0; also gives the seconds of CPU time."""
    began_s = time.process_time()
    found = solve(statistics, topology, seed=0)
    return found, time.process_time() - began_s


if __name__ == "__main__":
    main()
