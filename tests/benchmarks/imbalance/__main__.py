"""Every router and dispatch mode on six workloads: imbalance, bytes, simulated and measured time.

``python -m tests.benchmarks.imbalance [--quick] [--seed 0] [--traces FILES] [--out FILE]``

One mixture-of-experts layer on four gloo ranks, one thread each: 64 experts, six a token (BASE: one), as in the model
of the recorded traces. Routers take 40 batches to learn, then 8 batches are measured. Workloads: loads that are even,
fall as Zipf's law, have one hot expert, drift by an expert a batch, or are even with one batch in eight that has a hot
expert; and the tokens of a real model, where their traces are at hand. Prints a table in Markdown for each workload:

expert    busiest expert over the mean, mean of the batches (worst batch)
rank      busiest rank over the mean, experts by number -> placed for `copies` under a cap of 1.1, on the eight batches
          before those measured
dropped   due choices that no expert took
ranks     ranks that a token visits, experts by number -> placed
MB        bytes between ranks in a batch, forward and backward, by mode: home / copies / hierarchical / coherent
node MB   those between the two nodes of two ranks
simulated time of these exchanges over that of the even workload; 10 Gbit/s to each rank, 5 Gbit/s between nodes
measured  wall time of the layer, forward and backward, over that of the even workload; of every batch the fastest round
CPU       busiest rank's CPU time over the same of the even workload, likewise

Measured turns are interleaved, but the wall time needs a machine that does nothing else. Ranks outnumber cores on a
small machine: an idle rank then lends its core to a busy one, and the ratio is smaller than on four cores. CPU time
depends less on both. A coherent layer is alone here: its tokens come from home, stay with their experts, and no
attention gathers keys.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moe.dispatch.messages import Sizes
from tests.benchmarks.imbalance import ranks, traffic
from tests.benchmarks.imbalance.ranks import MODES, REAL, ROUTERS, SHAPE, WIDTH, Plan, Routed, Turns, allows, measure
from tests.ranks import run_ranks

TRACES = tuple(Path(f"../shared/data/esft/{name}.npz") for name in ("law", "summary"))
ELEMENT_BYTES = 4
Figures = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes.

    Args:
        argv: arguments, those of the process if None.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(
        prog="imbalance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="count and simulate, but time one round only")
    parser.add_argument("--rounds", type=int, help="turns of each layer on each workload (default: 2; 0: none)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (default: 0)")
    parser.add_argument(
        "--traces", type=Path, nargs="*", default=TRACES, metavar="NPZ", help="routing traces of the real workload"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the figures go, as JSON")
    given = parser.parse_args(argv)
    began_s = time.perf_counter()
    rounds = given.rounds if given.rounds is not None else 1 if given.quick else 2
    plan = Plan(given.seed, tuple(path for path in given.traces if path.exists()), rounds)
    of_ranks = run_ranks(measure, SHAPE.ranks, plan)
    figures = {
        workload: {router: _figures(of_ranks, workload, router, given.seed) for router in ROUTERS}
        for workload in plan.workloads
    }
    print(
        f"Seed {given.seed}; {SHAPE.ranks} ranks, {SHAPE.tokens} tokens each, {SHAPE.experts} experts, {SHAPE.top_k} a "
        f"token; width {WIDTH}, {ranks.MEASURED} batches after {ranks.WARM_UP}, {rounds} rounds"
    )
    if not plan.traces:
        print(f"\nThe {REAL} workload is left out: no trace at {', '.join(map(str, given.traces)) or 'any path'}.")
    for workload, of_routers in figures.items():
        print(f"\n### {workload}\n")
        print("\n".join(table(of_routers, figures["even"])))
    load = os.getloadavg()[0]
    print(f"\n{time.perf_counter() - began_s:.0f} s, load average {load:.2f}")
    if given.out:
        document = {"seed": given.seed, "load_average": load, "figures": figures}
        given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def table(of_routers: Mapping[str, Figures], even: Mapping[str, Figures]) -> Iterator[str]:
    """The lines of one workload's table in Markdown; figures between strokes are those of the modes.

    Args:
        of_routers: figures by router.
        even: those of the even workload.
    """
    columns = ("router", "expert", "rank", "dropped", "ranks", "MB", "node MB", "simulated", "measured", "CPU")
    yield "| " + " | ".join(columns) + " |"
    yield "| --- |" + " ---: |" * (len(columns) - 1)
    for router, own in of_routers.items():
        base = even[router]
        cells = (
            router,
            f"{own['expert_load']:.2f} ({own['worst_expert_load']:.2f})",
            f"{own['rank_load']:.2f} -> {own['placed_rank_load']:.2f}",
            f"{own['dropped']:.1%}",
            f"{own['visits']:.2f} -> {own['placed_visits']:.2f}",
            _of_modes(own["megabytes"], dict.fromkeys(MODES, 1.0)),
            _of_modes(own["node_megabytes"], dict.fromkeys(MODES, 1.0)),
            _of_modes(own["simulated_us"], base["simulated_us"]),
            _of_modes(own["wall_s"], base["wall_s"]),
            _of_modes(own["cpu_s"], base["cpu_s"]),
        )
        yield "| " + " | ".join(cells) + " |"


def _of_modes(own: Mapping[str, float], base: Mapping[str, float]) -> str:
    return " / ".join(f"{own[mode] / base[mode]:.2f}" if mode in own else "-" for mode in MODES)


def _figures(of_ranks: Sequence[tuple[Mapping[Any, Routed], Turns]], workload: str, router: str, seed: int) -> Figures:
    """What one router makes of one workload."""
    routed = [routed[workload, router] for routed, _ in of_ranks]
    before, chosen = (_together([getattr(one, name) for one in routed]) for name in ("chosen", "measured"))
    contiguous, placed = traffic.contiguous(SHAPE), traffic.placed(before, SHAPE, seed)
    by_number, by_plan = (traffic.visits(chosen, where, SHAPE.ranks) for where in (contiguous, placed))
    loads = traffic.expert_load(chosen, SHAPE.experts)
    sizes = Sizes(WIDTH, ELEMENT_BYTES, SHAPE.experts, "float32")
    modes = [mode for mode in MODES if allows(ROUTERS[router], mode)]
    issued = {mode: list(traffic.exchanges(chosen, contiguous, mode, sizes)) for mode in modes}
    timed = [mode for mode in modes if of_ranks[0][1]]
    slowest = {mode: np.max([turns[workload, router, mode] for _, turns in of_ranks], axis=0) for mode in timed}
    wall_s, cpu_s = (
        {mode: float(times[:, :, kind].min(axis=0).sum()) for mode, times in slowest.items()} for kind in (0, 1)
    )
    return {
        "expert_load": float(loads.mean()),
        "worst_expert_load": float(loads.max()),
        "rank_load": float(traffic.rank_load(by_number).mean()),
        "placed_rank_load": float(traffic.rank_load(by_plan).mean()),
        "dropped": float(np.mean([one.dropped for one in routed])),
        "visits": traffic.visits_of_a_token(by_number, SHAPE),
        "placed_visits": traffic.visits_of_a_token(by_plan, SHAPE),
        "megabytes": {mode: traffic.crossing_bytes(one, SHAPE.ranks) / 1e6 for mode, one in issued.items()},
        "node_megabytes": {mode: traffic.crossing_bytes(one, traffic.NODES) / 1e6 for mode, one in issued.items()},
        "simulated_us": {mode: traffic.simulated_us(one, SHAPE.ranks) for mode, one in issued.items()},
        "wall_s": wall_s,
        "cpu_s": cpu_s,
    }


def _together(of_ranks: Sequence[traffic.Choices]) -> traffic.Choices:
    """The choices of all ranks [S, R, T, K], from those of each [S, T, K], whose K may differ."""
    most = max(ids.shape[2] for ids in of_ranks)
    padded = [np.pad(ids, ((0, 0), (0, 0), (0, most - ids.shape[2])), constant_values=-1) for ids in of_ranks]
    return np.stack(padded, axis=1)


if __name__ == "__main__":
    sys.exit(main())
