"""Choice of the engine of a run: the one of the scenario, or with auto the fastest that is exact."""

from collections.abc import Callable
from pathlib import Path

from netsim.engine.compiled.cache import is_kept
from netsim.engine.limits import Pulse
from netsim.engine.protocol import Engine, Outcome, Scene
from netsim.transport.build import build_transport
from netsim.transport.config import TransportConfig


def refusal(wanted: Engine, scene: Scene, transport: TransportConfig, most_paths: int) -> str | None:
    """Why an engine cannot simulate a run; None if it can, as auto and simpy always do.

    Args:
        wanted: The engine.
        scene: The scene.
        transport: One of the scenario's transports.
        most_paths: Largest number of paths between two hosts that talk to each other.
    """
    if scene.ends_early and (wanted == "fluid" or transport.kind == "ideal"):
        return "the run ends while background traffic goes on"
    if scene.classes > 1 and (wanted == "fluid" or transport.kind == "ideal"):
        return "flows without packets have no classes"
    if transport.kind == "ideal":
        return None
    match wanted:
        case "exact":
            from netsim.engine.exact.refusal import refusal as by_exact

            return by_exact(scene, transport)
        case "event":
            from netsim.engine.event.refusal import refusal as by_event

            return by_event(scene, build_transport(transport, 0, most_paths))
        case "fluid" if build_transport(transport, 0, most_paths).needs_packets:
            return "the transport looks at queues or pauses, which do not exist for flows without packets"
        case _:
            return None


def to_compile(engine: Engine) -> bool:
    """Whether an engine that a run may use has yet to be compiled."""
    names = {"auto": ("exact", "event"), "exact": ("exact",), "event": ("event",)}.get(engine, ())
    return any(not is_kept(Path(__file__).parent / "engine" / name) for name in names)


def run_engine(
    wanted: Engine,
    scene: Scene,
    transport: TransportConfig,
    seed: int,
    most_paths: int,
    report: Callable[[Pulse], None] | None = None,
) -> tuple[Outcome, str]:
    """Simulates one transport with one seed.

    Args:
        wanted: The scenario's choice, which can simulate the run (`refusal` is None).
        scene: The scene.
        transport: One of the scenario's transports.
        seed: Seed of all draws.
        most_paths: Largest number of paths between two hosts that talk to each other.
        report: Called about once a second with how far the run is.

    Returns:
        The outcome, and the name of the engine.
    """
    if transport.kind == "ideal":
        return _fluid(scene, transport, seed, most_paths, report), "fluid"
    if wanted == "auto":
        exact_ones: tuple[Engine, ...] = ("exact", "event", "simpy")
        wanted = next(engine for engine in exact_ones if refusal(engine, scene, transport, most_paths) is None)
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
        case _:
            from netsim.engine.reference.engine import ReferenceEngine

            return ReferenceEngine(scene, build_transport(transport, seed, most_paths), seed, report).run(), "simpy"


def _fluid(
    scene: Scene, transport: TransportConfig, seed: int, most_paths: int, report: Callable[[Pulse], None] | None
) -> Outcome:
    from netsim.engine.fluid.engine import FluidEngine

    ideal = transport.kind == "ideal"
    return FluidEngine(scene, None if ideal else build_transport(transport, seed, most_paths), report).run()
