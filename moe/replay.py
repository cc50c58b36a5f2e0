"""The collectives that a recorded run would have issued under another placement or dispatch mode.

The router's choices do not depend on where the experts are, so a routing trace of the same steps says what every
message would have carried. All other collectives stay as they were recorded. So do those of rollouts, of which routing
traces hold no routes.

Shape legend: T tokens of a micro batch on one rank, L MoE layers, K choices, E experts, N ranks of an expert-parallel
group.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe.collective_trace import ROLLOUT, CollectiveRecord, TraceHeader
from moe.config import capacity_of
from moe.dispatch.coherent_messages import Moves, coherent_exchanges, end_exchanges
from moe.dispatch.messages import PATTERNS, Borrowing, Exchange, Sizes, Visits
from moe.placement.placement import Mode, Placement
from moe.replica import Slots, served_choices
from moe.routing_trace import RoutingTrace

EXPERT = "expert"
PARTS = ("expert_rail", "expert_node")
"""Names of the groups between and inside the nodes of an expert-parallel group."""
Groups = Mapping[str, tuple[int, ...]]


def meaning(name: str) -> str:
    """Returns the purpose of a group: its name without the number at its end."""
    kind, _, number = name.rpartition("_")
    return kind if number.isdecimal() else name


class ExpertGroups:
    """Names the groups that a dispatch mode uses, in the order that recordings and formulas give them.

    `groups` holds those between and inside nodes where the mode needs them, and only there.
    """

    def __init__(self, groups: Groups, num_ranks: int, relay_ranks: int | None) -> None:
        """Adds the groups between and inside nodes to those of a trace, if so many ranks on a node relay tokens.

        The ranks of a group are consecutive. `relay_ranks` is None where nodes make no difference.
        """
        self.num_ranks = num_ranks
        kept = {(meaning(name), ranks): name for name, ranks in groups.items() if meaning(name) not in PARTS}
        own = [ranks for kind, ranks in kept if kind == EXPERT]
        if relay_ranks is not None:
            place = np.arange(num_ranks)
            for kind, parts in zip(PARTS, (place % relay_ranks, place // relay_ranks), strict=True):
                divided = [
                    tuple(np.array(ranks)[parts == part].tolist()) for ranks in own for part in set(parts.tolist())
                ]
                kept |= {(kind, ranks): f"{kind}_{number}" for number, ranks in enumerate(sorted(divided))}
        self._names = {key: kept[key] for key in sorted(kept)}
        self.groups = {name: ranks for (_, ranks), name in self._names.items()}

    def name(self, rank: int, exchange: Exchange) -> str:
        """The group on which a rank issues an exchange."""
        member = rank % self.num_ranks
        ranks = tuple((rank - member + exchange.members(member)).tolist())
        return self._names[exchange.group, ranks]


_DTYPES = {2: "bfloat16", 4: "float32", 8: "float64"}
_MODES = (*PATTERNS, "coherent")
Traffic = Visits | Moves
Passes = dict[tuple[int, int, int], "Sequence[Traffic]"]
"""(step, local micro batch, first rank of the group) to what tokens do in each MoE layer."""


def replay(
    header: TraceHeader,
    records: Sequence[CollectiveRecord],
    routing: RoutingTrace,
    placement: Placement,
    dispatch: Mode | None = None,
    replicas: str | None = None,
) -> tuple[TraceHeader, list[CollectiveRecord]]:
    """Rewrites a recorded trace.

    Args:
        header: of a recorded collective trace.
        records: its records, rank after rank.
        routing: routing trace of the same run; holds the same steps.
        placement: placement of the replay.
        dispatch: mode in which tokens would travel; None: the placement's own.
        replicas: how tokens would choose among the replicas of an expert, even or least_loaded; None: as in the run.

    Returns:
        The header and the records. Compute keeps its time: if an exchange is removed, its gap is added to that of the
        next record. Times of issue and end are unknown. Coherent dispatch is replayed as issued in training by a model
        without dropout.

    Raises:
        ValueError: the traces or the placement do not belong together, or lack what a replay needs.
    """
    mode = dispatch or placement.dispatch
    sizes = _sizes(header, routing, placement, mode)
    groups = ExpertGroups(header.groups, placement.num_ranks, placement.relay_ranks(mode))
    traffic = _traffic(header, routing, placement, mode, replicas or routing.header.replicas or "even")
    layers = {block: index for index, block in enumerate(routing.header.moe_layers or ())}
    rewritten: list[CollectiveRecord] = []
    for of_rank in _by_rank(records):
        rewritten += _rewrite(header, of_rank, layers, groups, traffic, sizes, mode)
    return replace(header, source="replayed", groups=groups.groups), rewritten


def kept_rollouts(header: TraceHeader) -> str | None:
    """Returns a remark that a replay keeps the records of rollouts as they are; None if the trace has none."""
    if ROLLOUT not in header.phases:
        return None
    return "rollouts keep the messages of the recorded placement: their routes are not recorded"


def _rewrite(
    header: TraceHeader,
    records: Sequence[CollectiveRecord],
    layers: dict[int, int],
    groups: ExpertGroups,
    passes: Passes,
    sizes: Sizes,
    mode: Mode,
) -> Iterator[CollectiveRecord]:
    """One rank's records, with those of each pass through an expert layer replaced by those of the mode."""
    entries: list[tuple[int | None, CollectiveRecord]] = []
    carried_ns = 0
    index = 0
    while index < len(records):
        record = records[index]
        if not _is_dispatch(header, record, layers):
            entries.append((record.seq, replace(record, gap_ns=_later(record.gap_ns, carried_ns))))
            carried_ns, index = 0, index + 1
            continue
        end = index
        while end < len(records) and _same_pass(header, records[index], records[end]):
            end += 1
        recorded = records[index:end]
        index = end
        if record.layer is None:  # targets and losses of coherent dispatch, written anew with the last layer
            carried_ns += sum(item.gap_ns or 0 for item in recorded)
            continue
        member = record.rank % groups.num_ranks
        traffic = passes[record.step, record.micro, record.rank - member][layers[record.layer]]
        exchanges = _exchanges(traffic, sizes, record.phase, record.layer, mode)
        for place, (layer, exchange) in enumerate(exchanges):
            gap = recorded[place].gap_ns if place < len(recorded) else 0
            written = _record(record, exchange, member, _later(gap, carried_ns))
            seq = recorded[place].seq if place < len(recorded) else None
            entries.append((seq, replace(written, layer=layer, group=groups.name(record.rank, exchange))))
            carried_ns = 0
        carried_ns += sum(item.gap_ns or 0 for item in recorded[len(exchanges) :])
    return _numbered(entries, records[-1].seq if records else 0)


def _exchanges(traffic: Traffic, sizes: Sizes, phase: str, layer: int, mode: Mode) -> list[tuple[int | None, Exchange]]:
    """The collectives of one layer's pass, each with the block that it belongs to."""
    if isinstance(traffic, Visits):
        return [(layer, exchange) for exchange in PATTERNS[mode](traffic, sizes, phase)]
    inside: list[tuple[int | None, Exchange]] = [(layer, one) for one in coherent_exchanges(traffic, sizes, phase)]
    at_end = end_exchanges(traffic, sizes, phase) if traffic.is_last else []
    ends: list[tuple[int | None, Exchange]] = [(None, one) for one in at_end]
    return [*ends, *inside] if phase == "backward" else [*inside, *ends]


def _record(like: CollectiveRecord, exchange: Exchange, own: int, gap_ns: int | None) -> CollectiveRecord:
    recorded: dict[str, Any] = {"in_splits": None, "out_splits": None, **exchange.fields(own)}
    return replace(like, **recorded, asynchronous=False, wait_seq=None, gap_ns=gap_ns)


def _numbered(entries: list[tuple[int | None, CollectiveRecord]], last: int) -> Iterator[CollectiveRecord]:
    """Renumbers the records; a wait points at the replacement of the record that it pointed at."""
    first = entries[0][0] or 0 if entries else 0
    renumbered = {old: first + new for new, (old, _) in enumerate(entries) if old is not None}
    end = first + len(entries)
    following = sorted(renumbered)
    for new, (_, record) in enumerate(entries, start=first):
        wait = record.wait_seq
        if wait is not None:
            later = following[np.searchsorted(following, wait) :] if wait <= last else []
            wait = renumbered[later[0]] if len(later) else end
        yield replace(record, seq=new, wait_seq=wait, t_issue_ns=None, t_done_ns=None)


def _later(gap_ns: int | None, carried_ns: int) -> int | None:
    return gap_ns if gap_ns is None else gap_ns + carried_ns


def _is_dispatch(header: TraceHeader, record: CollectiveRecord, layers: dict[int, int]) -> bool:
    if meaning(record.group) not in (EXPERT, *PARTS) or len(header.groups[record.group]) == 1:
        return False
    if record.phase == ROLLOUT:
        return False
    return record.layer in layers or (record.layer is None and record.phase != "optimizer")


def _same_pass(header: TraceHeader, one: CollectiveRecord, other: CollectiveRecord) -> bool:
    """Whether the record `one` belongs to the same pass through an expert layer as the record `other`."""
    is_alike = (one.step, one.micro, one.phase, one.layer) == (other.step, other.micro, other.phase, other.layer)
    of_tokens = meaning(other.group) in (EXPERT, *PARTS) and len(header.groups[other.group]) > 1
    return is_alike and of_tokens


def _by_rank(records: Sequence[CollectiveRecord]) -> list[list[CollectiveRecord]]:
    ranks: dict[int, list[CollectiveRecord]] = defaultdict(list)
    for record in records:
        ranks[record.rank].append(record)
    return [ranks[rank] for rank in sorted(ranks)]


def _traffic(header: TraceHeader, routing: RoutingTrace, placement: Placement, mode: Mode, replicas: str) -> Passes:
    """Where the tokens of every micro batch go, from the routing trace."""
    assert routing.step is not None
    assert routing.micro is not None
    width = placement.num_ranks
    parts: dict[tuple[int, int, int], list[tuple[int, NDArray[np.integer]]]] = defaultdict(list)
    for step in header.steps:
        for rank in range(header.world_size):
            own = (routing.step == step) & (routing.source_rank == rank)
            for local, micro in enumerate(np.unique(routing.micro[own])):
                chosen_TLK = routing.expert_ids[own & (routing.micro == micro)]
                parts[step, local, rank - rank % width].append((rank % width, chosen_TLK))
    if placement.has_replicas and mode != "coherent":
        return _traffic_with_replicas(routing, placement, replicas, parts)
    expert_ranks_LE = placement.expert_ranks()
    if mode == "coherent":
        return {key: Moves.of(of_ranks, expert_ranks_LE, width) for key, of_ranks in parts.items()}
    num_nodes = placement.num_nodes
    passes: Passes = {}
    for key, of_ranks in parts.items():
        capacity = _capacity(routing, max(len(ids_TLK) for _, ids_TLK in of_ranks))
        visits = (
            Visits.of(
                [(home, ids_TLK[:, layer]) for home, ids_TLK in of_ranks], expert_ranks_LE[layer], width, num_nodes
            )
            for layer in range(routing.header.num_layers)
        )
        passes[key] = [replace(of_layer, capacity=capacity) for of_layer in visits]
    return passes


def _capacity(routing: RoutingTrace, tokens: int) -> int | None:
    """Choices that an expert takes of a rank's tokens; None: the router has no limit, or it is unknown."""
    own = routing.header
    if own.cap is None or own.due_choices is None:
        return None
    return capacity_of(tokens, top_k=own.due_choices, num_experts=own.num_experts, cap=own.cap)


def _traffic_with_replicas(
    routing: RoutingTrace,
    placement: Placement,
    rule: str,
    parts: dict[tuple[int, int, int], list[tuple[int, NDArray[np.integer]]]],
) -> Passes:
    """Where the tokens go if some experts are on several ranks, which a micro batch of the whole group decides."""
    width, passes = placement.num_ranks, defaultdict(list)
    for layer, block in enumerate(routing.header.moe_layers or ()):
        slots = Slots.of(placement.slot_to_expert(layer), placement.num_experts, width)
        borrowing = Borrowing.of(slots, rule)
        for key, of_ranks in parts.items():
            chosen = [(home, chosen_TLK[:, layer]) for home, chosen_TLK in of_ranks]
            served = served_choices(chosen, slots, rule, block)
            passes[key].append(Visits.of_slots(served, width, placement.num_nodes, borrowing))
    return dict(passes)


def _sizes(header: TraceHeader, routing: RoutingTrace, placement: Placement, mode: Mode) -> Sizes:
    """Sizes of a row, after checks that everything belongs together."""
    for message in _contradictions(header, routing, placement, mode):
        raise ValueError(message)
    own = routing.header
    assert own.hidden is not None
    assert own.element_bytes is not None
    return Sizes(
        hidden=own.hidden,
        element_bytes=own.element_bytes,
        num_experts=own.num_experts,
        dtype=_DTYPES[own.element_bytes],
        key_value_bytes=(own.key_value_width or 0) * own.element_bytes,
        expert_bytes=(own.expert_parameters or 0) * own.element_bytes,
        target_bytes=own.target_bytes or 1,
    )


def _contradictions(header: TraceHeader, routing: RoutingTrace, placement: Placement, mode: Mode) -> Iterator[str]:
    own = routing.header
    if mode not in _MODES:
        yield f"dispatch: cannot be replayed ({mode}); choose from {', '.join(_MODES)}"
    if mode == "coherent" and own.key_value_width is None:
        yield (
            "routing: header.key_value_width is missing, so its model gathers no keys and values as coherent dispatch "
            "must; choose home, capped, copies or hierarchical"
        )
    if mode == "capped" and None in (own.cap, own.due_choices):
        yield (
            "routing: header.cap is missing, and capped dispatch sends as many rows as the router lets an expert take; "
            "record a run whose router has a limit, or choose home"
        )
    if mode == "capped" and placement.has_replicas:
        yield "placement: has replicas, which capped dispatch does not serve; place without replicas, or choose home"
    if own.element_bytes not in (None, *_DTYPES):
        yield f"routing: header.element_bytes is {own.element_bytes}; give one of {', '.join(map(str, _DTYPES))}"
    if placement.has_replicas and own.expert_parameters is None:
        yield (
            "routing: header.expert_parameters is missing, and replicas borrow the weights of experts; record the "
            "trace with this version, or place without replicas"
        )
    needed = {"step": routing.step, "micro": routing.micro, "header.hidden": own.hidden}
    needed |= {"header.element_bytes": own.element_bytes, "header.moe_layers": own.moe_layers}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        yield f"routing: lacks {', '.join(missing)}; record it with the trainer (trace.steps)"
    if own.world_size != header.world_size:
        yield (
            f"routing: was recorded on {own.world_size} ranks, the collectives on {header.world_size}; "
            "give two traces of one run"
        )
    recorded_steps = set() if routing.step is None else set(np.unique(routing.step).tolist())
    absent = [step for step in header.steps if step not in recorded_steps]
    if absent:
        yield f"routing: has no tokens of step {absent[:1]}; give the routing trace of the same steps"
    if (placement.num_layers, placement.num_experts) != (own.num_layers, own.num_experts):
        yield (
            f"placement: has {placement.num_layers} layers of {placement.num_experts} experts but the routing trace "
            f"has {own.num_layers} of {own.num_experts}; place this run's own trace"
        )
    if own.expert_parallel not in (None, placement.num_ranks):
        yield (
            f"placement: is made for groups of {placement.num_ranks} ranks but the run shares its experts among "
            f"{own.expert_parallel}; place with nodes x ranks_per_node = {own.expert_parallel}"
        )
