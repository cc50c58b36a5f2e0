"""``python -m tests.fuzz.scenes``: random scenes, on every engine that takes them, with equal outcomes."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from random import Random
from typing import NamedTuple

from pydantic import TypeAdapter

from netsim.engine.event.engine import EventEngine
from netsim.engine.event.refusal import refusal as by_event
from netsim.engine.exact.engine import ExactEngine
from netsim.engine.exact.refusal import refusal as by_exact
from netsim.engine.fluid.engine import FluidEngine
from netsim.engine.fluid.streaming import can_stream, stream
from netsim.engine.limits import LimitError, LimitsConfig
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.engine.watch import WatchConfig
from netsim.engine.windowed.engine import WindowedEngine
from netsim.engine.windowed.refusal import refusal as by_windowed
from netsim.engine.windowed.refusal import splits
from netsim.foundation.refusal import Refusal
from netsim.topology.cabled import WithDetours
from netsim.topology.failure import Routes
from netsim.transport.build import PACKET_TRANSPORTS
from netsim.transport.config import TransportConfig
from netsim.transport.protocol import Transport
from tests.netsim.hard_scenes import hard_scene
from tests.netsim.random_scenes import (
    OPTIONS,
    has_paths,
    random_scene,
    with_background,
    with_errors,
    with_late_marks,
    with_queues,
    with_shared_draws,
)

_ABOUT = """\
Draws scenes from a seed and simulates each on simpy and on every other engine that takes it. Outcomes must be equal to
the last bit, errors word for word (of the exact engine all but the reason), and every run must end within its limits.
Half of the scenes are those of the tests; the others are hard to end: failures for good, timeouts below the round trip,
tiny queues, several jobs, limits within reach. Some of either have classes, pauses or shared memory, links with errors,
background traffic, tasks that draw alike, or watch links and flows over time. A scene that fails is printed with the
number that repeats it.
"""
ENGINES = ("event", "windowed", "threads", "exact", "fluid")
"""Besides simpy; threads is windowed with two or three of them."""
_DURATIONS = ("gap", "freeze", "step", "start_delay", "avoid", "bias")
_SECONDS_BETWEEN_LINES = 5.0


class Case(NamedTuple):
    """A scene and a transport.

    Args:
        kind: Kind of the scene.
        scene: The scene.
        make: Makes the transport again and again.
        config: The same as a scenario has it.
        seed: Of the transport's draws.
    """

    kind: str
    scene: Scene
    make: Callable[[], Transport]
    config: TransportConfig
    seed: int


def case_of(seed: int, number: int, wall: str) -> Case:
    """The case of a number.

    Args:
        seed: Of all cases.
        number: Of the case.
        wall: Limit of the wall time of each of its runs.
    """
    random = Random(f"{seed} {number}")
    kind, name, what = _scene(random)
    while not has_paths(what):
        kind, name, what = _scene(random)
    options = {option: random.choice(values) for option, values in OPTIONS[name].items()}
    written = {key: f"{value}ps" if key in _DURATIONS else value for key, value in options.items()}
    if name == "spray_random" and not options["entropies"]:
        del written["order"]
    if "mark_above" in options:
        written["mark_above"] = f"{options['mark_above']}B"
    config = TypeAdapter(TransportConfig).validate_python({"kind": name, **written})
    limits = LimitsConfig.model_validate(what.limits.model_dump() | {"wall": wall})
    what = _with_more(Random(f"{seed} {number} more"), what._replace(limits=limits))
    what = with_late_marks(Random(f"{seed} {number} marks"), what)
    most_paths, draws = what.most_paths, number
    return Case(kind, what, lambda: PACKET_TRANSPORTS[name](draws, most_paths, **options), config, draws)


def _scene(random: Random) -> tuple[str, str, Scene]:
    """Kind of a scene, a transport, and the scene with the paths that the transport may take."""
    kind, what = ("tests", random_scene(random)) if random.random() < 0.5 else hard_scene(random)
    name = random.choice([*OPTIONS])
    if isinstance(what.topology, WithDetours) and not PACKET_TRANSPORTS[name].takes_detours:
        minimal = what.topology._fabric
        what = what._replace(topology=minimal, routes=Routes(minimal, what.rates))
    return kind, name, what


def _with_more(random: Random, what: Scene) -> Scene:
    """Some scenes with what their drawing leaves out: classes, pauses, memory, errors, background, draws, a watch."""
    if not what.queues and random.random() < 0.15:
        what = with_queues(random, what)
    if random.random() < 0.1:
        what = with_errors(random, what)
    if random.random() < 0.1 and has_paths(busy := with_background(random, what)):
        what = busy
    if random.random() < 0.25:
        what = with_shared_draws(random, what)
    if random.random() >= 0.25:
        return what
    tasks = random.sample(range(len(what.tasks)), min(len(what.tasks), random.choice([0, 1, 4])))
    pairs = tuple((what.tasks[task].src, what.tasks[task].dst) for task in tasks)
    return what._replace(watch=WatchConfig(links=random.random() < 0.7, flows=pairs))


def ends(case: Case, engines: Collection[str] = ENGINES) -> Iterator[tuple[str, Outcome | Refusal]]:
    """How the case ends on simpy, and then on each of some engines that takes it."""
    what, seed = case.scene, case.seed
    yield "simpy", _end(lambda: ReferenceEngine(what, case.make(), seed).run())
    if "event" in engines and by_event(what, case.make()) is None:
        yield "event", _end(lambda: EventEngine(what, case.make(), seed).run())
    if "windowed" in engines and by_windowed(what, case.make()) is None:
        yield "windowed", _end(lambda: WindowedEngine(what, case.make(), seed).run())
    if "threads" in engines and by_windowed(what, case.make()) is None and splits(what, case.make()):
        yield "threads", _end(lambda: WindowedEngine(what, case.make(), seed, threads=2 + seed % 2).run())
    if "exact" in engines and by_exact(what, case.config) is None:
        yield "exact", _end(lambda: ExactEngine(what, case.config, seed).run())
    if "fluid" in engines and not case.make().needs_packets:
        made = case.make()
        yield "fluid", _end(lambda: stream(what, made) if can_stream(what, made) else FluidEngine(what, made).run())


def _end(run: Callable[[], Outcome]) -> Outcome | Refusal:
    try:
        return run()
    except Refusal as error:
        return error


def differ(engine: str, found: Outcome | Refusal, expected: Outcome | Refusal) -> bool:
    """Whether an engine's end is not that of simpy; the flow level is another model and need only end."""
    if engine == "fluid":
        return False
    if isinstance(found, Outcome) and isinstance(expected, Outcome):
        return not found.equals(expected) or (found.watched is None) != (expected.watched is None)
    said, wanted = str(found), str(expected)
    if engine == "exact":
        said, wanted = (text.rpartition(": ")[0] for text in (said, wanted))
    return said != wanted


def how(end: Outcome | Refusal) -> str:
    """How a run ended, in a word or two."""
    if isinstance(end, Outcome):
        return "done"
    return end.field if isinstance(end, LimitError) else "never arrives"


def main() -> int:
    """Runs the cases; 1 if engines differ, or a run does not end."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tests.fuzz.scenes", description=_ABOUT, formatter_class=style)
    parser.add_argument("--cases", type=int, default=300, metavar="N", help="how many (default: 300)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all cases (default: 0)")
    parser.add_argument("--only", type=int, metavar="N", help="only the case of this number")
    parser.add_argument("--wall", default="60s", metavar="TIME", help="limit of each run's wall time (default: 60s)")
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=ENGINES, metavar="NAME", help="besides simpy (default: all)"
    )
    options = parser.parse_args()
    numbers = range(options.cases) if options.only is None else range(options.only, options.only + 1)
    runs, endings, kinds, controls = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    faults, slowest = 0, (0.0, 0)
    started = told_s = time.monotonic()
    for done, number in enumerate(numbers):
        case, began = case_of(options.seed, number, options.wall), time.process_time()
        expected: Outcome | Refusal | None = None
        kinds[case.kind] += 1
        controls[case.scene.congestion.kind] += 1
        for engine, end in ends(case, options.engines):
            expected = end if expected is None else expected
            runs[engine] += 1
            endings[how(end)] += engine == "simpy"
            late = how(end) == "limits.wall"
            if late or differ(engine, end, expected):
                faults += 1
                what = "does not end" if late else f"differs from simpy ({_said(expected)})"
                print(f"--only {number}, {case.kind}, {case.config.kind}: {engine} {what}: {_said(end)}", flush=True)
        slowest = max(slowest, (time.process_time() - began, number))
        if time.monotonic() > told_s + _SECONDS_BETWEEN_LINES:
            told_s = time.monotonic()
            line = f"{done + 1} of {len(numbers)} cases, {told_s - started:.0f} s, {faults} faults"
            print(line, file=sys.stderr, flush=True)
    for title, counts in (("scenes", kinds), ("controls", controls), ("runs", runs), ("ends on simpy", endings)):
        print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count))
    print(f"faults: {faults}; the slowest case was {slowest[1]} with {slowest[0]:.1f} s of CPU")
    return int(faults > 0)


def _said(end: Outcome | Refusal) -> str:
    if isinstance(end, Refusal):
        return str(end)
    figures = f"{end.completion_ps} ps, {end.packets} packets, {end.packet_hops} hops, {end.control_hops} back"
    return f"{figures}, {tuple(end.losses)}"


if __name__ == "__main__":
    raise SystemExit(main())
