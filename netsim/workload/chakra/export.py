"""A collective trace as execution traces, for other simulators and back again."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from netsim.foundation.files import writing
from netsim.foundation.refusal import Refusal
from netsim.workload.chakra.files import RANKS_OF_GROUP
from netsim.workload.chakra.nodes import COLLECTIVES, NodeType
from netsim.workload.chakra.operations import DURATION_NS, INPUT_SPLITS, OUTPUT_BYTES, ROOT
from netsim.workload.chakra.wire import write_content, write_integer, write_integers, write_message
from netsim.workload.records import Record, Trace

_VERSION = "0.0.4"
_INT32, _INT64, _INT64_LIST, _UINT64, _BOOL, _STRING = 7, 9, 10, 13, 27, 29


def write_chakra(trace: Trace, folder: Path, name: str = "trace") -> None:
    """Writes NAME.RANK.et for each rank, and comm_groups.json with the process groups as ASTRA-sim reads them.

    A gap of computation becomes a COMP_NODE; its nanoseconds are rounded to duration_micros and, where that loses
    some, kept in the attribute duration_nanos. An asynchronous record is a node that the nodes up to its wait do not
    depend on. Groups have the number of their place in the header, and their names in pg_desc. Groups of one rank
    move nothing: only their gaps are written. Splits, bytes held after a reduce_scatter, the root of a broadcast, step,
    micro, phase, layer and dtype become attributes; measured times are not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob(f"{name}.*.et")):
        raise Refusal(folder, "file", f"holds {name}.*.et already", "give an empty folder, or delete them")
    numbers = {group: str(number) for number, group in enumerate(trace.header.groups)}
    metadata = write_content(1, _VERSION.encode())
    for group, ranks in trace.header.groups.items():
        listed = write_integers(1, ranks)
        metadata += write_content(2, _attribute(RANKS_OF_GROUP + numbers[group], _INT64_LIST, listed))
    with writing(folder):
        for rank, program in enumerate(trace.programs):
            nodes = _nodes([record for _, record in program], numbers)
            content = b"".join(map(write_message, (metadata, *nodes)))
            (folder / f"{name}.{rank}.et").write_bytes(content)
        groups = {numbers[group]: list(ranks) for group, ranks in trace.header.groups.items()}
        (folder / "comm_groups.json").write_text(json.dumps(groups) + "\n", encoding="utf-8")


def _nodes(records: Sequence[Record], numbers: dict[str, str]) -> Iterator[bytes]:
    """The nodes of one rank, at least one; ids count from 1. Gaps of groups of one rank pass before what is awaited."""
    ready: list[int] = []
    outstanding: list[tuple[int, int]] = []
    gap_ns, last = 0, 0
    for record in records:
        awaited = [node for node, wait_seq in outstanding if wait_seq <= record.seq]
        outstanding = [(node, wait_seq) for node, wait_seq in outstanding if wait_seq > record.seq]
        if awaited and gap_ns:
            last += 1
            yield _computation(last, ready, gap_ns)
            ready, gap_ns = [last], 0
        ready += awaited
        gap_ns += record.gap_ns or 0
        if record.size1:
            continue
        if gap_ns:
            last += 1
            yield _computation(last, ready, gap_ns)
            ready, gap_ns = [last], 0
        last += 1
        yield _communication(last, ready, record, numbers[record.group])
        if record.wait_seq is None:
            ready = [last]
        else:
            outstanding.append((last, record.wait_seq))
    if gap_ns or not last:
        yield _computation(last + 1, ready, gap_ns)


def _computation(identity: int, after: Sequence[int], gap_ns: int) -> bytes:
    attributes = [_attribute("is_cpu_op", _BOOL, 0)]
    if gap_ns % 1000:
        attributes.append(_attribute(DURATION_NS, _UINT64, gap_ns))
    return _node(identity, "computation", NodeType.COMP_NODE, after, attributes, duration_us=(gap_ns + 500) // 1000)


def _communication(identity: int, after: Sequence[int], record: Record, group: str) -> bytes:
    attributes = [_attribute("is_cpu_op", _BOOL, 0), _attribute("pg_name", _STRING, group.encode())]
    attributes.append(_attribute("pg_desc", _STRING, record.group.encode()))
    if record.peer is None:
        kind = NodeType.COMM_COLL_NODE
        buffer = record.bytes_out if record.op == "broadcast" else record.bytes_in
        attributes.append(_attribute("comm_type", _INT64, COLLECTIVES.index(record.op)))
    else:
        sends = record.op == "send"
        kind = NodeType.COMM_SEND_NODE if sends else NodeType.COMM_RECV_NODE
        buffer = record.bytes_in if sends else record.bytes_out
        ends = (record.rank, record.peer) if sends else (record.peer, record.rank)
        for name, value in zip(("comm_src", "comm_dst", "comm_tag"), (*ends, record.tag or 0), strict=True):
            attributes.append(_attribute(name, _INT32 if -(2**31) <= value < 2**31 else _INT64, value))
    attributes.append(_attribute("comm_size", _INT64, buffer))
    if record.op == "reduce_scatter":
        attributes.append(_attribute(OUTPUT_BYTES, _INT64, record.bytes_out))
    if record.in_splits is not None:
        attributes.append(_attribute(INPUT_SPLITS, _INT64_LIST, write_integers(1, record.in_splits)))
    known = ((ROOT, record.root), ("step", record.step), ("micro", record.micro), ("layer", record.layer))
    attributes += [_attribute(name, _INT64, value) for name, value in known if value is not None]
    texts = (("phase", record.phase), ("dtype", record.dtype))
    attributes += [_attribute(name, _STRING, text.encode()) for name, text in texts]
    return _node(identity, record.op, kind, after, attributes)


def _node(
    identity: int, name: str, kind: NodeType, after: Sequence[int], attributes: Sequence[bytes], duration_us: int = 0
) -> bytes:
    content = write_integer(1, identity) + write_content(2, name.encode()) + write_integer(3, kind)
    if after:
        content += write_integers(5, after)
    if duration_us:
        content += write_integer(7, duration_us)
    return content + b"".join(write_content(10, attribute) for attribute in attributes)


def _attribute(name: str, field: int, value: int | bytes) -> bytes:
    written = write_integer(field, value) if isinstance(value, int) else write_content(field, value)
    return write_content(1, name.encode()) + written
