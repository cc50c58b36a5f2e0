"""Measures one engine on one case, in a process of its own."""

import resource
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from typing import NamedTuple

from netsim.bench.cases import Case
from netsim.engine.protocol import Outcome, Scene
from netsim.transport.config import EcmpConfig
from netsim.transport.ecmp import Ecmp
from netsim.workers import end_with_parent, without_interrupts

_FEW = 3
"""Repeats of the slow reference engine."""


class Measurement(NamedTuple):
    """Time and memory of one engine on one case. Times are seconds of CPU time of the whole process, all threads.

    `first_s` is that of a small case, which compiles the engine or loads it; `cpu_s` the median of the repeats without
    the construction of the scene; `resident_bytes` the most that the process held, its scene included.
    """

    case: str
    engine: str
    data_hops: int
    control_hops: int
    flows: int
    completion_ps: int
    first_s: float
    cpu_s: float
    all_cpu_s: tuple[float, ...]
    resident_bytes: int


class Unmeasured(NamedTuple):
    """A case and engine without a measurement, with the reason."""

    case: str
    engine: str
    problem: str


def measure(case: Case, engine: str, repeats: int) -> Measurement | Unmeasured:
    """Measures one engine on one case `repeats` times, the reference engine fewer."""
    ours, theirs = get_context("spawn").Pipe(duplex=False)
    process = get_context("spawn").Process(target=_measure, args=(theirs, case, engine, repeats), daemon=True)
    with without_interrupts():
        process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        return Unmeasured(case.name, engine, f"its process died (exit code {process.exitcode})")
    finally:
        process.kill()
        process.join()


def _measure(connection: Connection, case: Case, engine: str, repeats: int) -> None:
    end_with_parent()
    try:
        connection.send(_measured(case, engine, min(repeats, _FEW) if engine == "simpy" else repeats))
    except Exception as error:
        connection.send(Unmeasured(case.name, engine, f"{type(error).__name__}: {error}"))


def _measured(case: Case, engine: str, repeats: int) -> Measurement:
    run = _ENGINES[engine]
    first_s, _ = _timed(run, case.small.scene())
    scene, times = case.scene(), []
    for _ in range(repeats):
        # Equal hosts in a new list: an engine that keeps what it derived from a scene derives it again.
        cpu_s, outcome = _timed(run, scene._replace(hosts=list(scene.hosts)))
        times.append(cpu_s)
    return Measurement(
        case.name,
        engine,
        outcome.packet_hops,
        outcome.control_hops,
        len(outcome.flows),
        outcome.completion_ps,
        first_s,
        median(times),
        tuple(times),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )


def _timed(run: Callable[[Scene], Outcome], scene: Scene) -> tuple[float, Outcome]:
    started = time.process_time()
    outcome = run(scene)
    return time.process_time() - started, outcome


def _simpy(scene: Scene) -> Outcome:
    from netsim.engine.reference.engine import ReferenceEngine

    return ReferenceEngine(scene, Ecmp(0, scene.most_paths), 0).run()


def _exact(scene: Scene) -> Outcome:
    from netsim.engine.exact.engine import ExactEngine

    return ExactEngine(scene, EcmpConfig(kind="ecmp"), 0).run()


def _event(scene: Scene) -> Outcome:
    from netsim.engine.event.engine import EventEngine

    return EventEngine(scene, Ecmp(0, scene.most_paths), 0).run()


def _windowed(scene: Scene) -> Outcome:
    from netsim.engine.windowed.engine import WindowedEngine

    return WindowedEngine(scene, Ecmp(0, scene.most_paths), 0).run()


def _fluid(scene: Scene) -> Outcome:
    from netsim.engine.fluid.engine import FluidEngine

    return FluidEngine(scene, Ecmp(0, scene.most_paths)).run()


_ENGINES = {"simpy": _simpy, "exact": _exact, "event": _event, "windowed": _windowed, "fluid": _fluid}
