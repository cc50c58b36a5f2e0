"""``python -m tests.first_difference``: the first event of a run that simpy and the core do not have alike."""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from netsim.engine.limits import NO_LIMIT
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.engine.reference.trace import Trace, Traced
from netsim.foundation.refusal import Refusal
from netsim.simulation.engines import refusal, seen_by
from netsim.simulation.prepare import prepare
from netsim.simulation.scenario import read_scenario
from netsim.transport.build import build_transport
from netsim.transport.config import TransportConfig
from tests.built_core import netsim_with

_ABOUT = """\
Simulates a scenario on simpy and on the core, and compares what happens to every packet, flow and queue, in the order
of time. Prints the events before the first difference side by side, and what differs. KEY=VALUE changes the scenario;
limits.simulated=50us ends both runs early, since a million events take simpy about a minute. The core is built with
its trace first, as by `make core`; later calls build only what has changed.
"""


def first_difference(one: Sequence[Traced], other: Sequence[Traced]) -> int | None:
    """The place of the first event in which two traces differ; None if they are equal."""
    pairs = enumerate(zip_longest(one, other))
    return next((place for place, (left, right) in pairs if left != right), None)


def ran(engine: str, scene: Scene, transport: TransportConfig, seed: int) -> tuple[list[Traced], Outcome | Refusal]:
    """The events of a run on an engine, which may know of some before their time, and how the run ends."""
    built, events = build_transport(transport, seed, scene.most_paths), Trace()
    if engine == "simpy":
        run = ReferenceEngine(scene, built, seed, trace=events).run
    elif engine == "event":
        from netsim.engine.event.engine import EventEngine

        run = EventEngine(scene, built, seed).run
    else:
        from netsim.engine.windowed.engine import WindowedEngine

        run = WindowedEngine(scene, built, seed).run
    end: Outcome | Refusal
    try:
        end = run()
    except Refusal as error:
        end = error
    if engine != "simpy":
        from netsim.engine import _core

        events.extend(Traced(*event) for event in getattr(_core, "take_trace", list)())
    return events, end


def both(engine: str, scene: Scene, transport: TransportConfig, seed: int) -> tuple[list[Traced], list[Traced], bool]:
    """The events of a run on simpy and on an engine, in an order that depends on neither, and whether it ends alike.

    An engine that ends early may already know of later events. Windowed does not look at packets inside a host.
    """
    (events, end), (others, other_end) = (ran(name, scene, transport, seed) for name in ("simpy", engine))
    if isinstance(end, Outcome):
        last_ps = end.completion_ps if scene.ends_early else NO_LIMIT
        alike = isinstance(other_end, Outcome) and end.equals(other_end)
    else:
        last_ps = max((event.time_ps for event in events if event.what not in ("departed", "received")), default=0) - 1
        alike = str(end) == str(other_end)
    links = range(len(scene.topology.links)) if engine == "windowed" else ()
    inside = {link for link in links if scene.topology.reverse(link) == link}

    def in_order(of_run: list[Traced]) -> list[Traced]:
        return sorted(
            event for event in of_run if event.time_ps <= last_ps and (event.link not in inside or event.flow < 0)
        )

    return in_order(events), in_order(others), alike


def described(one: Sequence[Traced], other: Sequence[Traced], names: tuple[str, str], place: int, before: int) -> str:
    """The events up to a difference side by side, and what differs."""
    widths = 14, 12, 6, 8, 8, 7, 8

    def line(cells: Iterable[object]) -> str:
        return " ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, widths, strict=True))

    def event(events: Sequence[Traced], row: int) -> str:
        return line(events[row]) if row < len(events) else f"{'no more events':<{len(line(Traced._fields))}}"

    lines = [
        f"  {names[0]:<{len(line(Traced._fields))}} | {names[1]}",
        f"  {line(Traced._fields)} | {line(Traced._fields)}",
    ]
    lines += [f"  {event(one, row)} | {event(other, row)}" for row in range(max(0, place - before), place)]
    lines.append(f"> {event(one, place)} | {event(other, place)}")
    if place < min(len(one), len(other)):
        fields = zip(Traced._fields, one[place], other[place], strict=True)
        differ = [f"{name} {left} and {right}" for name, left, right in fields if left != right]
        return "\n".join([*lines, f"event {place + 1} differs: {', '.join(differ)}"])
    return "\n".join([*lines, f"event {place + 1} is the first that one of both lacks"])


def compare(given: argparse.Namespace) -> int:
    """Compares a run on simpy with that on the traced core; returns the exit status."""
    source = str(given.scenario)
    scenario = read_scenario(given.scenario, given.overrides)
    prepared = prepare(scenario, source)
    names = [transport.name for transport in scenario.transports]
    if given.transport not in (None, *names):
        raise Refusal(source, "transports", f"has no {given.transport}", f"name one of {', '.join(names)}")
    transport = scenario.transports[0 if given.transport is None else names.index(given.transport)]
    if transport.kind == "ideal":
        raise Refusal(source, "transports", "ideal has no packets", "name another with --transport")
    if why := refusal(given.engine, prepared.scene, transport, prepared.most_paths):
        raise Refusal(source, "engine", f"{given.engine} does not simulate this: {why}", "name the other with --engine")
    scene, seed = seen_by(prepared.scene, transport), scenario.seeds[0] if given.seed is None else given.seed
    one, other, alike = both(given.engine, scene, transport, seed)
    place = first_difference(one, other)
    if place is not None:
        print(described(one, other, ("simpy", given.engine), place, given.events))
        return 1
    print(f"equal: {len(one)} events" + ("" if alike else ", but the runs end differently or sum up differently"))
    return int(not alike)


def main(words: Sequence[str] | None = None) -> int:
    """Builds the traced core and compares on it, in a process whose netsim has it."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tests.first_difference", description=_ABOUT, formatter_class=style)
    parser.add_argument("scenario", type=Path, metavar="SCENARIO", help="a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to it")
    parser.add_argument("--transport", metavar="NAME", help="one of the scenario's (default: the first)")
    parser.add_argument("--seed", type=int, metavar="S", help="of the run (default: the scenario's first)")
    parser.add_argument("--engine", choices=("event", "windowed"), default="event", help="of the core (default: event)")
    parser.add_argument("--events", type=int, default=20, metavar="N", help="shown before a difference (default: 20)")
    given = parser.parse_intermixed_args(words)
    try:
        from netsim.engine import _core
    except ImportError:
        _core = None
    if hasattr(_core, "take_trace"):
        try:
            return compare(given)
        except Refusal as error:
            print(error, file=sys.stderr)
            return 2
    with netsim_with("TRACE=ON") as environment:
        again = [sys.executable, "-P", "-m", "tests.first_difference", *(sys.argv[1:] if words is None else words)]
        return subprocess.run(again, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
