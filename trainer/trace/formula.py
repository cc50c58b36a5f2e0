"""The collectives that a run would issue, computed from its sizes alone."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from moe.collective_trace import CollectiveRecord, TraceHeader
from moe.dispatch.expected import MODES, expected_exchanges
from moe.dispatch.messages import Exchange, Sizes
from trainer.trace.groups import canonical_names
from trainer.trace.reduction import ParameterGroup, gradient_reductions

_ELEMENT_BYTES = {"fp32": 4, "bf16": 2}
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}

Gaps = Callable[[CollectiveRecord], int | None]
"""Compute before a record, ns; None if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSpec:
    """Everything about a run that decides its collectives.

    Consecutive ranks share the experts of a layer (group expert); ranks at a distance of `expert_parallel` hold the
    same experts (group expert_data); all ranks hold the dense parameters (group data).

    Args:
        world_size: number of ranks, a multiple of expert_parallel.
        ranks_per_node: ranks on one node.
        expert_parallel: ranks that share the experts of a layer; 1 issues no collectives for tokens.
        moe_layers: indices of the model blocks that hold experts.
        dispatch: how tokens travel: home, copies or coherent.
        num_experts, top_k: experts of a layer and how many of them a token visits.
        most_choices: choices that a message of coherent dispatch has room for.
        key_value_width: elements of a token's keys and values in a layer, gathered in coherent dispatch.
        dropout: whether ranks in coherent dispatch tell each other a seed.
        router_sums: element type and bytes of each all-reduce over all ranks by which a router balances the tokens of
            a layer's forward pass.
        tokens: tokens of a rank and micro step.
        hidden: width of a token.
        parameters: the optimiser's parameter groups; expert parameters are those of one rank.
        zero_stage: 0, 1 or 2.
        precision: element type of parameters and gradients; bf16 adds an overflow check.
        bucket_elements: DeepSpeed's reduce_bucket_size.
        accumulation: micro steps of an optimiser step.
        steps: optimiser steps to write, ascending.
        config_sha256: hash of the resolved configuration, for the header.
    """

    world_size: int
    ranks_per_node: int
    expert_parallel: int
    moe_layers: tuple[int, ...]
    dispatch: str = "home"
    num_experts: int
    top_k: int
    most_choices: int = 0
    key_value_width: int = 0
    dropout: bool = False
    router_sums: tuple[tuple[str, int], ...] = ()
    tokens: int
    hidden: int
    parameters: tuple[ParameterGroup, ...]
    zero_stage: int
    precision: Literal["fp32", "bf16"]
    bucket_elements: int
    accumulation: int = 1
    steps: tuple[int, ...] = (1,)
    config_sha256: str | None = None

    def __post_init__(self) -> None:
        """Refuse runs that no formula covers."""
        if self.zero_stage not in (0, 1, 2):
            raise ValueError(f"engine.zero_stage: has no formula ({self.zero_stage}); use 0, 1 or 2, or record a run")
        if self.world_size % self.expert_parallel:
            raise ValueError(
                f"parallel.expert: must divide the {self.world_size} ranks ({self.expert_parallel}); "
                "choose a divisor or another --world-size"
            )
        if self.dispatch not in MODES:
            raise ValueError(f"moe.dispatch: has no formula ({self.dispatch}); use one of {', '.join(MODES)}")


def formula(spec: TraceSpec, gaps: Gaps | None = None) -> tuple[TraceHeader, Iterator[CollectiveRecord]]:
    """Write the trace of a run that has not happened.

    Tokens are spread evenly over the ranks of their expert group, what does not divide in rotation; a recording has
    uneven splits. Its totals are the same where the number of visits is: always in home-return dispatch, elsewhere
    where `Visits.even` is exact. A router that decides itself how many experts a token visits, or that drops choices,
    is taken at its top_k; in coherent dispatch tokens are taken to remain as many on each rank.

    Args:
        spec: the run.
        gaps: compute before each record; None leaves it unknown.

    Returns:
        The header and the records, rank after rank, made while they are read.
    """
    groups = _groups(spec)
    names = canonical_names((meaning, ranks) for rank in groups for meaning, ranks in rank.items())
    header = TraceHeader(
        source="formula",
        world_size=spec.world_size,
        ranks_per_node=spec.ranks_per_node,
        groups={name: ranks for (_, ranks), name in names.items()},
        steps=spec.steps,
        config_sha256=spec.config_sha256,
        torch=None,
    )
    return header, _records(spec, groups, names, gaps or (lambda _record: None))


def constant_gaps(gap_ns: int) -> Gaps:
    """The same compute before every record.

    Args:
        gap_ns: compute, ns, 0 or more.
    """
    return lambda _record: gap_ns


def recorded_gaps(records: Iterable[CollectiveRecord]) -> Gaps:
    """The mean compute that a recording shows before records of the same phase, operation and layer.

    A layer that was not recorded takes the mean over all layers; what has no counterpart at all stays unknown.

    Args:
        records: of a recorded trace.
    """
    samples: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for record in records:
        if record.gap_ns is not None:
            samples[record.phase, record.op, record.layer].append(record.gap_ns)
            samples[record.phase, record.op].append(record.gap_ns)
    means = {key: round(fmean(values)) for key, values in samples.items()}
    return lambda record: means.get((record.phase, record.op, record.layer), means.get((record.phase, record.op)))


@dataclass(frozen=True, slots=True)
class _Operation:
    """A collective as every rank issues it; the sizes of an exchange of tokens depend on the rank."""

    micro: int
    phase: str
    layer: int | None
    group: str
    op: str = ""
    dtype: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    exchange: Exchange | None = None

    def fields(self, member: int) -> dict[str, Any]:
        """Operation, type and sizes in the record of a rank, given its place in the group."""
        if self.exchange is not None:
            return self.exchange.fields(member)
        return {name: getattr(self, name) for name in ("op", "dtype", "bytes_in", "bytes_out")}


def _groups(spec: TraceSpec) -> list[dict[str, tuple[int, ...]]]:
    """Meaning to ranks, for each rank, of the groups in which it issues anything."""
    width = spec.expert_parallel
    used = {operation.group for operation in _step(spec)}
    return [
        {
            meaning: ranks
            for meaning, ranks in (
                ("data", tuple(range(spec.world_size))),
                ("expert", tuple(range(rank - rank % width, rank - rank % width + width))),
                ("expert_data", tuple(range(rank % width, spec.world_size, width))),
            )
            if meaning in used
        }
        for rank in range(spec.world_size)
    ]


def _records(
    spec: TraceSpec,
    groups: list[dict[str, tuple[int, ...]]],
    names: dict[tuple[str, tuple[int, ...]], str],
    gaps: Gaps,
) -> Iterator[CollectiveRecord]:
    operations = list(_step(spec))
    for rank, own in enumerate(groups):
        seq = 0
        for step in spec.steps:
            for operation in operations:
                ranks = own[operation.group]
                record = CollectiveRecord(
                    rank=rank,
                    seq=seq,
                    step=step,
                    micro=operation.micro,
                    phase=operation.phase,
                    group=names[operation.group, ranks],
                    size1=len(ranks) == 1,
                    layer=operation.layer,
                    **operation.fields(ranks.index(rank)),
                )
                yield replace(record, gap_ns=gaps(record))
                seq += 1


def _step(spec: TraceSpec) -> Iterator[_Operation]:
    """One optimiser step of any rank, in program order."""
    for micro in range(spec.accumulation):
        yield from _passes(spec, micro)
        if spec.zero_stage == 2 or micro == spec.accumulation - 1:
            yield from _reductions(spec, micro)
    yield from _update(spec, spec.accumulation - 1)


def _passes(spec: TraceSpec, micro: int) -> Iterator[_Operation]:
    """What routers and tokens send in a forward and a backward pass."""
    if spec.dispatch == "coherent" and spec.dropout and spec.expert_parallel > 1:
        yield _Operation(micro, "forward", None, "expert", "all_gather", "int64", 8, 8 * spec.expert_parallel)
    if spec.expert_parallel == 1:
        for layer in spec.moe_layers:
            yield from _router_sums(spec, micro, layer)
    for phase in ("forward", "backward"):
        for layer, exchange in _exchanges(spec, phase):
            if phase == "forward" and layer is not None and "int" in exchange.dtype:  # counts follow the choices
                yield from _router_sums(spec, micro, layer)
            yield _Operation(micro, phase, layer, "expert", exchange=exchange)


def _exchanges(spec: TraceSpec, phase: str) -> Iterator[tuple[int | None, Exchange]]:
    element_bytes, dtype = _ELEMENT_BYTES[spec.precision], _DTYPES[spec.precision]
    keys_and_values = spec.key_value_width * element_bytes
    sizes = Sizes(spec.hidden, element_bytes, spec.num_experts, dtype, key_value_bytes=keys_and_values)
    return expected_exchanges(
        spec.dispatch,
        phase,
        sizes,
        spec.moe_layers,
        num_ranks=spec.expert_parallel,
        tokens=spec.tokens,
        top_k=spec.top_k,
        most_choices=spec.most_choices,
    )


def _router_sums(spec: TraceSpec, micro: int, layer: int) -> Iterator[_Operation]:
    if spec.world_size > 1:
        for dtype, size in spec.router_sums:
            yield _Operation(micro, "forward", layer, "data", "all_reduce", dtype, size, size)


def _reductions(spec: TraceSpec, micro: int) -> Iterator[_Operation]:
    """All-reduces of the gradients, at the end of the backward pass."""
    for group, elements in gradient_reductions(
        spec.parameters, _num_ranks(spec), zero_stage=spec.zero_stage, bucket_elements=spec.bucket_elements
    ):
        size = elements * _ELEMENT_BYTES[spec.precision]
        yield _Operation(micro, "backward", None, group, "all_reduce", _DTYPES[spec.precision], size, size)


def _update(spec: TraceSpec, micro: int) -> Iterator[_Operation]:
    """Overflow check, gradient norm and, where the optimiser is sharded, the gathering of the new parameters.

    The norm is computed whether or not gradients are clipped: by DeepSpeed over each parameter group, or by the
    engine itself in stage 0, where the ranks that share the experts add up their parts.
    """

    def scalar(group: str, dtype: str = "float32", size: int = 4) -> _Operation:
        return _Operation(micro, "optimizer", None, group, "all_reduce", dtype, size, size)

    experts = [owner for owner in spec.parameters if owner.group == "expert_data"]
    if spec.zero_stage == 0:
        if experts:
            yield scalar("expert")
        return
    if spec.precision == "bf16":
        yield scalar("data", "uint8", 1)
    for _ in spec.parameters:
        yield scalar("data")
    for _ in experts:
        yield scalar("expert_data")
    for owner in spec.parameters:
        num_ranks = _num_ranks(spec)[owner.group]
        if num_ranks > 1:
            size = owner.padded_elements(num_ranks) * _ELEMENT_BYTES[spec.precision]
            yield _Operation(
                micro,
                "optimizer",
                None,
                owner.group,
                "all_gather",
                _DTYPES[spec.precision],
                size // num_ranks,
                size,
            )


def _num_ranks(spec: TraceSpec) -> dict[str, int]:
    return {"data": spec.world_size, "expert_data": spec.world_size // spec.expert_parallel}
