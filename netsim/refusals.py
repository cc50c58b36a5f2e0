"""Scenarios that cannot be simulated although each of their sections can be read: refused with one line."""

import numpy as np

from netsim.engine.buffers import limits_of
from netsim.engine.protocol import Scene
from netsim.engines import refusal, seen_by
from netsim.foundation.refusal import Refusal
from netsim.scenario import Scenario
from netsim.seats import Seats
from netsim.transport.build import PACKET_TRANSPORTS, build_transport
from netsim.transport.protocol import Transport
from netsim.workload.tasks import Tasks


def refuse_watched(scenario: Scenario, source: str, seats: Seats) -> None:
    """Refuses to watch flows of ranks that do not exist, or that talk without the network."""
    ranks = len(seats.hosts)
    for number, pair in enumerate(() if scenario.watch is None else scenario.watch.flows):
        if max(pair) >= ranks:
            problem = f"rank {max(pair)} has no host ({ranks} ranks fit)"
            raise Refusal(source, f"watch.flows.{number}", problem, f"name ranks from 0 to {ranks - 1}")
        if len({seats.machines[rank] for rank in pair}) == 1:
            problem = f"ranks {pair[0]} and {pair[1]} sit on one host, inside which nothing is watched"
            raise Refusal(source, f"watch.flows.{number}", problem, "name ranks of two hosts")


def refuse_silent(scenario: Scenario, source: str, seats: Seats, tasks: Tasks) -> None:
    """Refuses to watch flows of ranks that never talk."""
    pairs = () if scenario.watch is None else scenario.watch.flows
    if not pairs:
        return
    columns, machines = tasks.columns(), np.asarray(seats.machines, dtype=np.int64)
    ranks = len(machines)
    sends = (columns.bytes > 0) & (columns.src < ranks) & (columns.dst < ranks)
    talking = np.unique(columns.src[sends] * ranks + columns.dst[sends])
    talking = talking[machines[talking // ranks] != machines[talking % ranks]]
    for number, (src, dst) in enumerate(pairs):
        if not (talking == src * ranks + dst).any():
            distance = np.abs(talking // ranks - src) + np.abs(talking % ranks - dst)
            nearest = [[*divmod(pair, ranks)] for pair in talking[np.argsort(distance, kind="stable")[:3]].tolist()]
            remedy = f"name pairs that do, such as {', '.join(map(str, nearest))}" if nearest else "remove watch.flows"
            raise Refusal(source, f"watch.flows.{number}", f"rank {src} sends nothing to rank {dst}", remedy)


def refuse_small_memory(source: str, scene: Scene) -> None:
    """Refuses shared memory that has no room for the packets that come after a pause."""
    if scene.buffer is None or scene.flow_control.kind != "pfc":
        return
    limits = limits_of(scene)
    for link, node in zip(scene.topology.links, limits.source, strict=True):
        if not link.src.startswith("host") and limits.pool[node] <= 0:
            needed = scene.buffer.size - limits.pool[node]
            problem = f"{link.src} needs {needed} B of headroom for its links, and memory beyond"
            raise Refusal(source, "topology.buffer.size", problem, "raise it, or shorten the links' delay")


def refuse_unreachable(scenario: Scenario, source: str, scene: Scene) -> None:
    """Refuses a message without a path that works at the beginning, for any of the transports."""
    for seen in {id(one): one for one in (seen_by(scene, each) for each in scenario.transports)}.values():
        _refuse_unreachable(seen, source)


def _refuse_unreachable(scene: Scene, source: str) -> None:
    topology, leaves = scene.topology, len(scene.topology.tiers[0])
    down = scene.rates.known_down()[0][1]
    pairs = np.flatnonzero(scene.talking)
    cut = np.array([not scene.routes.usable_ways(*divmod(pair, leaves), 0) for pair in pairs.tolist()], dtype=bool)
    if not down and not cut.any():
        return
    columns, hosts = scene.tasks.columns(), np.asarray(scene.hosts, dtype=np.int64)
    moves = columns.bytes > 0
    asked = np.unique(hosts[columns.src[moves]] * topology.hosts + hosts[columns.dst[moves]])
    for src, dst in (divmod(pair, topology.hosts) for pair in asked.tolist()):
        if not scene.routes.usable(src, dst):
            problem = f"no path leads from host{src} to host{dst}"
            raise Refusal(source, "topology", problem, "add links, or take failures at 0us away")


def refuse_own_transports(scenario: Scenario, source: str) -> None:
    """Refuses a transport class of the user that cannot be found, or does not accept its options."""
    for index, transport in enumerate(scenario.transports):
        if transport.kind == "own":
            try:
                build_transport(transport, seed=0, most_paths=1)
            except ValueError as error:
                problem, _, remedy = str(error).partition("; ")
                raise Refusal(source, f"transports.{index}", problem, remedy) from None


def refuse_detours(scenario: Scenario, source: str) -> None:
    """Refuses transports that take detours on a fabric that has none."""
    for index, transport in enumerate(scenario.transports):
        detours = PACKET_TRANSPORTS.get(transport.kind, Transport).takes_detours
        if detours and scenario.topology.kind not in ("dragonfly", "torus"):
            problem = f"{transport.name} takes detours, and a {scenario.topology.kind} has none"
            raise Refusal(source, f"transports.{index}", problem, "take topology.kind dragonfly or torus")


def refuse_engine(scenario: Scenario, source: str, scene: Scene, most_paths: int) -> None:
    """Refuses an engine that cannot simulate one of the transports."""
    for transport in scenario.transports:
        why = refusal(scenario.engine, scene, transport, most_paths)
        if why is not None:
            problem = f"{scenario.engine} cannot simulate {transport.name}: {why}"
            raise Refusal(source, "engine", problem, "write engine: auto, or take the transport out")
