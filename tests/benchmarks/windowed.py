"""Packet-hops a second of the event and the windowed engine: python -m tests.benchmarks.windowed --hosts 64 1024.

A random permutation under DCTCP with selective repeat, sprayed at random over a fabric of leaves and spines without
oversubscription, 100 Gbps and 500 ns a link; then the same where switches pause links (PFC), with acknowledgements in
the control lane, which need no events, and again with those that queue as data, which are as many events as data: only
there the second figure counts them too. CPU time of a run, without the construction of the scene, the best of the
repeats, which take turns. Both engines must end alike.

With --threads, the wall time of the windowed engine with so many threads is set beside that with one, in turns.
"""

import argparse
import sys
import time
from random import Random
from typing import Literal, get_args

from netsim.congestion.dctcp import DctcpConfig
from netsim.congestion.flow_control import AcknowledgementConfig, PfcConfig
from netsim.congestion.recovery import SelectiveConfig
from netsim.engine.core.fabric import FabricArrays, fabric_arrays
from netsim.engine.event.engine import EventEngine
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.windowed.engine import WindowedEngine
from netsim.topology.failure import Rates, Routes
from netsim.topology.leaf_spine import LeafSpine, LeafSpineConfig
from netsim.transport.spray import SprayRandom
from netsim.workload.tasks import Tasks

SHAPES = {64: (8, 8, 8), 256: (16, 16, 16), 1024: (32, 32, 32), 4096: (64, 64, 64), 8192: (128, 64, 64)}
"""Leaves, hosts of a leaf, and spines, by the number of hosts."""
PACKET_BYTES = 4000
Lane = Literal["control", "data"]
ENGINES = {"event": EventEngine, "windowed": WindowedEngine}


def scene_of(hosts: int, packets: int, seed: int) -> Scene:
    """A random permutation, in which every host sends to another one."""
    leaves, hosts_per_leaf, spines = SHAPES[hosts]
    shape = LeafSpineConfig(kind="leaf_spine", leaves=leaves, spines=spines, hosts_per_leaf=hosts_per_leaf)
    topology, order, tasks = LeafSpine(shape), [*range(hosts)], Tasks()
    Random(seed).shuffle(order)
    for place, src in enumerate(order):
        tasks.append(src, order[(place + 1) % hosts], packets * PACKET_BYTES, 0, ())
    rates = Rates(topology, ())
    scene = Scene(topology, rates, Routes(topology, rates), [*range(hosts)], tasks)
    return scene._replace(congestion=DctcpConfig(kind="dctcp"), recovery=SelectiveConfig(kind="selective"))


def with_pauses(scene: Scene, lane: Lane) -> Scene:
    """The scene with PFC, and with acknowledgements in a lane."""
    return scene._replace(flow_control=PfcConfig(kind="pfc"), acknowledgement=AcknowledgementConfig(lane=lane))


def best_of(repeats: int, scene: Scene, fabric: FabricArrays, seed: int) -> dict[str, tuple[float, Outcome]]:
    """The least CPU time of a run of either engine, and its outcome."""
    runs: dict[str, list[tuple[float, Outcome]]] = {name: [] for name in ENGINES}
    for name in [*ENGINES] * repeats:
        engine = ENGINES[name](scene, SprayRandom(seed, scene.most_paths), seed, fabric)
        started = time.process_time()
        outcome = engine.run()
        runs[name].append((time.process_time() - started, outcome))
    return {name: min(of_engine, key=lambda run: run[0]) for name, of_engine in runs.items()}


def with_threads(repeats: int, scene: Scene, fabric: FabricArrays, seed: int, threads: int) -> tuple[str, bool]:
    """Packet-hops by wall time of one thread and of several, and whether they end alike."""
    runs: dict[int, list[tuple[float, Outcome]]] = {1: [], threads: []}
    for count in [*runs] * repeats:
        spray = SprayRandom(seed, scene.most_paths)
        engine = WindowedEngine(scene, spray, seed, fabric, threads=count)
        started = time.perf_counter()
        outcome = engine.run()
        runs[count].append((time.perf_counter() - started, outcome))
    (one_s, one), (several_s, several) = (min(runs[count], key=lambda run: run[0]) for count in (1, threads))
    millions = several.packet_hops / several_s / 1e6
    return f"{threads} threads {millions:5.1f} M/s  {one_s / several_s:.2f} x", several.equals(one)


def _millions(cpu_s: float, outcome: Outcome, lane: Lane | None) -> str:
    """Million data hops a second, and with acknowledgements where they queue."""
    with_answers = f" ({(outcome.packet_hops + outcome.control_hops) / cpu_s / 1e6:.1f})" if lane == "data" else ""
    return f"{outcome.packet_hops / cpu_s / 1e6:5.1f}{with_answers} M/s"


def main() -> int:
    """Measures and prints; returns 1 if the windowed engine is slower than the bar, or ends otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", choices=SHAPES, default=[64, 1024, 8192])
    parser.add_argument("--pauses", type=int, nargs="*", choices=SHAPES, default=[1024], help="hosts where links pause")
    parser.add_argument("--packets", type=int, help="of a message (default: so many that a size takes a second or two)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="also with so many threads")
    parser.add_argument("--bar", type=float, default=10.0, help="least million data hops a second (default: 10)")
    parser.add_argument("--bar-with-pauses", type=float, default=5.0, help="the same with PFC, control lane")
    given = parser.parse_args()
    missed = False
    rows: list[tuple[int, Lane | None]] = [(hosts, None) for hosts in given.hosts]
    rows += [(hosts, lane) for hosts in given.pauses for lane in get_args(Lane)]
    for hosts, lane in rows:
        packets = given.packets or max(200, min(3000, 1_000_000 // hosts))
        scene = scene_of(hosts, packets, given.seed)
        scene = with_pauses(scene, lane) if lane else scene
        fabric = fabric_arrays(scene)
        times = best_of(given.repeats, scene, fabric, given.seed)
        speed = {name: outcome.packet_hops / cpu_s / 1e6 for name, (cpu_s, outcome) in times.items()}
        alike = times["event"][1].equals(times["windowed"][1])
        figures = "  ".join(f"{name} {_millions(*times[name], lane)}" for name in ENGINES)
        what = f"{hosts:5} hosts, {packets} packets{f', PFC, acknowledgements: {lane}' if lane else ''}"
        ratio = speed["windowed"] / speed["event"]
        print(f"{what}: {figures}  {ratio:.2f} x  {'' if alike else 'OUTCOMES DIFFER'}", flush=True)
        if given.threads > 1:
            figures, alike = with_threads(given.repeats, scene, fabric, given.seed, given.threads)
            print(f"{what}: {figures}  {'' if alike else 'OUTCOMES DIFFER'}", flush=True)
            missed |= not alike
        bars = {None: given.bar, "control": given.bar_with_pauses, "data": 0.0}
        missed |= not alike or speed["windowed"] < bars[lane]
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
