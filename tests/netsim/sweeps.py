"""Small sweeps, and what they write, for tests."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from netsim.sweep.job import Failed, Files, Job, attempt

ALL_TO_ALL = {"kind": "collective", "op": "all_to_all", "bytes_per_rank": "64KB"}
SCENARIO = {
    "format": "flowfabric.scenario/1",
    "topology": {"kind": "leaf_spine", "leaves": 2, "spines": 2, "hosts_per_leaf": 2},
    "workload": ALL_TO_ALL,
    "transports": ["ecmp", "spray_random"],
    "seeds": [0, 1],
}
GRID = {"topology.spines": [1, 2], "packet.payload": ["1KB", "4KB"]}
SWEEP = {"format": "flowfabric.sweep/1", "scenario": SCENARIO, "grid": GRID}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(SWEEP | changes, sort_keys=False))
    return path


def contents(folder: Path) -> dict[str, str]:
    """All files by name, but for wall_s."""
    return {
        str(path.relative_to(folder)): re.sub(r'"wall_s": [\d.]+', "", path.read_text())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Here:
    """An executor (`netsim.sweep.job.Executor`) that carries out jobs in this process, for what processes are not
    the matter of."""

    def __init__(self, count: int) -> None:  # noqa: ARG002
        self.jobs: list[Job] = []

    def idle(self) -> list[None]:
        """See `Executor.idle`."""
        return [] if self.jobs else [None]

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self.jobs.append(job)

    def finished(self) -> Iterator[tuple[Job, Files | Failed]]:
        """See `Executor.finished`."""
        job = self.jobs.pop()
        yield job, attempt(job)

    def close(self) -> None:
        """See `Executor.close`."""
