"""The trace of a run, from the collectives that its parts issue."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from moe.collective_trace import ROLLOUT, CollectiveRecord, TraceHeader
from trainer.experiment.forecast.protocol import Operation, Program
from trainer.trace.agreement import canonical_names

Gaps = Callable[[CollectiveRecord], int | None]
"""Compute before a record, ns; None if unknown."""


def constant_gaps(gap_ns: int) -> Gaps:
    """The same compute before every record, ns, 0 or more."""
    return lambda _record: gap_ns


def recorded_gaps(records: Iterable[CollectiveRecord]) -> Gaps:
    """The mean compute that a recording shows before records of the same phase, operation and layer.

    A layer that was not recorded takes the mean over all layers. Rollouts that were not recorded count as forward
    passes of more states: their compute before an exchange of tokens is that of a forward pass, scaled by the ratio of
    bytes. Records without any counterpart get None.
    """
    samples: dict[tuple[object, ...], list[int]] = defaultdict(list)
    sizes: dict[str, list[int]] = defaultdict(list)
    for record in records:
        if record.gap_ns is not None:
            samples[record.phase, record.op, record.layer].append(record.gap_ns)
            samples[record.phase, record.op].append(record.gap_ns)
        if record.phase == "forward" and record.op == "all_to_all":
            sizes[record.dtype].append(record.bytes_in)
    means = {key: round(fmean(values)) for key, values in samples.items()}
    mean_bytes = {dtype: fmean(values) for dtype, values in sizes.items() if any(values)}

    def mean(record: CollectiveRecord, phase: str) -> int | None:
        return means.get((phase, record.op, record.layer), means.get((phase, record.op)))

    def gap(record: CollectiveRecord) -> int | None:
        known = mean(record, record.phase)
        if known is not None or record.phase != ROLLOUT or record.op != "all_to_all":
            return known
        forward, usual = mean(record, "forward"), mean_bytes.get(record.dtype)
        return None if forward is None or usual is None else round(forward * record.bytes_in / usual)

    return gap


@dataclass(frozen=True, slots=True)
class RankGroups:
    """Process groups of one kind: number of ranks in each, and distance between neighbouring ranks."""

    size: int
    stride: int = 1

    def of(self, rank: int) -> tuple[int, ...]:
        """Ranks of the group that a rank belongs to, ascending."""
        first = rank - rank // self.stride % self.size * self.stride
        return tuple(range(first, first + self.size * self.stride, self.stride))


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSpec:
    """Everything that decides the collectives of a program.

    Steps of a cycle share the collection of the first. `later` is the program of the other steps, without a collection;
    None if all steps are alike. The first cycle begins with step 1.
    """

    world_size: int
    ranks_per_node: int
    groups: Mapping[str, RankGroups]
    program: Program
    later: Program | None = None
    cycle: int = 1
    steps: tuple[int, ...] = (1,)
    config_sha256: str | None = None

    def begins_cycle(self, step: int) -> bool:
        """Whether a step is the first of a cycle, in which the ranks draw and collect for all of its steps."""
        return self.later is None or (step - 1) % self.cycle == 0


def formula(spec: TraceSpec, gaps: Gaps | None = None) -> tuple[TraceHeader, Iterator[CollectiveRecord]]:
    """The trace of a run that has not happened: header, and records rank after rank, made while they are read."""
    first, later = (list(program.operations()) if program else [] for program in _programs(spec))
    programs = {step: first if spec.begins_cycle(step) else later for step in spec.steps}
    issued = {id(operations): operations for operations in programs.values()}.values()
    used = {operation.collective.group for operations in issued for operation in operations}
    collects = any(operation.phase == ROLLOUT for operations in issued for operation in operations)
    works = any(operation.flops is not None for operations in issued for operation in operations)
    own = [
        {meaning: groups.of(rank) for meaning, groups in spec.groups.items() if meaning in used}
        for rank in range(spec.world_size)
    ]
    names = canonical_names((meaning, ranks) for groups in own for meaning, ranks in groups.items())
    header = TraceHeader(
        source="formula",
        world_size=spec.world_size,
        ranks_per_node=spec.ranks_per_node,
        groups={name: ranks for (_, ranks), name in names.items()},
        steps=spec.steps,
        config_sha256=spec.config_sha256,
        torch=None,
        version=4 if works else 2 if collects else 1,
    )
    return header, _records(programs, own, names, gaps or (lambda _record: None))


def _programs(spec: TraceSpec) -> tuple[Program | None, Program | None]:
    """Returns the programs of first and of later steps of a cycle; None for a kind of step that is not written."""
    begins = {spec.begins_cycle(step) for step in spec.steps}
    return spec.program if True in begins else None, spec.later if False in begins else None


def _records(
    programs: Mapping[int, list[Operation]],
    groups: list[dict[str, tuple[int, ...]]],
    names: dict[tuple[str, tuple[int, ...]], str],
    gaps: Gaps,
) -> Iterator[CollectiveRecord]:
    for rank, own in enumerate(groups):
        seq = 0
        for step, operations in programs.items():
            first = seq
            for operation in operations:
                meaning = operation.collective.group
                ranks = own[meaning]
                record = CollectiveRecord(
                    rank=rank,
                    seq=seq,
                    step=step,
                    micro=operation.micro,
                    phase=operation.phase,
                    group=names[meaning, ranks],
                    size1=len(ranks) == 1,
                    asynchronous=operation.awaited is not None,
                    wait_seq=None if operation.awaited is None else first + operation.awaited,
                    layer=operation.layer,
                    flops=operation.flops,
                    memory_bytes=operation.memory_bytes,
                    products=operation.products,
                    **operation.collective.fields(rank, ranks),
                )
                yield replace(record, gap_ns=gaps(record))
                seq += 1
