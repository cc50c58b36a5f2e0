"""Context of a placement report: the model's sizes, the placement in use, results of netsim."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.evaluation import Evaluation, TradeoffPoint
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Placement
from moe.placement.topology import Topology
from moe.routing_trace import RoutingTrace
from netsim.foundation.documents import read_json
from netsim.foundation.refusal import Refusal

_OPTIMIZER_BYTES = 8  # two moments of a parameter, in fp32
_MASTER_BYTES = 4


@dataclass(frozen=True)
class Volume:
    """Sizes of a token and of a training step of one expert-parallel group, None where the trace does not say."""

    token_bytes: int | None = None
    element_bytes: int | None = None
    tokens_per_step: float | None = None
    micro_batches: int = 1

    @classmethod
    def of(cls, trace: RoutingTrace, num_ranks: int) -> "Volume":
        """Read the sizes from a trace, as far as it has them; groups have so many ranks."""
        header = trace.header
        known = header.hidden is not None and header.element_bytes is not None
        tokens = None
        if trace.step is not None:
            groups = max(header.world_size // num_ranks, 1)
            tokens = trace.num_tokens / len(np.unique(trace.step)) / groups
        return cls(
            token_bytes=(header.hidden or 0) * (header.element_bytes or 0) if known else None,
            element_bytes=header.element_bytes,
            tokens_per_step=tokens,
            micro_batches=1 if trace.micro is None else len(np.unique(trace.micro)),
        )


@dataclass(frozen=True)
class Moving:
    """Experts that a rank does not hold yet: layer, expert and new rank of each, in that order.

    Attributes:
        against: Name of the placement in use.
        arrivals: The moves.
        experts: Experts of all layers and ranks in the new placement, replicas included.
        parameter_bytes: Bytes of one parameter with both moments and the fp32 master copy.
        expert_parameters: Parameters of one expert, or None if unknown.
    """

    against: str
    arrivals: tuple[tuple[int, int, int], ...]
    experts: int
    parameter_bytes: int
    expert_parameters: int | None

    @property
    def total_bytes(self) -> int | None:
        """Bytes that travel in all, or None if the size of an expert is unknown."""
        if self.expert_parameters is None:
            return None
        return len(self.arrivals) * self.expert_parameters * self.parameter_bytes


def find_moving(
    placement: Placement,
    current: NDArray[np.bool_],
    against: str,
    element_bytes: int | None,
    expert_parameters: int | None,
) -> Moving:
    """Compare a placement with the ranks that hold each expert now, [L, E, G].

    Weights have 2 bytes if `element_bytes` is None; those of 4 bytes are their own master copy.
    """
    holders = placement.holders()
    element_bytes = element_bytes or 2
    master = _MASTER_BYTES if element_bytes < _MASTER_BYTES else 0
    return Moving(
        against=against,
        arrivals=tuple((layer, expert, rank) for layer, expert, rank in np.argwhere(holders & ~current).tolist()),
        experts=int(holders.sum()),
        parameter_bytes=element_bytes + master + _OPTIMIZER_BYTES,
        expert_parameters=expert_parameters,
    )


@dataclass(frozen=True)
class Simulation:
    """Results of netsim for one transport, means over the seeds; the bound is that of packet-level runs."""

    source: str
    transport: str
    seeds: int
    completion_ms: float
    bound_ms: float


def read_simulations(path: Path) -> list[Simulation]:
    """Read the runs of a results.json of netsim: one entry a transport, in the order of the file.

    Raises:
        Refusal: The file cannot be read or holds no such results.
    """
    remedy = "give the results.json that `python -m netsim compare` wrote"
    document = read_json(path, remedy, absent="check the path")
    if not isinstance(document, dict) or document.get("format") != "flowfabric.results/1":
        raise Refusal(path, "format", "is not flowfabric.results/1", remedy)
    runs = document.get("runs")
    if not isinstance(runs, list) or not runs:
        raise Refusal(path, "runs", "lists no runs", remedy)
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for index, run in enumerate(runs):
        match run:
            case {"transport": str(transport), "completion_ns": completion, "bound_ns": bound} if _is_time(
                completion
            ) and _is_time(bound):
                times[transport].append((float(completion), float(bound)))
            case _:
                raise Refusal(path, f"runs.{index}", "lacks transport, completion_ns or bound_ns as a time", remedy)
    source = path.parent.name if path.stem == "results" and path.parent.name else path.stem
    return [
        Simulation(source, transport, len(pairs), fmean(p[0] for p in pairs) / 1e6, fmean(p[1] for p in pairs) / 1e6)
        for transport, pairs in times.items()
    ]


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value >= 0


def read_current(path: Path | None, statistics: RoutingStatistics, topology: Topology) -> tuple[Placement, str]:
    """Read the placement in use (contiguous without a path), check that it is of the same model and group, and name it.

    Raises:
        Refusal: The file cannot be read or is of another model or group.
        ValueError: The experts do not divide among the ranks, so that none is contiguous.
    """
    sizes = (statistics.num_layers, statistics.num_experts, topology.num_nodes, topology.ranks_per_node)
    if path is None:
        return Placement.contiguous(*sizes), "contiguous"
    current = Placement.read(path)
    for name, expected in zip(("num_layers", "num_experts", "num_nodes", "ranks_per_node"), sizes, strict=True):
        present = getattr(current, name)
        if present != expected:
            raise Refusal(path, name, f"is {present} but the new placement has {expected}", "give the one in use")
    return current, "current"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Traffic of tokens that the solver did not see, before and under the new placement; source names their trace."""

    source: str
    before: Evaluation
    placed: Evaluation


@dataclass(frozen=True)
class Context:
    """Information of a report beyond counts.

    Attributes:
        volume: Sizes of a token and of a training step.
        before: Name of the placement that the new one is compared with: contiguous, or current.
        moving: Experts that move, None if not requested.
        simulations: Results of netsim.
        tradeoff: Placements under several caps on the busiest rank, for the curve of traffic against load.
        compared: Other placements that the curve shows, by name.
        held_out: Traffic of tokens that the solver did not see, None if there are none.
        slots: Slots of a rank and layer that the placement in use takes; None: as many as the new one.
        kept: Whether the search found nothing better, so that the placement in use stays.
    """

    volume: Volume = field(default_factory=Volume)
    before: str = "contiguous"
    moving: Moving | None = None
    simulations: tuple[Simulation, ...] = ()
    tradeoff: tuple[TradeoffPoint, ...] = ()
    compared: Mapping[str, TradeoffPoint] = field(default_factory=dict)
    held_out: HeldOut | None = None
    slots: int | None = None
    kept: bool = False
