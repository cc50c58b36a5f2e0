"""Packet-hops (a packet over a link) that each engine simulates in a second of CPU time, on this machine.

    python -m tests.benchmarks.engine_speed [--repeats N] [--out FILE]

Every case runs in a process of its own: once at a small size, then several times at full
size. The median of these is reported, beside figures of other simulators. Takes a few minutes.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from netsim.engine.protocol import Outcome, Scene
from netsim.simulation.results import replacing
from netsim.transport.config import EcmpConfig
from netsim.transport.ecmp import Ecmp
from netsim.workers import end_with_parent, without_interrupts
from tests.benchmarks.engine_cases import CASES, Case

_FEW = 3
"""Repeats of the slow reference engine."""


class Measurement(NamedTuple):
    """Time and memory of one engine on one case. Times are seconds of CPU time of the whole process, all threads.

    `first_s` is that of a small case, which loads the engine; `cpu_s` the median of the repeats without
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


class Reference(NamedTuple):
    """A figure of another simulator at 100 Gbps and 500 ns a link in packets of 4,000 B.

    CPU time includes construction; data hops are data packets times their links, hops count acknowledgements and pulls
    too.
    """

    run: str
    cpu_s: float
    data_hops_per_s: float
    hops_per_s: float


HTSIM = (
    Reference("eqds, permutation, 64 hosts, 1,000 packets", 0.31, 0.84e6, 3.7e6),
    Reference("ndp, permutation, 64 hosts, 1,000 packets", 0.18, 1.44e6, 3.3e6),
    Reference("roce with pfc, permutation, 64 hosts, 1,000 packets", 0.20, 1.31e6, 4.6e6),
    Reference("eqds, all-to-all, 64 hosts, 16 packets", 1.36, 0.19e6, 1.8e6),
    Reference("ndp, all-to-all, 64 hosts, 16 packets", 0.61, 0.40e6, 0.98e6),
    Reference("eqds, permutation, 256 hosts, 2,050 packets", 3.94, 0.54e6, 2.4e6),
    Reference("ndp, all-to-all, 256 hosts, 8 packets", 30.4, 0.07e6, 0.16e6),
)
"""htsim (Broadcom/csg-htsim, plain make), single runs on another machine of two cores."""

_HTSIM_NOTE = (
    "htsim for reference: single runs on another machine, construction included. It simulates other transports, with "
    "pulls or PFC, so this is not like for like."
)


class Figures(NamedTuple):
    """Measurements, case by case, engines in the order of the case; and reasons for those without one."""

    measured: Sequence[Measurement]
    unmeasured: Sequence[Unmeasured]

    def ratio(self, one: Measurement) -> float | None:
        """Speed relative to the first engine of the same case; None for that engine itself."""
        first = next(other for other in self.measured if other.case == one.case)
        return None if first is one else first.cpu_s / one.cpu_s


def bench(repeats: int, cases: Sequence[Case] = CASES) -> Figures:
    """Measures every engine on every case, one after the other, `repeats` times."""
    answers = []
    for case in cases:
        for engine in case.engines:
            print(f"measuring {engine}: {case.name}", file=sys.stderr, flush=True)
            answers.append(measure(case, engine, repeats))
    measured = [answer for answer in answers if isinstance(answer, Measurement)]
    return Figures(measured, [answer for answer in answers if isinstance(answer, Unmeasured)])


def print_figures(figures: Figures) -> None:
    """Prints the figures as tables."""
    console = Console(width=None if Console().is_terminal else 130, markup=False, emoji=False)
    heads = "case", "engine", "flows", "CPU s", "M hops/s", "data only", "ratio", "memory", "first run"
    table = _table("CPU time of a run, median; first run: the case at a small size", heads)
    for one in figures.measured:
        ratio = figures.ratio(one)
        hops, data = (_millions(count / one.cpu_s) for count in (one.data_hops + one.control_hops, one.data_hops))
        speed = f"{one.cpu_s:.4g}", hops, data, f"{ratio:.3g}x" if ratio else ""
        memory, first = f"{one.resident_bytes / 1e6:,.0f} MB", f"{one.first_s:.1f} s"
        table.add_row(one.case, one.engine, f"{one.flows:,}", *speed, memory, first)
    console.print(table)
    for one in figures.unmeasured:
        console.print(f"not measured: {one.engine}, {one.case}: {one.problem}", highlight=False)
    reference = _table(_HTSIM_NOTE, ("htsim run", "CPU s", "M hops/s", "data only"))
    for run in HTSIM:
        reference.add_row(run.run, f"{run.cpu_s:.4g}", _millions(run.hops_per_s), _millions(run.data_hops_per_s))
    console.print(reference)


def write_figures(figures: Figures, path: Path) -> None:
    """Writes the figures as JSON; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": "flowfabric.bench/1",
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "measured": [{**one._asdict(), "ratio": figures.ratio(one)} for one in figures.measured],
        "not_measured": [one._asdict() for one in figures.unmeasured],
        "reference": {"note": _HTSIM_NOTE, "runs": [run._asdict() for run in HTSIM]},
    }
    with replacing(path) as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="")
    for column in columns:
        left = column in ("case", "engine", "htsim run")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    return table


def _millions(per_second: float) -> str:
    """A number in millions, or a dash for flow-level engines, which have no packets."""
    return f"{per_second / 1e6:.3g}" if per_second else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; 1 if an engine could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the figures there, JSON")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed runs a case (default: 5)")
    given = parser.parse_args(arguments)
    if given.repeats < 1:
        parser.error(f"--repeats: must be at least 1 ({given.repeats}); use 1 or more")
    if given.out and given.out.is_dir():
        parser.error(f"--out: is a folder ({given.out}); name a file")
    figures = bench(given.repeats)
    print_figures(figures)
    if given.out:
        write_figures(figures, given.out)
    return 1 if figures.unmeasured else 0


if __name__ == "__main__":
    sys.exit(main())
