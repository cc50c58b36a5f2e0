"""The part about a simulation: the results of netsim, and the time of a step on a fabric, by transport."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from moe.collective_trace import PHASES, ROLLOUT
from netsim.foundation.complaint import complaining
from netsim.foundation.documents import read_json
from netsim.foundation.page import Block, Figure, Section, Table
from netsim.foundation.refusal import Refusal
from trainer.experiment.report.part import Part

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
_Count = Annotated[int, Field(ge=0, strict=True)]
_Name = Annotated[str, Field(min_length=1)]
_WrittenCount = Annotated[int, Field(ge=0)]
_WrittenTime = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_REMEDY = "write it with `python -m netsim compare SCENARIO --out FOLDER`"


class SimulatedRun(BaseModel):
    """One transport with one seed; the bound is that of packet-level runs, 0 if unknown; engine fluid is flow level."""

    model_config = ConfigDict(frozen=True)

    transport: _Name
    seed: _Count
    engine: str
    completion_ns: _Positive
    bound_ns: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
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
        document = read_json(path, _REMEDY, parse_constant=_no_number)
        with complaining(path, _REMEDY):
            simulation = cls.model_validate(document)
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

        The time of a rank is from its arrival at a collective to the end on that rank, waiting for others included.
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
        """Returns the excess time of a transport relative to another's, 0.1: ten percent longer; None if unknown."""
        least = self.mean_time_ns(other, op)
        return self.mean_time_ns(transport, op) / least - 1 if least else None


def _read_collectives(path: Path, runs: Sequence[tuple[str, int]]) -> Iterator[SimulatedCollective]:
    """Reads collectives.csv: the same collectives for each run of results.json, in its order."""

    def refused(field: str, problem: str) -> Refusal:
        return Refusal(path, field, problem, _REMEDY)

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
            with complaining(path, _REMEDY, f"{place}: "):
                collective = SimulatedCollective.model_validate(cells)
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


NS_PER_MS = 1e6
_PICTURES = (
    ("completion.svg", "When the last message has arrived, by transport."),
    ("phases.svg", "What a step spends on rollouts, by which it collects what it learns from, and on learning."),
    ("operations.svg", "Time that a rank spends in the collectives of each operation, waiting for others included."),
    ("links.svg", "How busy every link of the fabric is, with the slowest and the fastest transport."),
    ("queues.svg", "Longest queue at any switch, as the time that its link needs to send it."),
)


def fabric_part(folder: Path, simulation: Simulation, *, of_the_run: bool) -> Part:
    """Times, queues and links of a simulation; times are those of one optimiser step.

    Traffic of another run is marked as such and claims nothing on top.
    """
    steps = simulation.steps
    means = {name: simulation.mean_completion_ns(name) / steps for name in simulation.by_transport()}
    bound = min(run.bound_ns for run in simulation.runs) / steps
    span = "simulated step" if steps == 1 else f"simulated step, mean of {steps}"
    rows, cells = [], []
    for name, runs in simulation.by_transport().items():
        completions = [run.completion_ns / NS_PER_MS / steps for run in runs]
        low, high = min(completions), max(completions)
        ratio = f"{means[name] / bound:.3f}" if bound else "-"
        above = f", {ratio} x bound" if bound else ""
        rows.append((f"{span}, {name}", f"{means[name] / NS_PER_MS:.3f} ms{above}"))
        cells.append(
            (
                name,
                "flow" if runs[0].engine == "fluid" else "packet",
                f"{means[name] / NS_PER_MS:.3f}",
                f"{low:.3f} to {high:.3f}",
                ratio,
                f"{max(run.max_queue_bytes for run in runs) / 1e6:.2f}",
                f"{max(run.reordered_packets for run in runs):,}",
            )
        )
    blocks: list[Block] = [
        Figure((folder / "figures" / name).read_text(encoding="utf-8"), caption)
        for name, caption in _PICTURES
        if (folder / "figures" / name).exists()
    ]
    columns = ("transport", "level", "mean ms", "over seeds, ms", "x bound", "longest queue, MB", "reordered packets")
    caption = "Time of one step. Lossless fabric without congestion control; the bound holds for every transport."
    blocks.append(Table(columns, cells, caption))
    rollouts = Rollouts.of(simulation)
    if rollouts is not None:
        blocks.append(rollouts.table)
        rows.append((f"rollouts in the simulated step, {rollouts.transport}", rollouts.shares))
    hops = max(run.packet_hops for run in simulation.runs)
    amount = "one step" if steps == 1 else f"{steps} steps, one after the other,"
    text = f"The collectives of {amount} replayed in program order, at most {hops:,} packet-hops a run."
    facts, finding = [], ""
    if {"ecmp", "ethereal"} <= means.keys():
        behind, where, aside = means["ecmp"] / means["ethereal"] - 1, "step", ""
        exchange = simulation.behind("ecmp", "ethereal", "all_to_all")
        if exchange is not None:
            ecmp, ethereal = (
                simulation.mean_time_ns(name, "all_to_all") / NS_PER_MS / steps for name in ("ecmp", "ethereal")
            )
            ranks = max(collective.ranks for collective in simulation.collectives if collective.op == "all_to_all")
            rows.append(("all-to-alls of the step", f"ecmp {exchange:+.1%} against ethereal"))
            text += (
                f" A rank spends {ecmp:.3f} ms of a step in the all-to-alls of {ranks} ranks under ecmp and "
                f"{ethereal:.3f} ms under ethereal, waiting for others included: ecmp is {abs(exchange):.0%} "
                f"{'behind' if exchange > 0 else 'ahead'}."
            )
            aside = f", {behind:+.0%} over the whole of it"
            behind, where = exchange, "all-to-alls of the step"
        facts.append(("ecmp behind ethereal", f"{behind:+.0%}", f"on the {where}"))
        finding = f"on the simulated fabric ecmp is {behind:.0%} behind ethereal on the {where}{aside}"
        finding = finding if behind > 0 else "on the simulated fabric ecmp is not behind ethereal"
    if rollouts is not None:
        facts.append(("Rollouts", f"{rollouts.time:.0%}", "of the simulated step's time"))
        said = f"rollouts take {rollouts.shares} of the simulated step"
        finding = f"{finding}; {said}" if finding else said
    if of_the_run:
        return Part(rows, facts, [Section("The step on the fabric", blocks, text)], finding)
    ranks = max((collective.ranks for collective in simulation.collectives), default=0)
    size = f" of {ranks} ranks" if ranks else ""
    remark = f"This is not the run above: the traffic of another one{size}, to show what a fabric does to it. {text}"
    rows = [(f"another run, {name}", value) for name, value in rows]
    return Part(rows, [], [Section(f"On a fabric: another run{size}", blocks, remark)])


@dataclass(frozen=True)
class Rollouts:
    """Shares (0 to 1) of time and bytes of the rollouts of simulated steps, with the transport that completes first."""

    transport: str
    time: float
    payload: float
    table: Table

    @classmethod
    def of(cls, simulation: Simulation) -> "Rollouts | None":
        """Adds up the phases of a simulation; None if it has no rollouts, or no phases are known."""
        payloads = simulation.phase_bytes()
        if ROLLOUT not in payloads:
            return None
        packets = [name for name, runs in simulation.by_transport().items() if runs[0].engine != "fluid"]
        transport = min(packets or simulation.by_transport(), key=simulation.mean_completion_ns)
        times = simulation.phase_times_ns(transport)
        whole, payload = sum(times.values()) or 1.0, sum(payloads.values()) or 1
        order = [*(phase for phase in PHASES if phase in payloads), *sorted(payloads.keys() - set(PHASES))]
        steps = simulation.steps
        cells = [
            (
                phase,
                f"{times[phase] / NS_PER_MS / steps:.3f}",
                f"{times[phase] / whole:.1%}",
                f"{payloads[phase] / 1e6 / steps:,.1f}",
                f"{payloads[phase] / payload:.1%}",
            )
            for phase in order
        ]
        caption = (
            f"Phases of one step under {transport}. Rollouts are calls of the network by which a step collects what it "
            "learns from; each collective counts from the end of the one before it."
        )
        columns = ("phase", "ms", "of the time", "MB", "of the bytes")
        return cls(transport, times[ROLLOUT] / whole, payloads[ROLLOUT] / payload, Table(columns, cells, caption))

    @property
    def shares(self) -> str:
        """Both shares in words."""
        return f"{self.time:.1%} of the time and {self.payload:.1%} of the bytes"
