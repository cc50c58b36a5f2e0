"""The chain replay -> measure -> simulate, and its results as one document.

netsim simulates in a process of its own: the two packages share files only.
"""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from moe.collective_trace import CollectiveRecord, TraceHeader, read, write
from moe.placement.cost.evaluation import evaluate_placement
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Mode, Placement, objective_of
from moe.placement.topology import LinkRates, Topology
from moe.price.traffic import Traffic
from moe.replay import replay
from moe.report.context import read_simulations
from moe.routing_trace import RoutingTrace
from netsim.foundation.complaint import complaining
from netsim.foundation.documents import parse_json, read_json
from netsim.foundation.files import file_digest, write_json
from netsim.foundation.refusal import Refusal, prefixed

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_BITS_PER_S = {"kbps": 1e3, "Mbps": 1e6, "Gbps": 1e9, "Tbps": 1e12}
_PER_SECOND = {"ps": 1e12, "ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0}
_REMEDY = "write it with `python -m moe price`"


@dataclass(frozen=True)
class Simulated:
    """Two traces on one fabric: for each transport the completion of both, ms, mean over the seeds.

    `gaps` is netsim's line on whose gaps of computation the second trace had. `rates` is None where the fabric is not
    made of hosts with one link each.
    """

    times_ms: dict[str, tuple[float, float]]
    gaps: str
    rates: LinkRates | None


def simulate_pair(before: Path, after: Path, scenario: Path, out: Path) -> Simulated:
    """Run `python -m netsim compare` on both traces over the fabric of a scenario, whose workload is replaced.

    Raises:
        ValueError: netsim refuses its input; the message is netsim's.
        RuntimeError: netsim fails.
    """
    with prefixed("scenario: "):
        said = simulate(before, scenario, out, "--against", str(after))
    pairs = zip(*(read_simulations(folder / "results.json") for folder in (out, out / "against")), strict=True)
    times = {first.transport: (first.completion_ms, second.completion_ms) for first, second in pairs}
    gaps = next((line for line in said.splitlines() if "gaps of computation" in line), "")
    document = parse_json((out / "results.json").read_text(encoding="utf-8"))
    return Simulated(times, gaps, rates_of(out / "results.json", document["scenario"]["topology"]))


def simulate(trace: Path, scenario: Path, out: Path, *options: str) -> str:
    """Run `python -m netsim compare` on a trace over the fabric of a scenario; returns what it printed.

    Raises:
        ValueError: netsim refuses its input; the message is netsim's.
        RuntimeError: netsim fails.
    """
    quoted = "'" + str(trace).replace("'", "''") + "'"
    arguments = [str(scenario), f"workload={{kind: trace, path: {quoted}}}", "--out", str(out), *options]
    command = [sys.executable, "-m", "netsim", "compare", *arguments]
    bound = _end_with_parent if sys.platform == "linux" else None
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=bound)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["netsim ended without a message"]
        said = lines[-1].removeprefix("netsim compare: ")
        raise ValueError(said) if done.returncode == 2 else RuntimeError(f"netsim compare failed: {said}")
    return done.stdout


def _end_with_parent() -> None:
    """Lets Linux kill this process as soon as its parent is gone."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def rates_of(path: Path, topology: dict[str, Any]) -> LinkRates | None:
    """Rates of a rank's links on a fabric of hosts, whose section has its defaults written out; None for other kinds.

    They are the rate inside a host, the rank's share of the host's link to other nodes, and the delay of two links.
    """
    if not {"host_rate", "intra_host_rate", "link_delay"} <= topology.keys():
        return None
    try:
        host, inside = (_number(topology[key], _BITS_PER_S) for key in ("host_rate", "intra_host_rate"))
        return LinkRates(inside, host / topology.get("ranks_per_host", 1), 2 * _number(topology["link_delay"], _PER_S))
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(path, "scenario.topology", f"contains no rates ({error})", "simulate it again") from error


_PER_S = {unit: 1 / per_second for unit, per_second in _PER_SECOND.items()}


def _number(text: str, units: dict[str, float]) -> float:
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return float(digits) * units[text[len(digits) :]]


_Figure = Field(ge=0, allow_inf_nan=False)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Side(_Record):
    """Traffic of the expert layers in one optimiser step under one placement.

    Attributes:
        dispatch: Dispatch mode.
        bytes_between_ranks: Bytes that leave their rank.
        bytes_between_nodes: Bytes of them that go to another node.
        busiest_rank: Choices that the busiest rank computes over the mean of the ranks, mean over the layers.
        predicted_ms: Time of the exchanges by the alpha-beta model; None without rates.
    """

    dispatch: Mode
    bytes_between_ranks: float = _Figure
    bytes_between_nodes: float = _Figure
    busiest_rank: float = _Figure
    predicted_ms: float | None = _Figure


class Price(_Record):
    """price.json: what a placement saves a recorded run.

    Attributes:
        format: Name and version.
        trace_sha256: Of the recorded collective trace.
        routing_sha256: Of the routing trace.
        placement_sha256: Of the placement file.
        config_sha256: Of the run's configuration, if its trace names it.
        steps: Optimiser steps of the trace; every figure is of one step, mean over them.
        rates: Rates of a rank's links that predictions use, bits a second, and latency in seconds.
        before: As recorded.
        after: Replayed under the placement.
        simulated_ms: For each transport the time of a step before and after, ms, computation included.
        gaps: Whose gaps of computation the simulations had.
    """

    format: Literal["flowfabric.price/1"] = "flowfabric.price/1"
    trace_sha256: str
    routing_sha256: str
    placement_sha256: str
    config_sha256: str | None
    steps: tuple[int, ...] = Field(min_length=1)
    rates: dict[str, float] | None
    before: Side
    after: Side
    simulated_ms: dict[str, tuple[float, float]]
    gaps: str

    def write(self, path: Path) -> None:
        """Write the document; equal ones become equal bytes."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what :meth:`write` wrote.

        Raises:
            Refusal: The file is missing or malformed.
        """
        document = read_json(path, _REMEDY)
        with complaining(path, _REMEDY):
            return cls.model_validate(document)


@dataclass(frozen=True, kw_only=True)
class PriceRequest:
    """Request for a price: traces of one run, a placement, a fabric for netsim and a folder for the files.

    Without `current` the run was recorded under the contiguous placement; without `dispatch` it is that of the
    placement, without `rates` they are those of the fabric.
    """

    trace: Path
    routing: Path
    placement: Path
    current: Path | None
    scenario: Path
    dispatch: Mode | None
    rates: LinkRates | None
    out: Path


def price(request: PriceRequest) -> Price:
    """Replay a recorded run under a placement, simulate both, and write `replayed.jsonl`, `netsim/` and `price.json`.

    Raises:
        ValueError: The files do not belong together, or netsim refuses the scenario.
    """
    header, records = read(request.trace)
    routing, placement = RoutingTrace.read(request.routing), Placement.read(request.placement)
    check_same_run(request.trace, header, request.routing, routing)
    mode = request.dispatch or placement.dispatch
    was = routing.header.dispatch or mode
    current = _current(request, placement)
    if not recorded_under(header, records, routing, current, was):
        name = "contiguous" if request.current is None else str(request.current)
        raise ValueError(
            f"current: {request.trace} was not recorded under the {name} placement in {was} dispatch; "
            "give the placement of the run with --current FILE"
        )
    new_header, new_records = replay(header, records, routing, placement, mode)
    replayed = request.out / "replayed.jsonl"
    request.out.mkdir(parents=True, exist_ok=True)
    write(replayed, new_header, new_records)
    simulated = simulate_pair(request.trace, replayed, request.scenario, request.out / "netsim")
    rates = request.rates or simulated.rates
    topology = Topology.hops(placement.num_nodes, placement.ranks_per_node)
    statistics = RoutingStatistics.collect(routing, topology.num_ranks)

    def side(traced: tuple[TraceHeader, Sequence[CollectiveRecord]], placed: Placement, dispatch: Mode) -> Side:
        traffic = Traffic.of(*traced, placement.ranks_per_node, rates)
        busiest = evaluate_placement(statistics, topology, placed, objective_of(dispatch)).imbalance.mean()
        predicted = None if traffic.predicted_s is None else 1e3 * traffic.predicted_s
        return Side(
            dispatch=dispatch,
            bytes_between_ranks=traffic.rank_bytes,
            bytes_between_nodes=traffic.node_bytes,
            busiest_rank=float(busiest),
            predicted_ms=predicted,
        )

    priced = Price(
        trace_sha256=file_digest(request.trace),
        routing_sha256=file_digest(request.routing),
        placement_sha256=file_digest(request.placement),
        config_sha256=header.config_sha256,
        steps=header.steps,
        rates=None if rates is None else asdict(rates),
        before=side((header, records), current, was),
        after=side((new_header, new_records), placement, mode),
        simulated_ms={
            name: (before / len(header.steps), after / len(header.steps))
            for name, (before, after) in simulated.times_ms.items()
        },
        gaps=simulated.gaps,
    )
    priced.write(request.out / "price.json")
    return priced


def check_same_run(trace: Path, header: TraceHeader, path: Path, routing: RoutingTrace) -> None:
    """Refuse a routing trace of another run, where both name the configuration of their run."""
    own = routing.header.config_sha256
    if None not in (own, header.config_sha256) and own != header.config_sha256:
        raise Refusal(
            path, "header.config_sha256", f"is not that of {trace} ({str(own)[:12]})", "give two traces of one run"
        )


def recorded_under(
    header: TraceHeader,
    records: Sequence[CollectiveRecord],
    routing: RoutingTrace,
    placement: Placement,
    dispatch: Mode,
) -> bool:
    """Whether the sizes in a trace equal, to the byte, those of its run replayed under a placement."""
    _, replayed = replay(header, records, routing, placement, dispatch)
    return _sizes(replayed) == _sizes(records)


def _sizes(records: Sequence[CollectiveRecord]) -> list[tuple[Any, ...]]:
    ordered = sorted(records, key=lambda record: (record.rank, record.seq))
    return [(record.rank, record.op, record.bytes_in, record.bytes_out, record.in_splits) for record in ordered]


def _current(request: PriceRequest, placement: Placement) -> Placement:
    if request.current is not None:
        return Placement.read(request.current)
    sizes = placement.num_layers, placement.num_experts, placement.num_nodes, placement.ranks_per_node
    return Placement.contiguous(*sizes)
