"""Runs that skip what repeats; what cannot be skipped is left to the fastest engine that is exact."""

from collections.abc import Callable
from functools import partial

from netsim.engine.limits import Pulse
from netsim.engine.protocol import Outcome, Scene, Skipped
from netsim.engines import fastest, run_engine, seen_by
from netsim.transport.config import TransportConfig


def run_forward(
    scene: Scene,
    transport: TransportConfig,
    seed: int,
    most_paths: int,
    report: Callable[[Pulse], None] | None = None,
    cores: int = 1,
) -> tuple[Outcome, str, Skipped]:
    """Simulates one transport with one seed, as `netsim.engines.run_engine` with auto does, to the last bit.

    Returns:
        The outcome, the name of the engine that a run without skipping takes, and what was skipped.
    """
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
    """Whether a run with a transport, not ideal, might skip something."""
    from netsim.engine.forward.refusal import refusal

    return refusal(seen_by(scene, transport), transport) is None
