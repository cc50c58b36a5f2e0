"""Packet-hops per second of CPU time, by engine and case: the table and the file."""

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numba
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from netsim.bench.cases import CASES, Case
from netsim.bench.measure import Measurement, Unmeasured, measure
from netsim.results import replacing


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

_TITLE = (
    "CPU time of a run, median of the repeats. Ratio: to the first engine of the case. First run: at a small size, "
    "with all compilation where an engine is used for the first time."
)
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
    with nothing_compiled():
        for case in cases:
            for engine in case.engines:
                print(f"measuring {engine}: {case.name}", file=sys.stderr, flush=True)
                answers.append(measure(case, engine, repeats))
    measured = [answer for answer in answers if isinstance(answer, Measurement)]
    return Figures(measured, [answer for answer in answers if isinstance(answer, Unmeasured)])


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """An empty place for compiled code: the first process that needs an engine compiles it, later ones load it."""
    before = os.environ.get("NUMBA_CACHE_DIR")
    with TemporaryDirectory() as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["NUMBA_CACHE_DIR"]
            if before is not None:
                os.environ["NUMBA_CACHE_DIR"] = before


def print_figures(figures: Figures) -> None:
    """Prints the figures as tables."""
    console = Console(width=None if Console().is_terminal else 130, markup=False, emoji=False)
    heads = "case", "engine", "flows", "CPU s", "M hops/s", "data only", "ratio", "memory", "first run"
    table = _table(
        "CPU time of a run, median; first run: the case at a small size, with compilation if the engine is new", heads
    )
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
            "numba": numba.__version__,
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
