"""Reading what the network simulator found; the two packages share the files, not code."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from netsim.foundation.complaint import first_complaint
from netsim.foundation.documents import parse_json
from netsim.foundation.refusal import Refusal

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
_Count = Annotated[int, Field(ge=0, strict=True)]
_Name = Annotated[str, Field(min_length=1)]
_WrittenCount = Annotated[int, Field(ge=0)]
_WrittenTime = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_REMEDY = "write it with `python -m netsim compare SCENARIO --out FOLDER`"


class SimulatedRun(BaseModel):
    """One transport with one seed; the bound is that of packet-level runs, and the engine fluid is flow level."""

    model_config = ConfigDict(frozen=True)

    transport: _Name
    seed: _Count
    engine: str
    completion_ns: _Positive
    bound_ns: _Positive
    packet_hops: _Count
    max_queue_bytes: _Count
    reordered_packets: _Count


class SimulatedCollective(BaseModel):
    """A row of collectives.csv: one collective of one run; `member_ns` is the mean time of a rank in it."""

    model_config = ConfigDict(frozen=True)

    transport: _Name
    seed: _WrittenCount
    collective: _WrittenCount
    op: _Name
    group: _Name | None
    ranks: Annotated[int, Field(ge=1)]
    step: _WrittenCount | None
    phase: _Name | None
    layer: _WrittenCount | None
    bytes: _WrittenCount
    start_ns: _WrittenTime
    end_ns: _WrittenTime
    member_ns: _WrittenTime

    @field_validator("end_ns")
    @classmethod
    def _ends_after_its_start(cls, end_ns: float, info: ValidationInfo) -> float:
        if end_ns < info.data.get("start_ns", 0):
            raise ValueError(f"{end_ns:.3f} lies before start_ns, {info.data['start_ns']:.3f}")
        return end_ns


class SimulatedTrace(BaseModel):
    """A collective trace that was simulated: digests of its file and of the traced run, optimiser steps replayed."""

    model_config = ConfigDict(frozen=True)

    sha256: _Name
    config_sha256: _Name | None
    steps: tuple[_Count, ...]


class Simulation(BaseModel):
    """Figures in a folder of the simulator, without traces for other workloads and collectives where unknown."""

    model_config = ConfigDict(frozen=True)

    format: Literal["flowfabric.results/1"]
    scenario: dict[str, Any]
    traces: tuple[SimulatedTrace, ...] = ()
    runs: Annotated[tuple[SimulatedRun, ...], Field(min_length=1)]
    collectives: tuple[SimulatedCollective, ...] = ()

    @field_validator("runs")
    @classmethod
    def _each_once(cls, runs: tuple[SimulatedRun, ...]) -> tuple[SimulatedRun, ...]:
        seen = Counter((run.transport, run.seed) for run in runs)
        (transport, seed), times = seen.most_common(1)[0]
        if times > 1:
            raise ValueError(f"{transport} with seed {seed} occurs {times} times")
        return runs

    @classmethod
    def read(cls, folder: Path) -> "Simulation":
        """Reads the folder that ``python -m netsim compare --out`` wrote."""
        path = folder / "results.json"
        try:
            document = parse_json(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        except OSError as error:
            raise Refusal(path, "file", f"cannot be read ({error.strerror})", _REMEDY) from error
        except ValueError as error:
            raise Refusal(path, "document", f"is not JSON ({error})", _REMEDY) from error
        try:
            simulation = cls.model_validate(document)
        except ValidationError as error:
            found = first_complaint(error)
            raise Refusal(path, found.field, found.problem, found.remedy or _REMEDY) from error
        runs = [(run.transport, run.seed) for run in simulation.runs]
        collectives = folder / "collectives.csv"
        if not collectives.exists():
            return simulation
        return simulation.model_copy(update={"collectives": tuple(_read_collectives(collectives, runs))})

    @property
    def steps(self) -> int:
        """Optimiser steps that every run simulates one after the other, at least 1."""
        return max((len(trace.steps) for trace in self.traces), default=1) or 1

    def by_transport(self) -> dict[str, list[SimulatedRun]]:
        """The runs of each transport, in the order of the file."""
        runs: dict[str, list[SimulatedRun]] = defaultdict(list)
        for run in self.runs:
            runs[run.transport].append(run)
        return dict(runs)

    def mean_completion_ns(self, transport: str) -> float:
        """Mean completion over the seeds of a transport, ns."""
        return fmean(run.completion_ns for run in self.by_transport()[transport])

    def mean_time_ns(self, transport: str, op: str) -> float:
        """Time that a rank spends in the collectives of an operation, ns, mean over ranks and seeds of a transport.

        It counts from coming to a collective to its being over there, so waiting for others counts too.
        """
        ranks = max((collective.ranks for collective in self.collectives), default=1)
        times = [
            collective.member_ns * collective.ranks / ranks
            for collective in self.collectives
            if (collective.transport, collective.op) == (transport, op)
        ]
        return sum(times) / len(self.by_transport()[transport])

    def phase_times_ns(self, transport: str) -> dict[str, float]:
        """Time of each phase of all steps, ns, mean over the seeds of a transport; empty where the folder has none.

        A collective takes from the end of the one before it to its own end, with the compute in between, so that the
        phases add up to the end of the last collective.
        """
        times: dict[str, float] = defaultdict(float)
        for run in self.by_transport()[transport]:
            ended = 0.0
            for one in sorted(self._of(run), key=lambda one: (one.end_ns, one.collective)):
                times[one.phase or "other"] += one.end_ns - ended
                ended = one.end_ns
        return {phase: time / len(self.by_transport()[transport]) for phase, time in times.items()}

    def phase_bytes(self) -> dict[str, int]:
        """Payload of each phase of all steps."""
        payloads: dict[str, int] = defaultdict(int)
        for one in self._of(self.runs[0]):
            payloads[one.phase or "other"] += one.bytes
        return dict(payloads)

    def _of(self, run: SimulatedRun) -> list[SimulatedCollective]:
        """The collectives of a run."""
        return [one for one in self.collectives if (one.transport, one.seed) == (run.transport, run.seed)]

    def behind(self, transport: str, other: str, op: str) -> float | None:
        """Excess time of a transport in parts of another's, 0.1: ten percent longer; None if unknown."""
        least = self.mean_time_ns(other, op)
        return self.mean_time_ns(transport, op) / least - 1 if least else None


def _read_collectives(path: Path, runs: Sequence[tuple[str, int]]) -> Iterator[SimulatedCollective]:
    """Reads collectives.csv: the same collectives for each run of results.json, in its order."""

    def refused(field: str, problem: str, remedy: str | None = None) -> Refusal:
        return Refusal(path, field, problem, remedy or _REMEDY)

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise refused("file", f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise refused("file", "is not UTF-8 text") from error
    if not text.endswith("\n"):
        raise refused("file", "is empty or its last line is cut off")
    names = list(SimulatedCollective.model_fields)
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    counts = dict.fromkeys(runs, 0)
    try:
        if next(rows) != names:
            raise refused("line 1", f"does not name the columns {','.join(names)}")
        for row in rows:
            place = f"line {rows.line_num}"
            if len(row) != len(names):
                raise refused(place, f"does not have {len(names)} cells ({len(row)})")
            cells = {name: cell or None for name, cell in zip(names, row, strict=True)}
            try:
                collective = SimulatedCollective.model_validate(cells)
            except ValidationError as error:
                found = first_complaint(error)
                raise refused(f"{place}: {found.field}", found.problem, found.remedy) from error
            run = collective.transport, collective.seed
            if run not in counts:
                raise refused(f"{place}: transport", f"{run[0]} with seed {run[1]} is not a run of results.json")
            if collective.collective != counts[run]:
                problem = f"is not the run's next, {counts[run]} ({collective.collective})"
                raise refused(f"{place}: collective", problem)
            counts[run] += 1
            yield collective
    except csv.Error as error:
        raise refused(f"line {rows.line_num}", f"is not a line of the table ({error})") from error
    most = max(counts.values())
    for (transport, seed), count in counts.items():
        if count < most:
            raise refused("collectives", f"lacks {most - count} of {transport} with seed {seed}")


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")
