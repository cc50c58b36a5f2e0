"""Choice of the engine of a run (auto: the fastest that is exact), and runs with fast-forward."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np

from netsim.engine.limits import Pulse
from netsim.engine.protocol import Engine, Outcome, Scene, Skipped
from netsim.transport.build import PACKET_TRANSPORTS, build_transport
from netsim.transport.config import TransportConfig
from netsim.transport.protocol import Transport


def is_core_built() -> bool:
    """Whether netsim was installed with its compiled core; without it there are simpy alone, and no lower bound."""
    return find_spec("netsim.engine._core") is not None


WITHOUT_CORE = "netsim was installed without its compiled core"
REBUILD = "install a C++20 compiler, and flowfabric once more"


def refusal(wanted: Engine, scene: Scene, transport: TransportConfig, most_paths: int) -> str | None:
    """Why an engine cannot simulate a run; None if it can, as auto and simpy always do.

    `most_paths` is the largest number of paths between two hosts that talk to each other.
    """
    if scene.ends_early and (wanted == "fluid" or transport.kind == "ideal"):
        return "the run ends with background traffic under way"
    if scene.classes > 1 and (wanted == "fluid" or transport.kind == "ideal"):
        return "flows without packets have no classes"
    if not is_core_built() and (wanted not in ("auto", "simpy") or transport.kind == "ideal"):
        return f"{WITHOUT_CORE}: {REBUILD}"
    if transport.kind == "ideal":
        return None
    scene = seen_by(scene, transport)
    match wanted:
        case "exact":
            from netsim.engine.exact.refusal import refusal as by_exact

            return by_exact(scene, transport)
        case "event":
            from netsim.engine.event.refusal import refusal as by_event

            return by_event(scene, build_transport(transport, 0, most_paths))
        case "windowed":
            from netsim.engine.windowed.refusal import refusal as by_windowed

            return by_windowed(scene, build_transport(transport, 0, most_paths))
        case "fluid" if build_transport(transport, 0, most_paths).needs_packets:
            return "the transport decides packet by packet, and flows have none here"
        case _:
            return None


def seen_by(scene: Scene, transport: TransportConfig) -> Scene:
    """The scene with the paths that a transport may take: with detours only if it takes them."""
    if not PACKET_TRANSPORTS.get(transport.kind, Transport).takes_detours:
        return scene
    routes = scene.routes.with_detours
    return scene._replace(topology=routes.topology, routes=routes)


def fastest(scene: Scene, transport: TransportConfig, most_paths: int) -> Engine:
    """The fastest engine that is exact for a run; the transport is not ideal."""
    if not is_core_built():
        return "simpy"
    from netsim.engine.windowed.refusal import fills_windows

    by_windows: tuple[Engine, ...] = ("windowed",) if fills_windows(scene) else ()
    exact_ones: tuple[Engine, ...] = ("exact", *by_windows, "event", "simpy")
    return next(engine for engine in exact_ones if refusal(engine, scene, transport, most_paths) is None)


def run_engine(
    wanted: Engine,
    scene: Scene,
    transport: TransportConfig,
    seed: int,
    most_paths: int,
    report: Callable[[Pulse], None] | None = None,
    cores: int = 1,
) -> tuple[Outcome, str]:
    """Outcome of one transport with one seed, and the name of its engine, which `wanted` must be able to simulate."""
    if transport.kind == "ideal":
        return _fluid(scene, transport, seed, most_paths, report), "fluid"
    scene = seen_by(scene, transport)
    if wanted == "auto":
        wanted = fastest(scene, transport, most_paths)
    match wanted:
        case "fluid":
            return _fluid(scene, transport, seed, most_paths, report), wanted
        case "exact":
            from netsim.engine.exact.engine import ExactEngine

            return ExactEngine(scene, transport, seed, report).run(), wanted
        case "event":
            from netsim.engine.event.engine import EventEngine

            built = build_transport(transport, seed, most_paths)
            return EventEngine(scene, built, seed, report=report).run(), wanted
        case "windowed":
            from netsim.engine.windowed.engine import WindowedEngine
            from netsim.engine.windowed.refusal import threads_for

            built = build_transport(transport, seed, most_paths)
            threads = threads_for(scene, built, cores)
            return WindowedEngine(scene, built, seed, report=report, threads=threads).run(), wanted
        case _:
            from netsim.engine.reference.engine import ReferenceEngine

            return ReferenceEngine(scene, build_transport(transport, seed, most_paths), seed, report).run(), "simpy"


def _fluid(
    scene: Scene, transport: TransportConfig, seed: int, most_paths: int, report: Callable[[Pulse], None] | None
) -> Outcome:
    from netsim.engine.fluid.engine import FluidEngine
    from netsim.engine.fluid.streaming import can_stream, stream

    chosen = None if transport.kind == "ideal" else build_transport(transport, seed, most_paths)
    return stream(scene, chosen, report) if can_stream(scene, chosen) else FluidEngine(scene, chosen, report).run()


def run_forward(
    scene: Scene,
    transport: TransportConfig,
    seed: int,
    most_paths: int,
    report: Callable[[Pulse], None] | None = None,
    cores: int = 1,
) -> tuple[Outcome, str, Skipped]:
    """Outcome as of `run_engine` with auto, to the last bit, the engine of the plain run, and the skipped messages."""
    if transport.kind == "ideal":
        return *run_engine("auto", scene, transport, seed, most_paths, report), Skipped()
    from netsim.engine.forward.engine import ForwardEngine

    scene = seen_by(scene, transport)
    engine = fastest(scene, transport, most_paths)
    plainly = partial(
        run_engine, engine, transport=transport, seed=seed, most_paths=most_paths, report=report, cores=cores
    )
    if skips(scene, transport):
        followed = ForwardEngine(scene, transport, seed, most_paths, report).run()
        outcome = followed.whole(lambda rest: plainly(rest)[0])
        if outcome.completion_ps <= scene.limits.simulated:
            return outcome, engine, followed.skipped
    return *plainly(scene), Skipped()


def skips(scene: Scene, transport: TransportConfig) -> bool:
    """Whether fast-forward might skip messages of a run; the transport is not ideal."""
    from netsim.engine.forward.refusal import refusal

    return refusal(seen_by(scene, transport), transport) is None


def packet_hops(scene: Scene) -> int:
    """Packets of all messages, and acknowledgements where they are sent, times the links of their shortest paths."""
    columns, topology = scene.tasks.columns(), scene.topology
    sent, hosts, leaves = np.flatnonzero(columns.bytes), np.asarray(scene.hosts), len(scene.topology.tiers[0])
    leaf = np.array([topology.leaf(host) for host in range(topology.hosts)])
    src, dst = hosts[columns.src[sent]], hosts[columns.dst[sent]]
    pairs, pair = np.unique(leaf[src] * leaves + leaf[dst], return_inverse=True)
    between = np.array([len(topology.between(*divmod(code, leaves))[0]) for code in pairs.tolist()], dtype=np.int64)
    links = np.where(src == dst, 1, 2 + between[pair])
    answered = scene.congestion.kind != "none" or scene.recovery.kind != "none"
    return (1 + answered) * int((-(-columns.bytes[sent] // scene.packet.payload) * links).sum())
