"""The operations that the communication nodes of execution traces describe: members and bytes."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from netsim.collective.protocol import Operation
from netsim.foundation.lines import MOST
from netsim.foundation.refusal import Refusal
from netsim.foundation.units import split_bytes
from netsim.workload.chakra.files import RankTrace
from netsim.workload.chakra.nodes import Node, NodeType

OUTPUT_BYTES, INPUT_SPLITS, ROOT, DURATION_NS = "out_bytes", "in_split", "root_rank", "duration_nanos"
"""Attributes for which the schema has no field: bytes that a rank holds after a reduce_scatter, bytes of an all_to_all
to each member, global rank of a broadcast's root, nanoseconds of a computation."""

_REMEDY = "convert or record the trace again"
_UNSUPPORTED = ("reduce", "gather", "scatter")


class OperationKey(NamedTuple):
    """Key by which nodes of several ranks form one operation: the k-th nodes with equal keys belong together.

    `key` is the group, or the pair and its tag; of the members of a pair the sender comes first.
    """

    key: tuple[str | int, ...]
    members: Sequence[int]
    group: str

    @property
    def is_pair(self) -> bool:
        """Whether the operation is a message from one rank to another."""
        return self.key[0] == "pair"


class Member(NamedTuple):
    """A node of one rank in an operation."""

    trace: RankTrace
    node: Node

    def refuse(self, field: str, problem: str, remedy: str = _REMEDY) -> Refusal:
        """The error that names the node and the attribute."""
        return Refusal(self.trace.path, f"node {self.node.id}: {field}", problem, remedy)

    def integer(self, name: str, most: int = MOST) -> int | None:
        """An attribute in [0, most), None if it is absent."""
        value = self.node.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or not 0 <= value < most:
            raise self.refuse(name, f"is not a number from 0 to {most - 1} ({value!r:.40})")
        return value

    def size(self) -> int:
        """Bytes of the rank's input buffer."""
        size_bytes = self.integer("comm_size")
        if size_bytes is None:
            raise self.refuse("comm_size", "is missing")
        return size_bytes


def duration_ps(member: Member) -> int:
    """Picoseconds that a node of computation takes; nanoseconds, where it has them, are finer than duration_micros."""
    duration_ns = member.integer(DURATION_NS, MOST // 1000)
    if duration_ns is not None:
        return 1000 * duration_ns
    if member.node.duration_us * 10**6 >= MOST:
        raise member.refuse("duration_micros", f"is too large ({member.node.duration_us})")
    return member.node.duration_us * 10**6


def operation_key(member: Member, rank: int, groups: Mapping[str, Sequence[int]]) -> OperationKey | None:
    """The key and the members of the operation of a node of `rank`; None if it moves nothing."""
    node = member.node
    if node.type not in (NodeType.COMM_COLL_NODE, NodeType.COMM_SEND_NODE, NodeType.COMM_RECV_NODE):
        return None
    if node.collective is None and "comm_size" not in node.attributes and node.attributes.get("is_cpu_op"):
        return None
    group = str(node.attributes.get("pg_name", node.attributes.get("comm_group", "")))
    if group not in groups:
        problem = f"no file says which ranks are in group {group!r:.40}"
        raise member.refuse("pg_name", problem, "write workload.groups: a JSON file {name: [ranks]}")
    if rank not in groups[group]:
        raise member.refuse("pg_name", f"rank {rank} is not a member of group {group!r:.40}", "correct the group")
    dimensions = node.attributes.get("involved_dim")
    if isinstance(dimensions, tuple) and not all(dimensions):
        remedy = "write the group as pg_name, and its ranks in workload.groups"
        raise member.refuse("involved_dim", "names some dimensions of a network that does not exist", remedy)
    if node.type is NodeType.COMM_COLL_NODE:
        if node.collective is None:
            raise member.refuse("comm_type", "is missing")
        if not node.collective or node.collective in _UNSUPPORTED:
            problem = (
                f"is not a collective that can be simulated ({node.collective or node.attributes['comm_type']!r:.40})"
            )
            raise member.refuse("comm_type", problem, f"use {', '.join((*_COLLECTIVES, 'barrier'))}")
        return OperationKey(("group", group), groups[group], group)
    own, other = ("comm_src", "comm_dst") if node.type is NodeType.COMM_SEND_NODE else ("comm_dst", "comm_src")
    peer, tag = member.integer(other), node.attributes.get("comm_tag", 0)
    if peer is None or peer == rank or peer not in groups[group]:
        raise member.refuse(other, f"is not another member of the group ({peer})", "write the rank of the peer")
    if member.integer(own) not in (None, rank):
        raise member.refuse(own, f"is not the rank of the file ({member.integer(own)})")
    src, dst = (rank, peer) if own == "comm_src" else (peer, rank)
    return OperationKey(("pair", group, src, dst, tag if isinstance(tag, int) else 0), (src, dst), group)


def combine(members: Sequence[Member], ranks: Sequence[int]) -> Operation:
    """The operation that the nodes of all members, in the order of the group, describe; a pair's sender comes first."""
    first, size = members[0], len(members)
    if first.node.type is not NodeType.COMM_COLL_NODE:
        sent, received = first.size(), members[1].integer("comm_size")
        if received not in (None, sent):
            raise members[1].refuse("comm_size", f"{received} received of {sent} that rank {ranks[0]} sends")
        return Operation("send", 2, blocks=(sent,))
    op = first.node.collective or ""
    for member in members[1:]:
        if member.node.collective != op:
            raise member.refuse("comm_type", f"{member.node.collective}, where rank {ranks[0]} has {op}")
    if op in _COLLECTIVES:
        return _COLLECTIVES[op](op, members, ranks)
    return Operation("barrier", size)


def _same(members: Sequence[Member], ranks: Sequence[int], name: str) -> int | None:
    expected = members[0].integer(name)
    for member in members:
        if member.integer(name) != expected:
            raise member.refuse(name, f"{member.integer(name)} meets {expected} of rank {ranks[0]}")
    return expected


def _reduce(op: str, members: Sequence[Member], ranks: Sequence[int]) -> Operation:
    _same(members, ranks, "comm_size")
    total, size = members[0].size(), len(members)
    if op == "reduce_scatter":
        held = [member.integer(OUTPUT_BYTES) for member in members]
        known = tuple(part for part in held if part is not None)
        if len(known) == size:
            if sum(known) != total:
                raise members[0].refuse(OUTPUT_BYTES, f"adds up to {sum(known)} of {total} bytes")
            return Operation(op, size, blocks=known)
    return Operation(op, size, blocks=tuple(split_bytes(total, size)))


def _all_gather(op: str, members: Sequence[Member], _ranks: Sequence[int]) -> Operation:
    return Operation(op, len(members), blocks=tuple(member.size() for member in members))


def _all_to_all(op: str, members: Sequence[Member], _ranks: Sequence[int]) -> Operation:
    return Operation(op, len(members), matrix=tuple(_splits(member, len(members)) for member in members))


def _splits(member: Member, size: int) -> tuple[int, ...]:
    splits = member.node.attributes.get(INPUT_SPLITS)
    if splits is None:
        return tuple(split_bytes(member.size(), size))
    if not isinstance(splits, tuple) or len(splits) != size:
        raise member.refuse(INPUT_SPLITS, f"does not list bytes for {size} ranks ({splits!r:.40})")
    numbers = tuple(part for part in splits if isinstance(part, int) and part >= 0)
    if len(numbers) != size or sum(numbers) != member.size():
        raise member.refuse(INPUT_SPLITS, f"does not add up to {member.size()} bytes ({splits!r:.40})")
    return numbers


def _broadcast(op: str, members: Sequence[Member], ranks: Sequence[int]) -> Operation:
    _same(members, ranks, "comm_size")
    root = _same(members, ranks, ROOT)
    if root is not None and root not in ranks:
        raise members[0].refuse(ROOT, f"is not a member of the group ({root})")
    position = 0 if root is None else list(ranks).index(root)
    return Operation(op, len(members), blocks=(members[0].size(),), root=position)


_COLLECTIVES: dict[str, Callable[[str, Sequence[Member], Sequence[int]], Operation]] = {
    "all_reduce": _reduce,
    "reduce_scatter": _reduce,
    "all_gather": _all_gather,
    "all_to_all": _all_to_all,
    "broadcast": _broadcast,
}
