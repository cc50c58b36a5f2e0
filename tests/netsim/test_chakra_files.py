"""Execution traces as files: what is refused, what is written, and that a collective trace comes back as it was."""

import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import proto
from google.protobuf.unknown_fields import UnknownFieldSet

from netsim.foundation.refusal import Refusal
from netsim.workload.chakra.export import write_chakra
from netsim.workload.chakra.files import read_rank
from netsim.workload.chakra.workload import ChakraConfig, ChakraWorkload
from netsim.workload.program import Program
from netsim.workload.records import read_trace
from netsim.workload.trace import TraceConfig, TraceWorkload
from tests.each import each
from tests.netsim.chakra_schema import EARLIER, TODAY, encoded, metadata, node, write
from tests.netsim.foreign import FILES, damaged, laid_out, run
from tests.netsim.traces import TraceWriter

COMP, SEND, RECV, COLL = 4, 5, 6, 7


def workload(path: Path, groups: Path | None = None) -> ChakraWorkload:
    return ChakraWorkload(ChakraConfig(kind="chakra", path=str(path), groups=str(groups) if groups else None))


def both(*nodes: Any, other: Sequence[Any] | None = None, first: Any = None) -> Callable[[Path], object]:
    """Two ranks with the same nodes, or others at rank 1."""
    return lambda folder: write(folder, nodes, nodes if other is None else other, first=first)


def bytes_of(content: bytes) -> Callable[[Path], object]:
    """Rank 0 has these bytes for a file."""
    return lambda folder: (folder / "t.0.et").write_bytes(content)


def gone(folder: Path) -> None:
    write(folder, *[[node(1, COMP)]] * 3)
    (folder / "t.1.et").unlink()


def twice(folder: Path) -> None:
    write(folder, [node(1, COMP)], name="a")
    write(folder, [node(1, COMP)], name="b")


def collective(**attributes: Any) -> Any:
    return node(1, COLL, (), 0, **{"comm_type": 0, "comm_size": 80} | attributes)


SOUND = encoded([metadata(), collective()])
OLDEST = EARLIER["Node"](id=1, name="n", type=6)
OLDEST.attribute.add(name="comm_size", type=1).MergeFromString(b"\x28\x50")

BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda _: None, ": file: contains no execution traces"),
    "missing rank": (gone, ": file: rank 1 has no file (t.1.et), rank 2 has"),
    "two traces": (twice, ": file: holds 2 traces ('a, b')"),
    "empty file": (bytes_of(b""), "t.0.et: file: is empty"),
    "no nodes": (bytes_of(encoded([metadata()])), "t.0.et: file: contains no nodes"),
    "text": (
        bytes_of(b"hello, this is text"),
        "t.0.et: file: is not an execution trace, or damaged: a message of 104 bytes",
    ),
    "cut off": (bytes_of(SOUND[:-3]), "t.0.et: file: is not an execution trace, or damaged: a message of"),
    "cut off length": (
        bytes_of(SOUND + b"\x80"),
        "t.0.et: file: is not an execution trace, or damaged: an integer is cut",
    ),
    "endless length": (bytes_of(SOUND + b"\xff" * 11), "damaged: an integer is longer than 64 bits"),
    "huge length": (bytes_of(SOUND + b"\xff" * 9 + b"\x01"), "damaged: a message of 18446744073709551615 bytes"),
    "huge field": (
        bytes_of(encoded([metadata(), b"\x12\xff\xff\xff\xff\x7f"])),
        "message 2: is not an execution trace",
    ),
    "cut off field": (bytes_of(encoded([metadata(), b"\x08\x80"])), "message 2: is not an execution trace"),
    "wire type": (bytes_of(encoded([metadata(), b"\x0b\x01"])), "damaged: there is no field 1 of wire type 3"),
    "field zero": (bytes_of(encoded([metadata(), b"\x00\x01"])), "damaged: there is no field 0"),
    "id as text": (bytes_of(encoded([metadata(), b"\x0a\x01a"])), "damaged: field 1 is not an integer"),
    "name no text": (bytes_of(encoded([metadata(), b"\x12\x01\xff"])), "damaged: field 2 is not UTF-8 text"),
    "name as integer": (bytes_of(encoded([metadata(), b"\x10\x01"])), "damaged: field 2 is neither text"),
    "width": (
        bytes_of(encoded([metadata(), b"\x52\x06\x0a\x01a\x1d" + bytes(4)])),
        "message 2: is not an execution trace",
    ),
    "unknown type": (both(node(1, 77)), "damaged: node 1 has an unknown type (77)"),
    "oldest schema": (bytes_of(encoded([OLDEST])), "damaged: the schema is older than 0.0.3"),
    "id twice": (both(node(1, COMP), node(1, COMP)), "node 1: occurs twice"),
    "circle": (both(node(1, COMP, (2,)), node(2, COMP, (1,))), "node 1: data_deps: nodes depend on each other"),
    "on itself": (both(node(1, COMP, (1,))), "node 1: data_deps: nodes depend on each other in a circle"),
    "absent dependency": (both(node(1, COMP, (9,))), "node 1: data_deps: needs node 9, which does not exist"),
    "unknown collective": (
        both(collective(comm_type=10)),
        "node 1: comm_type: is not a collective that can be simulated (10)",
    ),
    "unsupported": (both(collective(comm_type=1)), "comm_type: is not a collective that can be simulated ('reduce')"),
    "no collective": (both(node(1, COLL, comm_size=8)), "node 1: comm_type: is missing"),
    "no size": (both(node(1, COLL, comm_type=0)), "node 1: comm_size: is missing"),
    "negative size": (both(collective(comm_size=-1)), "node 1: comm_size: is not a number from 0 to"),
    "size as text": (both(collective(comm_size="80")), "node 1: comm_size: is not a number from 0 to"),
    "unknown group": (both(collective(pg_name="9")), "node 1: pg_name: no file says which ranks are in group '9'"),
    "no member": (
        both(collective(pg_name="a"), first=metadata(a=(0,))),
        "t.1.et: node 1: pg_name: rank 1 is not a member",
    ),
    "group too large": (both(collective(), first=metadata(a=(0, 2))), "group a: does not list distinct ranks below 2"),
    "group doubled": (both(collective(), first=metadata(a=(0, 0))), "group a: does not list distinct ranks below 2"),
    "dimensions": (both(collective(involved_dim=(1, 0))), "node 1: involved_dim: names some dimensions"),
    "sizes disagree": (both(collective(), other=[collective(comm_size=88)]), "t.1.et: node 1: comm_size: 88 meets 80"),
    "collectives disagree": (
        both(collective(), other=[collective(comm_type=9)]),
        "comm_type: barrier, where rank 0 has all_reduce",
    ),
    "one never comes": (
        both(collective(), other=[node(1, COMP)]),
        "rank 0 waits in all_reduce for rank 1, which never",
    ),
    "splits too few": (both(collective(comm_type=6, in_split=(80,))), "in_split: does not list bytes for 2 ranks"),
    "splits of another sum": (both(collective(comm_type=6, in_split=(40, 41))), "in_split: does not add up to 80"),
    "held of another sum": (both(collective(comm_type=7, out_bytes=41)), "out_bytes: adds up to 82 of 80 bytes"),
    "root no member": (both(collective(comm_type=5, root_rank=2)), "root_rank: is not a member of the group (2)"),
    "duration": (both(node(1, COMP, duration_us=2**63)), "node 1: duration_micros: is too large"),
    "no receiver": (both(node(1, SEND, comm_size=8)), "node 1: comm_dst: is not another member of the group (None)"),
    "to itself": (both(node(1, SEND, comm_dst=0, comm_size=8)), "t.0.et: node 1: comm_dst: is not another member"),
    "to nobody": (
        both(node(1, SEND, comm_dst=2, comm_size=8)),
        "node 1: comm_dst: is not another member of the group (2)",
    ),
    "of another": (
        both(node(1, SEND, comm_src=1, comm_dst=1, comm_size=8), other=[node(1, COMP)]),
        "t.0.et: node 1: comm_src: is not the rank of the file (1)",
    ),
    "unmatched send": (
        both(node(1, SEND, comm_dst=1, comm_size=8), other=[node(1, COMP)]),
        "t.0.et: node 1: peers: rank 0 sends to rank 1, which never receives",
    ),
    "unmatched recv": (
        both(node(1, COMP), other=[node(1, RECV, comm_src=0, comm_size=8)]),
        "t.1.et: node 1: peers: rank 1 waits for rank 0 to send",
    ),
    "sizes of a pair": (
        both(node(1, SEND, comm_dst=1, comm_size=8), other=[node(1, RECV, comm_src=0, comm_size=9)]),
        "t.1.et: node 1: comm_size: 9 received of 8 that rank 0 sends",
    ),
    "circle of ranks": (
        both(
            node(1, SEND, (2,), comm_dst=1, comm_size=8),
            node(2, RECV, comm_src=1, comm_size=8),
            other=[node(1, SEND, (2,), comm_dst=0, comm_size=8), node(2, RECV, comm_src=0, comm_size=8)],
        ),
        "node 2: peers: rank 0 waits for rank 1 to send",
    ),
    "no JSON": (lambda folder: (folder / "t.0.json").write_text("{"), "t.0.json: document: is not JSON"),
    "another JSON": (
        lambda folder: (folder / "t.0.json").write_text("{}"),
        "t.0.json: workload_graph: is missing",
    ),
    "JSON without a type": (
        lambda folder: (folder / "t.0.json").write_text('{"workload_graph": [{"Id": 1, "data_deps": []}]}'),
        "t.0.json: workload_graph.0.NodeType: is missing",
    ),
}


@each("name", BROKEN)
def test_says_in_one_line_what_is_wrong(name, tmp_path):
    breaking, expected = BROKEN[name]
    breaking(tmp_path)
    with pytest.raises(Refusal) as error:
        laid_out(workload(tmp_path), 64)
    assert expected in str(error.value)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


@each("content", ["[]", '{"0": 1}', '{"0": [true]}', '{"0": [-1]}', '{"0": []}', '{"0": [0, 7]}', ""])
def test_a_wrong_list_of_groups_is_refused(content, tmp_path):
    listed = tmp_path / "groups.json"
    listed.write_text(content)
    with pytest.raises(Refusal) as error:
        laid_out(workload(write(tmp_path / "t", [collective()], [collective()]), listed), 64)
    assert str(error.value).startswith(f"{listed}: ")


def test_damaged_files_are_refused_or_still_traces(tmp_path):
    shutil.copytree(FILES / "chakra", tmp_path / "t")
    file = tmp_path / "t" / "trace.1.et"
    for content in damaged(file.read_bytes(), 400):
        file.write_bytes(content)
        with suppress(Refusal):
            laid_out(workload(tmp_path / "t"), 64)


def golden() -> TraceWriter:
    """Two ranks: computation of odd nanoseconds, an all_reduce that overlaps a send."""
    trace = TraceWriter(2, {"pair": [1, 0]})
    trace.add(0, "all_reduce", 9000, 9000, group="pair", gap_ns=1234, **{"async": True, "wait_seq": 2})
    trace.add(1, "all_reduce", 9000, 9000, group="pair", gap_ns=5000, **{"async": True, "wait_seq": 2})
    trace.pair(0, 1, 4000, tag=7)
    trace.all_reduce(9000, layer=3, phase="backward")
    return trace


def test_the_golden_trace_is_what_is_written(tmp_path):
    write_chakra(read_trace(golden().write(tmp_path / "trace.jsonl")), tmp_path / "out")
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (FILES / "chakra").iterdir()}


def test_what_is_written_is_read_by_googles_protocol_buffers(tmp_path):
    write_chakra(read_trace(FILES / "collectives.jsonl"), tmp_path)
    for rank in range(2):
        content = BytesIO((tmp_path / f"trace.{rank}.et").read_bytes())
        assert proto.parse_length_prefixed(TODAY["Metadata"], content).version == "0.0.4"
        nodes = list(iter(partial(proto.parse_length_prefixed, TODAY["Node"], content), None))
        read = read_rank(tmp_path / f"trace.{rank}.et").nodes
        assert [(n.id, n.name, n.type, list(n.data_deps), n.duration_micros) for n in nodes] == [
            (n.id, n.name, n.type, list(n.data), n.duration_us) for n in read
        ]
        sizes = [a.int64_val for n in nodes for a in n.attr if a.name == "comm_size"]
        assert sizes == [n.attributes["comm_size"] for n in read if "comm_size" in n.attributes]
        assert not any(len(UnknownFieldSet(message)) for message in nodes)


def test_a_folder_with_traces_is_not_written_into(tmp_path):
    trace = read_trace(golden().write(tmp_path / "trace.jsonl"))
    write_chakra(trace, tmp_path / "out")
    with pytest.raises(Refusal, match=r"holds trace\.\*\.et already"):
        write_chakra(trace, tmp_path / "out")


def drawn(seed: int) -> TraceWriter:
    """Collectives of every kind on overlapping groups, uneven, some asynchronous, with gaps."""
    draw = random.Random(seed)
    size = draw.randint(2, 6)
    groups = {"alone": [0], "some": draw.sample(range(size), draw.randint(2, size))}
    trace = TraceWriter(size, groups, steps=(4,))
    for _ in range(draw.randint(3, 9)):
        group = draw.choice(["world", "world", "some", "alone"])
        members = trace.groups[group]
        before, sizes = len(trace.records), [draw.randint(0, 20_000) for _ in members]
        match draw.choice(["all_reduce", "all_to_all", "all_gather", "reduce_scatter", "broadcast", "barrier", "pair"]):
            case "all_reduce":
                trace.all_reduce(draw.randint(0, 30_000), group)
            case "all_to_all":
                trace.all_to_all([[draw.randint(0, 9000) for _ in members] for _ in members], group)
            case "all_gather":
                trace.all_gather(sizes, group)
            case "reduce_scatter":
                trace.reduce_scatter(sizes, group)
            case "broadcast":
                trace.broadcast(draw.choice(members), draw.randint(0, 30_000), group)
            case "barrier":
                trace.barrier(group)
            case _ if len(members) > 1:
                src, dst = draw.sample(members, 2)
                trace.pair(src, dst, draw.randint(0, 30_000), group=group, tag=draw.choice([0, 0, 5, -1, 2**40]))
        overlaps = draw.random() < 0.4
        for record in trace.records[before:]:
            record["gap_ns"] = draw.choice([None, 0, draw.randint(1, 3000)])
            record["layer"] = draw.choice([None, 2])
            if overlaps:
                record |= {"async": True, "wait_seq": record["seq"] + draw.randint(1, 3)}
    return trace


def happened(made: Program, ranks: int, transport: str) -> tuple[int, list[Any]]:
    """Completion time, and of each collective what it was and when."""
    hosts = ranks + ranks % 2
    outcome = run(made, hosts, leaves=2, transport=transport)
    return outcome.completion_ps, [(*span[:7], span.times(list(map(int, outcome.task_end_ps)))) for span in made.spans]


def check_round_trip(path: Path, folder: Path, transport: str) -> None:
    trace = read_trace(path)
    write_chakra(trace, folder)
    ranks = trace.header.world_size
    expected = laid_out(TraceWorkload(TraceConfig(kind="trace", path=str(path))), ranks)
    assert happened(laid_out(workload(folder), ranks), ranks, transport) == happened(expected, ranks, transport)


@each("transport", ["ecmp", "spray_random"])
def test_the_recorded_trace_takes_the_same_times_through_chakra(transport, tmp_path):
    check_round_trip(FILES / "collectives.jsonl", tmp_path, transport)


@each("seed", range(40))
def test_traces_take_the_same_times_through_chakra(seed, tmp_path):
    path = drawn(seed).write(tmp_path / "trace.jsonl")
    check_round_trip(path, tmp_path / "out", ("ecmp", "spray_round_robin")[seed % 2])
