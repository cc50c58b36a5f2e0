"""From the names in a scenario to the messages of a collective."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from netsim.collective.algorithms import (
    barrier,
    direct_broadcast,
    recursive_doubling_all_reduce,
    ring_broadcast,
    send,
    tree_broadcast,
)
from netsim.collective.columns import IN_COLUMNS, MessageColumns, message_columns
from netsim.collective.config import Algorithms
from netsim.collective.fastest import estimates, fastest
from netsim.collective.group import CHANNELLED, Group, Orders, orders, share, side_by_side, size_of, worthwhile
from netsim.collective.nccl import nccl
from netsim.collective.protocol import CollectiveAlgorithm, Operation
from netsim.collective.table import Table, read_table
from netsim.collective.two_level import (
    hierarchical_all_gather,
    hierarchical_all_reduce,
    hierarchical_all_to_all,
    hierarchical_reduce_scatter,
    rails_all_to_all,
    two_phase_all_to_all,
)
from netsim.foundation.refusal import Refusal
from netsim.topology.mapping import RankMap
from netsim.topology.protocol import Topology, adapters_of

ALGORITHMS: dict[str, dict[str, CollectiveAlgorithm]] = {
    "all_reduce": {
        "recursive_doubling": recursive_doubling_all_reduce,
        "hierarchical": hierarchical_all_reduce,
    },
    "all_gather": {
        "hierarchical": hierarchical_all_gather,
    },
    "reduce_scatter": {
        "hierarchical": hierarchical_reduce_scatter,
    },
    "all_to_all": {
        "two_phase": two_phase_all_to_all,
        "hierarchical": hierarchical_all_to_all,
        "pxn": rails_all_to_all,
    },
    "broadcast": {"tree": tree_broadcast, "ring": ring_broadcast, "direct": direct_broadcast},
}
"""Algorithms by operation and name, besides those of `IN_COLUMNS`."""


MOST_MESSAGES = 1 << 24
_QUADRATIC = ("ring", "direct", "pxn")


class Software(NamedTuple):
    """Software delays in picoseconds: launch before the first messages of a collective, steps before every message to
    another host or inside one."""

    launch_ps: int
    step_ps: int
    inside_step_ps: int


class Use(NamedTuple):
    """The algorithm that collectives of an op, a number of ranks and a size (`size_of`) took."""

    op: str
    ranks: int
    bytes: int
    algorithm: str


class Schedules:
    """Messages of operations, computed once for equal operations.

    Caches hold no reference to this object, so that they are freed with it: at a thousand ranks they take most of a
    gigabyte.
    """

    def __init__(
        self,
        algorithms: Algorithms,
        mapping: RankMap,
        source: str,
        topology: Topology,
        payload: int = 4000,
        header: int = 0,
        software: Mapping[str, Software] | None = None,
    ) -> None:
        self._algorithms, self._mapping, self._source = algorithms, mapping, source
        self._topology = topology
        self._software = Software(algorithms.launch, algorithms.step, algorithms.inside_step)
        self._software_of = software or {}
        table = None if algorithms.table is None else read_table(Path(algorithms.table))
        self._once, self._orders = cache(_schedule), cache(partial(_orders, mapping))
        self._group = cache(partial(_group, topology, mapping, (payload, header), self._software[1:]))
        self._chosen = cache(partial(_choose, self._group, table))
        self.used: Counter[Use] = Counter()
        """How often each algorithm was taken for operations of one size."""

    def __call__(self, operation: Operation, ranks: Sequence[int]) -> MessageColumns:
        """The messages of an operation; `ranks` are the scenario's ranks of its participants."""
        name = self.algorithm(operation, ranks)
        if name in _QUADRATIC and operation.op != "broadcast" and operation.size**2 > MOST_MESSAGES:
            problem = f"{name} among {operation.size:,} ranks takes more than {operation.size**2:,} messages"
            remedy = f"use fewer ranks or an algorithm with fewer; {MOST_MESSAGES:,} are possible"
            raise Refusal(self._source, f"algorithms.{operation.op}", problem, remedy)
        if name:
            self.used[Use(operation.op, operation.size, size_of(operation), name)] += 1
        if name in ("hierarchical", "pxn"):
            numbers: dict[int, int] = {}
            shared = tuple(numbers.setdefault(self._mapping.machines[rank], len(numbers)) for rank in ranks)
            operation = operation._replace(hosts=shared)
        if name == "pxn":
            adapters = adapters_of(self._topology)
            if adapters == 1:
                problem = "pxn goes through the GPUs of a host, each on a rail of its own, and hosts have one adapter"
                remedy = "set topology.adapters_per_host, or write direct"
                raise Refusal(self._source, f"algorithms.{operation.op}", problem, remedy)
            operation = operation._replace(rails=tuple(self._mapping.hosts[rank] % adapters for rank in ranks))
        try:
            columns = self._once(operation, name, self._channels(operation, name, ranks))
        except ValueError as error:
            problem, _, remedy = str(error).partition("; ")
            raise Refusal(self._source, f"algorithms.{operation.op}", problem, remedy) from None
        software = self._software_of.get(operation.op, self._software)
        return self._delayed(columns, ranks, software) if name and any(software) else columns

    def nominal_ps(self, operation: Operation, ranks: Sequence[int]) -> int | None:
        """Estimated time of an operation on an idle fabric, without software delays; None if there is no estimate.

        Inside one host, an algorithm of two levels takes the estimate of one of a single level.
        """
        group = self._group(tuple(ranks))
        estimated, name = estimates(operation.op, group, size_of(operation)), self.algorithm(operation, ranks)
        if name not in estimated and len(group.by_host) == 1:
            name = next(iter(estimated))
        return round(estimated[name]) if name in estimated else None

    def _delayed(self, columns: MessageColumns, ranks: Sequence[int], software: Software) -> MessageColumns:
        """Adds the software delay in front of each message that has bytes."""
        launch, step, inside_step = software
        machines = np.array([self._mapping.machines[rank] for rank in ranks], dtype=np.int64)
        between = np.where(machines[columns.src] == machines[columns.dst], inside_step, step)
        first = np.where(np.diff(columns.after_begin) == 0, launch, 0)
        return columns.delayed((columns.bytes > 0) * (between + first))

    def algorithm(self, operation: Operation, ranks: Sequence[int]) -> str:
        """Name of the algorithm of an operation; empty for send and barrier, which have no choice."""
        name = getattr(self._algorithms, operation.op, "")
        if name not in ("auto", "nccl", "table"):
            return name
        if operation.size == 1:
            return _first(operation.op)
        return self._chosen(name, operation.op, size_of(operation), tuple(ranks))

    def _channels(self, operation: Operation, name: str, ranks: Sequence[int]) -> Orders:
        """Channels of an operation; none where hosts have one adapter, or the algorithm uses all as it is."""
        if not self._mapping.gpus or (operation.op, name) not in CHANNELLED:
            return ()
        rings = self._orders(tuple(ranks), name == "ring")
        return rings[: worthwhile(len(rings), size_of(operation))]


def _choose(
    group: Callable[[tuple[int, ...]], Group],
    table: Table | None,
    by: str,
    op: str,
    size_bytes: int,
    ranks: tuple[int, ...],
) -> str:
    """Returns the algorithm's name by the method `by`: auto, nccl, or a table (else the default)."""
    if by == "auto":
        return fastest(op, group(ranks), size_bytes)
    if by == "nccl":
        return nccl(op, group(ranks), size_bytes)
    return (table.algorithm(op, group(ranks), size_bytes) if table else None) or _first(op)


def _group(
    topology: Topology, mapping: RankMap, packet: tuple[int, int], steps_ps: tuple[int, int], ranks: tuple[int, ...]
) -> Group:
    return Group(topology, mapping.of(ranks), *packet, steps_ps)


def _orders(mapping: RankMap, ranks: tuple[int, ...], ring: bool) -> Orders:
    return orders(mapping.of(ranks), ring=ring)


def _first(op: str) -> str:
    """The default algorithm."""
    return Algorithms.model_fields[op].default


def _schedule(operation: Operation, name: str, channels: Orders) -> MessageColumns:
    if channels:
        parts = (share(operation, order, number, len(channels)) for number, order in enumerate(channels))
        return side_by_side([_schedule(part, name, ()) for part in parts], channels)
    match operation.op:
        case "send":
            return message_columns(send(operation))
        case "barrier":
            return message_columns(barrier(operation))
        case op:
            in_columns = IN_COLUMNS.get((op, name))
            return in_columns(operation) if in_columns else message_columns(ALGORITHMS[op][name](operation))
