"""The table of all runs of a sweep that are over."""

import csv
import time
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from netsim.grid.sweep_file import Cell
from netsim.results import replacing

_COLUMNS = (
    "transport",
    "seed",
    "engine",
    "completion_ns",
    "bound_ns",
    "flows",
    "packets",
    "packet_hops",
    "control_hops",
    "max_link_bytes",
    "max_queue_bytes",
    "reordered_packets",
    "dropped_packets",
    "trimmed_packets",
    "marked_packets",
    "retransmitted_packets",
    "paused_ns",
    "sha256",
)
_QUANTILES = ("p50", "p99", "max")
_SECONDS_BETWEEN_WRITES = 1.0


class Summary:
    """summary.csv: a row a run that is over, in the order of the sweep. Columns are `cell`, the folder under cells/,
    the keys that the sweep changes, those of results.json, and `problem`, which only a run that failed has.
    """

    def __init__(self, path: Path, cells: Sequence[Cell]) -> None:
        self._path, self._cells = path, cells
        self._keys = list(dict.fromkeys(key for cell in cells for key in cell.overrides))
        self._rows: dict[tuple[int, int, int], str] = {}
        self._written_s = 0.0

    def add(self, cell: int, run: tuple[int, int], entry: Mapping[str, Any]) -> None:
        """Adds a run as results.json holds it, by position in the sweep and positions among transports and seeds."""
        self._add(cell, run, entry, [*(entry["fct_ns"][quantile] for quantile in _QUANTILES), ""])

    def add_failed(self, cell: int, run: tuple[int, int], problem: str) -> None:
        """Adds a run that failed."""
        scenario = self._cells[cell].scenario
        entry = {"transport": scenario.transports[run[0]].name, "seed": scenario.seeds[run[1]]}
        self._add(cell, run, entry, ["" for _ in _QUANTILES] + [problem])

    def _add(self, cell: int, run: tuple[int, int], entry: Mapping[str, Any], rest: Sequence[object]) -> None:
        about = self._cells[cell]
        changes = [about.overrides.get(key, "") for key in self._keys]
        values = [entry.get(column, "") for column in _COLUMNS]
        self._rows[cell, *run] = _line([about.key, *changes, *values, *rest])

    def write_soon(self) -> None:
        """Writes the table unless it was written less than a second ago."""
        if time.monotonic() > self._written_s + _SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Writes the table, whole or not at all."""
        with replacing(self._path) as file:
            quantiles = (f"fct_{quantile}_ns" for quantile in _QUANTILES)
            file.write(_line(["cell", *self._keys, *_COLUMNS, *quantiles, "problem"]))
            file.writelines(self._rows[position] for position in sorted(self._rows))
        self._written_s = time.monotonic()


def _line(values: Sequence[object]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
