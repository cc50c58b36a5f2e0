"""The folder of a sweep. Finished runs and cells in it are complete, even if the process that wrote them was killed.

cells/KEY/           a finished cell: the files that ``compare`` writes for its scenario, byte for byte but for
                     wall_s and, while engines are not compiled yet, the engine
unfinished/KEY/T-S/  a finished run of an unfinished cell, by its positions among transports and seeds
summary.csv          a row a run that is over

KEY is a hash of everything that the results depend on. So every finished run is valid, and runs that a changed sweep no
longer needs stay untouched.
"""

import csv
import fcntl
import gzip
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO, TextIOWrapper
from pathlib import Path
from shutil import copyfileobj, rmtree
from typing import Any, TextIO

from netsim.foundation.files import writing
from netsim.foundation.refusal import Refusal
from netsim.simulation.results import PLAIN_FLOWS, replacing
from netsim.sweep.job import Files
from netsim.sweep.sweep_file import Cell

RESULTS = "results.json"


class SweepFolder:
    """The finished cells and runs of a sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cells, self._unfinished = path / "cells", path / "unfinished"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder against other sweeps; the system releases the lock however the process ends."""
        try:
            self._cells.mkdir(parents=True, exist_ok=True)
            self._unfinished.mkdir(exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            problem = f"cannot be written ({error.strerror})"
            raise Refusal(self.path, "--out", problem, "choose another folder") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            problem = "another sweep is writing here"
            raise Refusal(self.path, "--out", problem, "wait for it, or choose another folder") from None
        try:
            self._tidy()
            yield
        finally:
            os.close(handle)

    def _tidy(self) -> None:
        """Removes incomplete folders of a killed sweep."""
        for path in (*self.path.glob(".summary.csv.*"), *self.path.glob(".index.html.*")):
            path.unlink()
        for path in (*self._cells.glob(".*"), *self._unfinished.glob("*/.*")):
            rmtree(path)
        for path in self._unfinished.iterdir():
            if (self._cells / path.name).exists():
                rmtree(path)

    def cell(self, cell: Cell) -> dict[str, Any] | None:
        """Content of a cell's results.json; None if the cell is not finished."""
        results = _read(self._cells / cell.key)
        wanted = [(transport.name, seed) for transport in cell.scenario.transports for seed in cell.scenario.seeds]
        if results and [(run["transport"], run["seed"]) for run in results["runs"]] != wanted:
            return None
        return results

    def run(self, cell: Cell, run: tuple[int, int]) -> dict[str, Any] | None:
        """The entry of results.json for a run of an unfinished cell; None if it is not finished."""
        results = _read(self._run_folder(cell, run))
        return results["runs"][0] if results else None

    def keep_run(self, cell: Cell, run: tuple[int, int], files: Files) -> None:
        """Writes a finished run, whole or not at all."""
        with _whole(self._run_folder(cell, run)) as folder:
            for name, content in files.items():
                (folder / name).write_bytes(content)

    def finish_cell(self, cell: Cell, runs: Iterable[tuple[int, int]]) -> None:
        """Joins the runs of a cell when all of them are finished."""
        parts = [self._run_folder(cell, run) for run in runs]
        with _whole(self._cells / cell.key) as folder:
            flows = _join_results([part / RESULTS for part in parts], folder / RESULTS)
            for name in sorted({path.name.removesuffix(".gz") for path in parts[0].iterdir()} - {RESULTS}):
                packed = name == "flows.csv" and flows > PLAIN_FLOWS
                _join_tables([part / name for part in parts], folder / (f"{name}.gz" if packed else name))
        rmtree(self._unfinished / cell.key)

    def _run_folder(self, cell: Cell, run: tuple[int, int]) -> Path:
        return self._unfinished / cell.key / f"{run[0]}-{run[1]}"


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """Yields a new folder that replaces `target` when the block ends without an error."""
    unfinished = target.with_name(f".{target.name}")
    if unfinished.exists():
        rmtree(unfinished)
    with writing(target):
        unfinished.mkdir(parents=True)
        yield unfinished
        if target.exists():
            rmtree(target)
        unfinished.rename(target)


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _join_results(parts: Sequence[Path], target: Path) -> int:
    """Joins the runs of several results.json, equal in all else, and returns the total number of flows."""
    contents: list[Mapping[str, Any]] = [json.loads(part.read_text(encoding="utf-8")) for part in parts]
    runs = [run for content in contents for run in content["runs"]]
    with replacing(target) as file:
        json.dump({**contents[0], "runs": runs}, file, indent=1)
        file.write("\n")
    return sum(run["flows"] for run in runs)


def _join_tables(parts: Sequence[Path], target: Path) -> None:
    """Joins tables, packed or not; all begin with the same line of column names."""
    with replacing(target) as joined:
        for number, part in enumerate(parts):
            with _opened(part) as table:
                names = table.readline()
                if number == 0:
                    joined.write(names)
                copyfileobj(table, joined)


def _opened(table: Path) -> TextIO:
    """Opens a table, or its compressed file with .gz behind the name."""
    if table.exists():
        return table.open(encoding="utf-8", newline="")
    return TextIOWrapper(gzip.open(table.with_name(f"{table.name}.gz")), encoding="utf-8", newline="")


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
        """Adds a row for a run that failed."""
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
