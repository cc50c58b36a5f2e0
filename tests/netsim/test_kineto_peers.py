"""One rank's profile for those of all: copies, older schemas and kernels of DeepEP, against profiles of every rank."""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from netsim.__main__ import main
from netsim.workload.kineto import stream
from netsim.workload.kineto.convert import import_kineto
from netsim.workload.kineto.experts import Experts
from netsim.workload.kineto.stream import read_stream
from netsim.workload.records import Record, read_trace
from tests.each import each
from tests.netsim.foreign import foreign
from tests.netsim.kineto_profiles import ProfileWriter, expert_profile, step_in_two_schemas, step_of_two

pytestmark = pytest.mark.usefixtures("blank_pictures")


def records(out: Path) -> list[list[Record]]:
    return [[record for _, record in program] for program in read_trace(out).programs]


def symmetric(rank: int) -> ProfileWriter:
    """A step of four ranks that all do the same: in pairs that follow each other, in strided pairs, and in a circle."""
    near, far, world = [rank // 2 * 2, rank // 2 * 2 + 1], [rank % 2, rank % 2 + 2], [0, 1, 2, 3]
    writer = ProfileWriter(rank, 4, {"0": world, "tensor": near, "data": far})
    writer.event("ProfilerStep#1", "user_annotation", 0, 900)
    writer.computed(10, 80)
    writer.call("allreduce", (2000, 2000), 20, (100, 50), group="tensor")
    rows = str([(place - rank) % 4 + 1 for place in range(4)])
    received = str([(rank - place) % 4 + 1 for place in range(4)])
    splits = {"In split size": rows, "Out split size": received}
    writer.call("all_to_allv", (300, 300), 25, (160, 80), more=splits)
    writer.computed(170, 120)
    writer.call("_allgather_base", (500, 1000), 30, (310, 40), group="data")
    writer.call("_reduce_scatter_base", (1000, 500), 40, (360, 40), group="tensor")
    there, back = (rank + 1) % 4, (rank - 1) % 4
    writer.call("send", (1000, 1000), 60, (430, 30), more={"Dst Rank": there})
    writer.call("recv", (1000, 1000), 61, (435, 30), more={"Src Rank": back})
    return writer


@each("rank", range(4))
def test_one_rank_stands_for_all_where_all_do_the_same(rank, tmp_path):
    for other in range(4):
        symmetric(other).write(tmp_path / "all" / f"{other}.json")
    import_kineto(tmp_path / "all", tmp_path / "all.jsonl")
    converted = import_kineto(tmp_path / "all" / f"{rank}.json", tmp_path / "one.jsonl")
    assert records(tmp_path / "one.jsonl") == records(tmp_path / "all.jsonl")
    assert read_trace(tmp_path / "one.jsonl").header.groups == read_trace(tmp_path / "all.jsonl").header.groups
    assert f"1 of 4 ranks have a profile ({rank})" in converted.notices[0]


def test_a_profile_of_each_stage_stands_for_a_pipeline(tmp_path):
    for rank in range(4):
        stage, group = rank // 2, [rank % 2, rank % 2 + 2]
        writer = ProfileWriter(rank, 4, {"0": [0, 1, 2, 3], "pipeline": group})
        name, end = (("send", "Dst Rank"), ("recv", "Src Rank"))[stage]
        writer.call(name, (1000, 1000), 1, (100, 50), group="pipeline", more={end: group[1 - stage]})
        writer.call("broadcast", (250, 250), 2, (160, 10), group="pipeline", more={"Rank": 1})
        writer.call("allreduce", (500, 500), 3, (180 + 10 * stage, 20))
        for folder in ("all", "stages")[: 2 - rank % 2]:
            writer.write(tmp_path / folder / f"{rank}.json")
    import_kineto(tmp_path / "all", tmp_path / "all.jsonl")
    import_kineto(tmp_path / "stages", tmp_path / "stages.jsonl")
    assert records(tmp_path / "stages.jsonl") == records(tmp_path / "all.jsonl")


def test_a_rank_copies_the_last_profile_at_or_below_it_and_receives_what_others_send(tmp_path):
    for rank, elements in ((0, 400), (2, 800)):
        writer = ProfileWriter(rank, 4, {"0": [0, 1, 2, 3]})
        writer.call("all_to_allv", (elements, 999_999 * 4), 1, (100, 50))
        writer.write(tmp_path / "some" / f"{rank}.json")
    import_kineto(tmp_path / "some", tmp_path / "trace.jsonl")
    assert [program[0].in_splits for program in records(tmp_path / "trace.jsonl")] == [(400,) * 4] * 2 + [
        (800,) * 4
    ] * 2
    assert {program[0].out_splits for program in records(tmp_path / "trace.jsonl")} == {(400, 400, 800, 800)}


@each("rank", range(4))
def test_one_rank_that_waits_says_when_the_last_one_comes(rank, tmp_path):
    """In turn each rank computes 10 to 40 us more before one of 40 all-reduces, which takes 5 us for the last one."""
    writers = [ProfileWriter(rank, 4, {"0": [0, 1, 2, 3]}) for rank in range(4)]
    begun = 0
    for turn in range(40):
        last = begun + 20 + 10 * (1 + turn // 4 % 4)
        for one, writer in enumerate(writers):
            come = last if one == turn % 4 else begun + 20
            writer.computed(begun, come - begun)
            writer.call("allreduce", (2000, 2000), come, (come, last + 5 - come))
        begun = last + 5
    for one, writer in enumerate(writers):
        writer.write(tmp_path / "all" / f"{one}.json")
    import_kineto(tmp_path / "all", tmp_path / "all.jsonl")
    converted = import_kineto(tmp_path / "all" / f"{rank}.json", tmp_path / "one.jsonl")
    fabric = {"topology": {"kind": "leaf_spine", "leaves": 1, "spines": 1, "hosts_per_leaf": 4}}
    one_ns, all_ns = (simulated_ns(tmp_path / f"{ranks}.jsonl", fabric) for ranks in ("one", "all"))
    assert one_ns == pytest.approx(all_ns, rel=0.05)
    exposed_us = sum(10 * (1 + turn // 4 % 4) for turn in range(40) if turn % 4 != rank)
    assert f"come {exposed_us / 1000:.3g} ms later in all" in converted.notices[0]


@each("shapes, profiles", [(True, 1), (False, 1), (False, 40)])
def test_splits_behind_those_that_the_profiler_writes_out_are_equal_parts_of_the_rest(shapes, profiles, tmp_path):
    """Of 40 ranks that send each other 1 to 40 rows of 14 elements, 30 are listed."""
    rows = [[(7 * (to - at) % 40 + 1) for to in range(40)] for at in range(40)]
    elements = 14 * sum(rows[0])
    for rank in range(profiles):
        writer = ProfileWriter(rank, 40, {"0": list(range(40))})
        sent, received = rows[rank], [row[rank] for row in rows]
        listed = {"In split size": sent, "Out split size": received}
        more = {name: f"[{', '.join(map(str, parts[:30]))}, ...]" for name, parts in listed.items()}
        dims = {"Input Dims": [[sum(sent), 14], [], []]} if shapes else {}
        writer.call("all_to_allv", (elements, elements), 1, (100, 50), more={**more, **dims})
        writer.write(tmp_path / "some" / f"{rank}.json")
    converted = import_kineto(tmp_path / "some", tmp_path / "trace.jsonl")
    programs = [program[0] for program in records(tmp_path / "trace.jsonl")]
    sent = [one.in_splits for one in programs if one.in_splits]
    assert [one.out_splits for one in programs] == list(zip(*sent, strict=True))
    for rank in range(profiles):
        assert sent[rank][:30] == tuple(4 * 14 * part for part in rows[rank][:30])
        assert sum(sent[rank]) == 4 * elements
        assert max(sent[rank][30:]) - min(sent[rank][30:]) <= 4 * 14
    assert sum("cut off the splits of" in notice for notice in converted.notices) == 1


def test_older_profiles_say_by_shapes_and_launches_what_todays_say(tmp_path):
    records = []
    for annotated in (False, True):
        writer = step_in_two_schemas(annotated)
        writer.write(tmp_path / f"{annotated}.json")
        converted = import_kineto(tmp_path / f"{annotated}.json", tmp_path / "trace.jsonl")
        trace = read_trace(tmp_path / "trace.jsonl")
        lines = [record for program in trace.programs for _, record in program]
        groups = [trace.header.groups[record.group] for record in lines]
        same = attrgetter("op", "bytes_in", "bytes_out", "in_splits", "root", "gap_ns", "t_issue_ns", "t_done_ns")
        records.append([(ranks, same(record)) for ranks, record in zip(groups, lines, strict=True)])
    assert records[0] == records[1]
    assert any("groups of 2 ranks are assumed to have consecutive ranks" in line for line in converted.notices)


@each("nodes", [None, 1])
def test_a_token_goes_once_to_each_node_and_rank_with_an_expert_of_it(nodes):
    """All choices of 2 of 32 experts of 16 ranks, two a rank, on two nodes, are as likely as each other."""
    choices = [one for one in combinations(range(32), 2) if nodes is None or one[0] // 16 == one[1] // 16]
    to_rank = Counter(rank for one in choices for rank in {expert // 2 for expert in one})
    to_node = Counter(node for one in choices for node in {expert // 16 for expert in one})
    experts = Experts(tokens=len(choices), hidden=256, experts=32, top_k=2, nodes=nodes)
    for rank in (0, 11):
        for kind, width in (("dispatch", 256 + 4 * 2), ("combine", 2 * 256)):
            operation = experts.operation(kind, "internode", ("expert", tuple(range(16))), rank)
            expected = [0] * 16
            for other in range(16):
                if other != rank and other // 8 == rank // 8:
                    expected[other] = width * 2 * to_rank[other]  # of both nodes, handed on by this rank
                elif other % 8 == rank % 8 and other != rank:
                    expected[other] = width * to_node[other // 8]
            assert operation.in_splits == tuple(expected)
    within = experts.operation("combine", "intranode", ("expert", tuple(range(16))), 3)
    if nodes is None:
        assert within.in_splits == tuple(0 if rank == 3 else 2 * 256 * to_rank[rank] for rank in range(16))


def test_kernels_of_unknown_size_keep_their_recorded_time(tmp_path):
    expert_profile().write(tmp_path / "rank0.json")
    converted = import_kineto(tmp_path / "rank0.json", tmp_path / "trace.jsonl")
    assert converted.records == 0
    assert "1 combine, 1 dispatch, 1 nccl" in converted.notices[-1]
    assert [sum(record.gap_ns or 0 for record in program) for program in records(tmp_path / "trace.jsonl")] == [
        400_000
    ] * 16
    scenario = {"topology": {"kind": "leaf_spine", "leaves": 4, "spines": 2, "hosts_per_leaf": 4}}
    assert simulated_ns(tmp_path / "trace.jsonl", scenario) == 400_000
    sizes = Experts(tokens=64, hidden=128, experts=32, top_k=2)
    known = import_kineto(tmp_path / "rank0.json", tmp_path / "trace.jsonl", experts=sizes)
    assert (known.records, known.ranks) == (32, 16)
    calls = known.recorded[0].calls
    assert [(call.kind, call.kernel_ns, call.notify_ns) for call in calls] == [
        ("dispatch", 100_000, 40_000),
        ("combine", 95_000, 5_000),
    ]


def simulated_ns(trace: Path, scenario: Mapping[str, Any]) -> float:
    from netsim import simulate

    about = {"format": "flowfabric.scenario/1", "transports": ["ideal"], "seeds": [0]}
    results = simulate({**about, **scenario, "workload": {"kind": "trace", "path": str(trace)}})
    return results.runs[0].completion_ps / 1000


@each("piece", [1, 7, 1 << 20])
def test_a_file_is_the_same_in_pieces_of_any_length(piece, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_PIECE", piece)
    content = {**step_of_two(0).content(), "traceName": 'a "quoted" µ', "last": 1}
    for name, data in (
        ("a.json", json.dumps(content, indent=1, ensure_ascii=False).encode()),
        ("b.json", b' {"x" : [ ] }\n'),
    ):
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress(data))
        events: list[dict[str, object]] = []
        about = read_stream(path, lambda _, event: events.append(event))  # noqa: B023
        expected = json.loads(data)
        assert events == expected.pop("traceEvents", [])
        assert {key: value for key, value in about.items() if key != "traceEvents"} == expected


def test_nanoseconds_since_1970_are_exact(tmp_path):
    writer = ProfileWriter(0, 2, {"0": [0, 1]})
    writer.call("allreduce", (2, 2), 1, (10, 5))
    writer.call("allreduce", (2, 2), 2, (20, 5))
    text = json.dumps(writer.content())
    text = text.replace("5000000010.0", "1740461679471346.123").replace("5000000020.0", "1740461679471351.247")
    text = text.replace("5000000001.0", "1740461679471340").replace("5000000002.0", "1740461679471341")
    (tmp_path / "rank0.json").write_text(text, encoding="utf-8")
    import_kineto(tmp_path / "rank0.json", tmp_path / "trace.jsonl")
    assert [record.gap_ns for record in records(tmp_path / "trace.jsonl")[0]] == [0, 124]


def changed(writer: ProfileWriter, name: str, key: str, value: object, args: bool = True) -> ProfileWriter:
    """Replaces an entry, or an argument, of the first event that begins with a name."""
    event = next(event for event in writer.events if event["name"].startswith(name))
    (event["args"] if args else event)[key] = value
    return writer


def write(writer: ProfileWriter, edit: Callable[[bytes], bytes] = lambda data: data) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "rank0.json").write_bytes(edit(json.dumps(writer.content()).encode()))

    return make


def packed(cut: int | None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        data = gzip.compress(json.dumps(step_of_two(0).content()).encode())
        (folder / "rank0.json.gz").write_bytes(data[:cut] if cut else b"plain")

    return make


def mixed(folder: Path) -> None:
    (folder / "rank0.json").write_text(json.dumps(symmetric(0).content()), encoding="utf-8")
    (folder / "rank1.json").write_text(json.dumps(step_in_two_schemas(annotated=True).content()), encoding="utf-8")


_SIZES = ("--tokens", "64", "--hidden", "128", "--experts", "32", "--top-k", "2")
_STEP = write(step_of_two(0))
_OLD = step_in_two_schemas
REFUSED: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {
    "cut off": (write(step_of_two(0), lambda data: data[:-900]), (), "is not JSON, or cut off"),
    "cut off in gzip": (packed(400), (), "is not compressed by gzip, or cut off"),
    "not gzip": (packed(None), (), "is not compressed by gzip, or cut off"),
    "not text": (write(step_of_two(0), lambda _: b"\xff\xfe"), (), "is not JSON, or cut off"),
    "events alone": (write(step_of_two(0), lambda _: b"[]"), (), "is not a profile of torch.profiler"),
    "more behind it": (write(step_of_two(0), lambda data: data + b"x"), (), "is not JSON, or cut off"),
    "no comma": (write(step_of_two(0), lambda _: b'{"traceEvents": [1 2]}'), (), "is not JSON, or cut off"),
    "endless lists": (write(step_of_two(0), lambda _: b'{"a":' + b"[" * 200_000), (), "is not JSON, or cut off"),
    "NaN": (write(changed(step_of_two(0), "volta", "ts", float("nan"), False)), (), "is no time in microseconds (nan)"),
    "negative": (write(changed(step_of_two(0), "volta", "dur", -0.5, False)), (), "is no time in microseconds (-0.5)"),
    "stream": (write(changed(expert_profile(), "volta", "stream", "seven")), (), "args.stream: is not a whole number"),
    "two versions": (mixed, (), "has collectives by annotation, and rank0.json by record"),
    "no shapes": (write(changed(_OLD(True), "nccl:", "Input Dims", 7)), (), "args.Input Dims: has no shapes (7)"),
    "unknown type": (write(changed(_OLD(True), "nccl:", "Input type", ["quint"])), (), "dtype: is unknown ('quint')"),
    "unknown call": (write(changed(_OLD(True), "nccl:", "name", "nccl:scan", False)), (), "can be simulated ('scan')"),
    "odd size": (
        write(step_in_two_schemas(True)),
        ("--ranks", "3"),
        "are unknown (of a group of 4 ranks, which does not divide 3)",
    ),
    "irregular": (write(changed(symmetric(0), "record", "Process Group Ranks", "[0, 1, 3]")), (), "regular distance"),
    "group's text": (_STEP, ("--group", "expert=8y2"), "--group: is no group (expert=8y2)"),
    "group's size": (_STEP, ("--group", "expert=3"), "--group: expert=3 does not divide 2 ranks"),
    "no ranks": (_STEP, ("--ranks", "0"), "--ranks: is not in 1 to 4,000,000 (0)"),
    "endless ranks": (
        write(expert_profile(10**6)),
        (*_SIZES[:5], "1000000", *_SIZES[6:]),
        "records and splits, more than 50,000,000",
    ),
    "rank beyond": (write(symmetric(3)), ("--ranks", "2"), "distributedInfo.rank: is not below world_size (3, of 2)"),
    "no hidden": (write(expert_profile()), ("--tokens", "4"), "--hidden: is missing"),
    "no tokens": (write(expert_profile()), ("--tokens", "0", *_SIZES[2:]), "--tokens: is not in 1 to 16,777,215 (0)"),
    "experts": (write(expert_profile(12)), _SIZES, "32 experts do not divide by 12 ranks in nodes of 8"),
    "top k": (write(expert_profile()), (*_SIZES[:-1], "99"), "a token has 99 experts, more than there are"),
}


@each("name", REFUSED)
def test_says_in_one_line_what_is_wrong(name, tmp_path, capsys):
    make, options, expected = REFUSED[name]
    make(tmp_path)
    before = sorted(tmp_path.iterdir())
    path = before[0] if len(before) == 1 else tmp_path
    assert main(["import", "kineto", str(path), "--out", str(tmp_path / "out.jsonl"), *options]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert expected in said
    assert sorted(tmp_path.iterdir()) == before


@each("name", ["deepseek_v3_train_rank0", "hta_sampled_rank0", "hta_sampled_rank1"])
def test_published_profiles_are_read(name, tmp_path):
    path = foreign("profiles") / f"{name}.json.gz"
    deep_seek = name.startswith("deepseek")
    sizes = Experts(tokens=4096, hidden=7168, experts=256, top_k=8, nodes=4) if deep_seek else None
    converted = import_kineto(path, tmp_path / "trace.jsonl", experts=sizes)
    assert (converted.ranks, converted.records) == ((64, 64 * 16) if deep_seek else (128, 128 * 10))
