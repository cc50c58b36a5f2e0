"""Bytes that the expert layers of a collective trace send between ranks and nodes, and their time by alpha-beta.

Shape legend: G ranks of a process group.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moe.collective_trace import ROLLOUT, CollectiveRecord, TraceHeader
from moe.placement.cost.evaluation import exchange_seconds
from moe.placement.topology import LinkRates, Topology

_EXPERT_GROUP = re.compile(r"(expert|expert_rail|expert_node)(_\d+)?")


@dataclass(frozen=True)
class Traffic:
    """Traffic of the expert layers in one optimiser step, mean over the steps of a trace; without rollouts.

    No placement changes the messages of rollouts in a replay, since their routes are not recorded.

    Attributes:
        rank_bytes: Bytes that leave the rank on which they were.
        node_bytes: Bytes of them that go to another node.
        predicted_s: Seconds of all exchanges one after another by the alpha-beta model; None without rates.
        moved: Share of the bytes of all-to-alls that leave their rank, 0 to 1; what stays counts as sent to itself.
    """

    rank_bytes: float
    node_bytes: float
    predicted_s: float | None
    moved: float

    @classmethod
    def of(
        cls,
        header: TraceHeader,
        records: Sequence[CollectiveRecord],
        ranks_per_node: int,
        rates: LinkRates | None = None,
    ) -> "Traffic":
        """Measure a trace; with rates it also predicts times, in which groups of one kind exchange side by side."""
        rank_bytes = node_bytes = exchanged = moved = 0
        longest: dict[tuple[str, int], float] = defaultdict(float)
        for kind, turn, op, ranks, sent_GG in _exchanges(header, records):
            nodes = np.array(ranks) // ranks_per_node
            away = sent_GG.sum() - np.trace(sent_GG)
            rank_bytes += int(away)
            node_bytes += int(sent_GG[nodes[:, None] != nodes].sum())
            if op == "all_to_all":
                exchanged, moved = exchanged + int(sent_GG.sum()), moved + int(away)
            if rates is not None:
                num_nodes = len(set(nodes.tolist()))
                topology = replace(Topology.hops(num_nodes, len(ranks) // num_nodes), rates=rates)
                seconds = float(exchange_seconds(sent_GG[None, None].astype(np.float64), topology)[0, 0])
                longest[kind, turn] = max(longest[kind, turn], seconds)
        steps = max(len(header.steps), 1)
        predicted = None if rates is None else sum(longest.values()) / steps
        return cls(rank_bytes / steps, node_bytes / steps, predicted, moved / max(exchanged, 1))


def _exchanges(
    header: TraceHeader, records: Sequence[CollectiveRecord]
) -> Iterator[tuple[str, int, str, tuple[int, ...], NDArray[np.int64]]]:
    """Each collective among ranks that share experts: kind of group, its turn there, operation, ranks, bytes [G, G]."""
    parts: dict[tuple[str, int], dict[int, CollectiveRecord]] = defaultdict(dict)
    turns: dict[tuple[str, int], int] = defaultdict(int)
    for record in records:
        if record.phase in ("optimizer", ROLLOUT) or record.size1 or not _EXPERT_GROUP.fullmatch(record.group):
            continue
        turn = turns[record.group, record.rank]
        turns[record.group, record.rank] = turn + 1
        parts[record.group, turn][record.rank] = record
    for (group, turn), by_rank in parts.items():
        ranks = tuple(header.groups[group])
        matched = _EXPERT_GROUP.fullmatch(group)
        assert matched is not None
        rows = [_sent(by_rank[rank], len(ranks)) for rank in ranks if rank in by_rank]
        if len(rows) < len(ranks):
            alone = by_rank[min(by_rank)]
            raise ValueError(f"records: {alone.op} of rank {alone.rank} on {group} has no partner; record again")
        yield matched[1], turn, by_rank[ranks[0]].op, ranks, np.array(rows, dtype=np.int64)


def _sent(record: CollectiveRecord, size: int) -> list[int]:
    """Bytes that a rank sends to each member of the group, if every message goes straight to its receiver."""
    if record.in_splits is not None:
        return list(record.in_splits)
    if record.op == "all_gather":
        return [record.bytes_in] * size
    if record.op == "reduce_scatter":
        return [record.bytes_in // size] * size
    return [0] * size
