"""Choice of the engine of a run: the one of the scenario, or with auto the fastest that is exact."""

from collections.abc import Callable

from netsim.engine.limits import Pulse
from netsim.engine.protocol import Engine, Outcome, Scene
from netsim.transport.build import PACKET_TRANSPORTS, build_transport
from netsim.transport.config import TransportConfig
from netsim.transport.protocol import Transport


def refusal(wanted: Engine, scene: Scene, transport: TransportConfig, most_paths: int) -> str | None:
    """Why an engine cannot simulate a run; None if it can, as auto and simpy always do.

    `most_paths` is the largest number of paths between two hosts that talk to each other.
    """
    if scene.ends_early and (wanted == "fluid" or transport.kind == "ideal"):
        return "the run ends while background traffic goes on"
    if scene.classes > 1 and (wanted == "fluid" or transport.kind == "ideal"):
        return "flows without packets have no classes"
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
    """The scene with the paths that a transport may take: only some take detours."""
    if not PACKET_TRANSPORTS.get(transport.kind, Transport).takes_detours:
        return scene
    routes = scene.routes.with_detours
    return scene._replace(topology=routes.topology, routes=routes)


def fastest(scene: Scene, transport: TransportConfig, most_paths: int) -> Engine:
    """The fastest engine that is exact for a run; the transport is not ideal."""
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
    """Simulates one transport with one seed by an engine that can; the outcome does not depend on `cores`.

    Returns:
        The outcome, and the name of the engine.
    """
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
