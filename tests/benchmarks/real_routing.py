"""Placements on the routing of a real mixture: python -m tests.benchmarks.real_routing.

The traces are those of DeepSeek-V2-Lite on two domains (26 layers, 64 experts, six a token), published with ESFT and
read from ../shared/data/esft in this project's format. Every solver sees the sequences with even numbers, and is judged
on the odd ones. Sequences are dealt to 8 ranks in turn, in both halves alike, so that what is known of one rank's
tokens says nothing about another's. Times are seconds of CPU of the solver.

Columns: ranks that a token visits in a layer; first choices that move to another rank between layers; the priced total
of coherent dispatch, anchors and copies, in moves of a token (a ring of equal ranks: every move costs 1); the load of
the busiest rank over the mean, its mean over the layers and the worst.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.objective import coherent_cost, coherent_moves, copies_moves
from moe.placement.cost.replicas import replicated_moves
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.solve import solve
from moe.placement.topology import Topology
from moe.routing_trace import RoutingTrace

FOLDER = Path("../shared/data/esft")
DOMAINS = ("law", "summary")
RANKS = 8
CAPS = (None, 1.15, 1.05)
MODES: tuple[Dispatch, ...] = ("coherent", "copies", "home", "hierarchical")
_PER_TOKEN = ("expert_ids", "source_rank", "weights", "step", "micro", "sequence", "position")


@dataclass(frozen=True)
class Row:
    """One placement, judged on tokens that its solver has not seen.

    Attributes:
        name: What made it.
        visits: Ranks that a token visits in a layer.
        moved: Share of the first choices that move to another rank, or None with replicas.
        coherent: Cost of coherent dispatch, moves of a token, or None with replicas.
        busiest: Load of the busiest rank over the mean, its mean over the layers.
        worst: The same in the layer where it is highest.
        seconds: CPU seconds of the solver.
    """

    name: str
    visits: float
    moved: float | None
    coherent: float | None
    busiest: float
    worst: float
    seconds: float

    def line(self) -> str:
        """The row of the table."""
        moved = "      -" if self.moved is None else f"{self.moved:7.1%}"
        coherent = "       -" if self.coherent is None else f"{self.coherent:8.1f}"
        return (
            f"{self.name:32} {self.visits:6.3f} {moved} {coherent} {self.busiest:8.3f} {self.worst:6.3f} "
            f"{self.seconds:8.2f}"
        )


def main() -> None:
    """Solves, judges, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"folder of the traces (default {FOLDER})")
    parser.add_argument("--out", type=Path, help="JSON file for all that is printed")
    given = parser.parse_args()
    paths = [given.folder / f"{domain}.npz" for domain in DOMAINS]
    if not all(path.is_file() for path in paths):
        print(f"skipped: no real routing traces ({', '.join(map(str, paths))})")
        return
    traces = [RoutingTrace.read(path) for path in paths]
    known, unseen = (_count(traces, parity) for parity in (0, 1))
    print(f"solved on {known.num_tokens:,} tokens, judged on {unseen.num_tokens:,} others; 1 node x {RANKS} ranks")
    print(f"{'':32} {'ranks':>6} {'first':>7} {'coherent':>8} {'busiest rank':^15} {'solver':>8}")
    print(f"{'placement':32} {'/token':>6} {'moved':>7} {'priced':>8} {'mean':>8} {'worst':>6} {'CPU s':>8}")
    rows = {}
    for name, place in _placements(known).items():
        began_s = time.process_time()
        holders, rule = place()
        rows[name] = _judge(name, unseen, holders, rule, time.process_time() - began_s)
        print(rows[name].line(), flush=True)
    met = _bars(rows)
    for bar, reached in met.items():
        print(f"{'met   ' if reached else 'missed'} {bar}")
    if given.out:
        document: dict[str, Any] = {"rows": [vars(row) for row in rows.values()], "bars": met}
        given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def eplb(loads: NDArray[np.int64], num_ranks: int, slots_per_rank: int) -> NDArray[np.bool_]:
    """The rule of EPLB's balancer for one layer, in words of its publication.

    Spare slots go one by one to the expert with the largest load per replica; then replicas in order of their load go
    each to the least loaded rank with a free slot. Two replicas may meet on one rank; they count as one here, whose
    second slot stays empty.

    Args:
        loads: Choices of each expert, [E].
        num_ranks: Ranks G.
        slots_per_rank: Slots of one rank.

    Returns:
        Ranks that hold each expert, bool [E, G].
    """
    replicas = np.ones(len(loads), np.int64)
    for _ in range(num_ranks * slots_per_rank - len(loads)):
        replicas[(loads / replicas).argmax()] += 1
    share = loads / replicas
    filled, load = np.zeros(num_ranks, np.int64), np.zeros(num_ranks)
    holders = np.zeros((len(loads), num_ranks), bool)
    for expert in np.repeat(np.arange(len(loads)), replicas)[np.argsort(-np.repeat(share, replicas), kind="stable")]:
        rank = int(np.where(filled < slots_per_rank, load, np.inf).argmin())
        holders[expert, rank] = True
        filled[rank] += 1
        load[rank] += share[expert]
    return holders


def _count(traces: list[RoutingTrace], parity: int) -> RoutingStatistics:
    """Counts of the sequences with even or odd numbers."""
    total = None
    for trace in traces:
        assert trace.sequence is not None
        chosen = trace.sequence % 2 == parity
        half = {name: getattr(trace, name)[chosen] for name in _PER_TOKEN if getattr(trace, name) is not None}
        half["source_rank"] = half["sequence"] // 2 % RANKS
        statistics = RoutingStatistics.collect(replace(trace, **half), RANKS)
        total = statistics if total is None else total + statistics
    assert total is not None
    return total


def _placements(known: RoutingStatistics) -> dict[str, Callable[[], tuple[NDArray[np.bool_], str]]]:
    """How each placement is made: the ranks that hold each expert, and the rule that splits tokens over replicas."""
    flat, nodes = Topology.hops(1, RANKS), Topology.hops(2, RANKS // 2)
    layers, experts = known.num_layers, known.num_experts

    def plain(ranks: NDArray[np.int64]) -> NDArray[np.bool_]:
        return ranks[:, :, None] == np.arange(RANKS)

    def solved(mode: Dispatch, cap: float | None) -> Callable[[], tuple[NDArray[np.bool_], str]]:
        topology = nodes if mode == "hierarchical" else flat
        return lambda: (solve(known, topology, objective=mode, max_load=cap).holders(), "even")

    def packed(slots: int, rule: str) -> Callable[[], tuple[NDArray[np.bool_], str]]:
        made = lambda: solve(known, flat, objective="copies", solver="packing", slots=slots)  # noqa: E731
        return lambda: (made().holders(), rule)

    def replicated(rule: str) -> Callable[[], tuple[NDArray[np.bool_], str]]:
        return lambda: (
            solve(known, flat, objective="copies", slots=9, max_load=1.05, strict=False, rule=rule).holders(),
            rule,
        )

    made: dict[str, Callable[[], tuple[NDArray[np.bool_], str]]] = {
        "contiguous": lambda: (plain(contiguous_ranks(layers, experts, RANKS)), "even")
    }
    for mode in MODES:
        for cap in CAPS:
            made[f"{mode}, {'no cap' if cap is None else f'cap {cap:g}'}"] = solved(mode, cap)
    made["packing"] = packed(experts // RANKS, "even")
    made["EPLB's rule"] = lambda: (np.stack([eplb(loads, RANKS, experts // RANKS) for loads in known.loads]), "even")
    for rule in ("even", "least_loaded"):
        made[f"packing, 72 slots, {rule}"] = packed(9, rule)
        made[f"copies, 72 slots, {rule}"] = replicated(rule)
    return made


def _judge(name: str, unseen: RoutingStatistics, holders: NDArray[np.bool_], rule: str, seconds: float) -> Row:
    topology = Topology.two_level(1, RANKS, intra=1, inter=1, unit="moves")
    moves, loads = replicated_moves(unseen, topology, holders, "copies", rule)
    moved = coherent = None
    if (holders.sum(axis=2) == 1).all():
        ranks = holders.argmax(axis=2)
        assert moves.sum() == copies_moves(unseen, ranks, RANKS).sum()
        first = coherent_moves(unseen, ranks, RANKS)
        moved = float((first * topology.off_rank).sum() / first.sum())
        coherent = float(coherent_cost(unseen, ranks, topology.cost).sum()) / unseen.num_tokens
    relative = loads.max(axis=1) / loads.mean(axis=1)
    visits = float(moves[0].sum()) / unseen.num_tokens / unseen.num_layers
    return Row(name, visits, moved, coherent, float(relative.mean()), float(relative.max()), seconds)


def _bars(rows: dict[str, Row]) -> dict[str, bool]:
    copies, coherent, contiguous = rows["copies, cap 1.15"], rows["coherent, cap 1.15"], rows["contiguous"]
    assert coherent.moved is not None
    assert coherent.coherent is not None
    assert contiguous.coherent is not None
    saved = 1 - coherent.coherent / contiguous.coherent
    bars = {
        f"copies, cap 1.15: {copies.visits:.3f} ranks a token (at most 3.45)": copies.visits <= 3.45,
        f"copies, cap 1.15: busiest rank {copies.busiest:.3f} (at most 1.20)": copies.busiest <= 1.20,
        f"coherent, cap 1.15: {coherent.moved:.1%} of first choices move (at most 45 %)": coherent.moved <= 0.45,
        f"coherent, cap 1.15: priced total {saved:.1%} below contiguous (at least 25 %)": saved >= 0.25,
    }
    for rule in ("even", "least_loaded"):
        row = rows[f"copies, 72 slots, {rule}"]
        bars[
            f"72 slots, {rule}: busiest rank {row.busiest:.3f} (at most 1.05) at {row.visits:.3f} ranks a token "
            "(at most 3.45)"
        ] = row.busiest <= 1.05 and row.visits <= 3.45
    return bars


if __name__ == "__main__":
    main()
