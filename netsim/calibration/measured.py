"""Measurements of collectives: tables, the output of nccl-tests, tables of DeepEP's kernels, recorded traces."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, get_args

from netsim.foundation.lines import read_header, read_lines, read_row, whole_number
from netsim.foundation.refusal import Refusal
from netsim.workload.kineto.convert import PROFILES, import_kineto
from netsim.workload.records import Record, Trace, read_trace

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "dispatch", "combine"]
"""Measured operations; dispatch and combine are those of a mixture of experts."""
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
_SPELT: dict[str, Operation] = {**{op: op for op in OPERATIONS}, "alltoall": "all_to_all"}
_TIME = re.compile(r"[0-9]{1,12}(\.[0-9]{1,18})?(e[+-]?[0-9]{1,2})?")
_REMEDY = "give a table of measurements: op,ranks,bytes,us and, where they differ, hosts,device,sms"
_FLOAT8_GROUP = 128
"""Values of a token that share a scale of four bytes in DeepEP's dispatch."""


class Measurement(NamedTuple):
    """The time of one collective.

    Args:
        op: One of `OPERATIONS`.
        ranks: GPUs that take part, at least 2.
        hosts: Machines on which they sit.
        bytes: Of all_gather the whole result, of reduce_scatter the whole input, else the buffer of a rank.
        time_us: Its time in microseconds, above 0.
        device: Name of the GPU; empty where the source does not say.
        sms: Multiprocessors that the kernel takes; None where the source does not say.
    """

    op: Operation
    ranks: int
    hosts: int
    bytes: int
    time_us: float
    device: str = ""
    sms: int | None = None


def read_measurements(path: Path) -> list[Measurement]:
    """Reads a source of measurements; its content tells its kind.

    Args:
        path: A table with a header (CSV), the printed output of nccl-tests, a recorded collective trace, or profiles of
            torch: one, or a folder of them.

    Raises:
        Refusal: A row is wrong, or there are no rows.
    """
    measurements = list(_of_profiles(path) if path.is_dir() or path.name.endswith(PROFILES) else _of_text(path))
    if not measurements:
        raise Refusal(path, "file", "holds no measurements of collectives between ranks", _REMEDY)
    return measurements


def _of_text(path: Path) -> Iterator[Measurement]:
    lines = read_lines(path, "a table of measurements, the output of nccl-tests, a recorded trace or a profile")
    head = lines[0].lstrip()
    if head.startswith("{"):
        return _of_trace(read_trace(path))
    if "," not in head:
        return _of_nccl_tests(path, lines)
    columns = {name.strip() for name in head.split(",")}
    return _of_deepep(path, lines) if "dispatch_us" in columns else _of_table(path, lines)


def _of_profiles(path: Path) -> list[Measurement]:
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.jsonl"
        import_kineto(path, trace)
        return list(_of_trace(read_trace(trace)))


def select(measurements: Sequence[Measurement], device: str | None) -> list[Measurement]:
    """The measurements of the devices whose names begin with `device`, which is needed where there are several."""
    names = list(dict.fromkeys(one.device for one in measurements))
    if device is None and len(names) > 1:
        raise Refusal("command line", "--device", "is missing", f"name one of {', '.join(names)}")
    if device is not None and not any(name.startswith(device) for name in names):
        raise Refusal("command line", "--device", f"is in no source ({device})", f"name one of {', '.join(names)}")
    return [one for one in measurements if one.device.startswith(device or "")]


def _of_table(path: Path, lines: Sequence[str]) -> Iterator[Measurement]:
    """Yields the rows of a table; columns may also be called gpus for ranks and nodes for hosts."""
    named = lines[0].replace("gpus", "ranks").replace("nodes", "hosts")
    header = read_header(path, named, ("op", "ranks", "bytes", "us"), _REMEDY)
    for number, row in _rows(path, header, lines):
        op = _operation(path, f"line {number}: op", row["op"])
        ranks, size = (whole_number(path, f"line {number}: {key}", row[key], 1) for key in ("ranks", "bytes"))
        hosts = whole_number(path, f"line {number}: hosts", row.get("hosts", "1"), 1)
        sms = whole_number(path, f"line {number}: sms", row["sms"], 1) if row.get("sms") else None
        time_us = _time(path, f"line {number}: us", row["us"])
        yield from _checked(path, number, Measurement(op, ranks, hosts, size, time_us, row.get("device", ""), sms))


def _of_deepep(path: Path, lines: Sequence[str]) -> Iterator[Measurement]:
    """Dispatch (a byte a value, and scales) and combine (two bytes) of nodes of eight GPUs, by number of tokens."""
    kinds: tuple[Operation, Operation] = ("dispatch", "combine")
    columns = [f"{kind}_{what}" for kind in kinds for what in ("us", "sms")]
    header = read_header(path, lines[0], ("nodes", "hidden", "tokens", *columns), _REMEDY)
    for number, row in _rows(path, header, lines):
        nodes, hidden, tokens, *sms = (
            whole_number(path, f"line {number}: {key}", row[key], 1)
            for key in ("nodes", "hidden", "tokens", "dispatch_sms", "combine_sms")
        )
        token_bytes = hidden + 4 * -(-hidden // _FLOAT8_GROUP), 2 * hidden
        for op, of_token, taken in zip(kinds, token_bytes, sms, strict=True):
            time_us = _time(path, f"line {number}: {op}_us", row[f"{op}_us"])
            device = row.get("device", "")
            yield from _checked(
                path, number, Measurement(op, 8 * nodes, nodes, tokens * of_token, time_us, device, taken)
            )


_RANK = re.compile(r"#\s+Rank\s+(\d+)\s+(?:Group\s+\d+\s+)?Pid\s+\d+\s+on\s+(\S+)\s+device\s+\d+\s+\[[^]]*]\s*(.*)")
_TEST = re.compile(r"#.*\b(all_reduce|all_gather|reduce_scatter|alltoall|broadcast)_perf")
_OUT_OF_PLACE = -8
"""Position, from the end of a row, of the out-of-place time; time, two bandwidths and errors occur twice."""


def _of_nccl_tests(path: Path, lines: Sequence[str]) -> Iterator[Measurement]:
    """Out-of-place times; the operation is in the output of new versions, else in the name of the file."""
    spelt = next((name for name in _SPELT if name in path.name), None)
    hosts: dict[int, str] = {}
    device = ""
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        if test := _TEST.match(line):
            spelt = test[1]
        elif rank := _RANK.match(line):
            hosts = hosts if int(rank[1]) else {}
            hosts[int(rank[1])], device = rank[2], rank[3].strip()
        elif cells and cells[0].isdecimal():
            remedy = "give the whole output of nccl-tests, with its comments"
            if spelt is None or not hosts:
                missing = "a rank (# Rank 0 ...)" if spelt else "the operation"
                known = remedy if spelt else "name the file after it, such as all_reduce.txt"
                raise Refusal(path, f"line {number}", f"comes before {missing} is named", known)
            if len(cells) < 3 - _OUT_OF_PLACE:
                raise Refusal(path, f"line {number}", f"is cut off ({line.strip()!r:.40})", remedy)
            size = whole_number(path, f"line {number}: size", cells[0])
            time_us = _time(path, f"line {number}: time", cells[_OUT_OF_PLACE])
            if size:
                yield from _checked(
                    path,
                    number,
                    Measurement(_SPELT[spelt], len(hosts), len(set(hosts.values())), size, time_us, device),
                )


def _of_trace(trace: Trace) -> Iterator[Measurement]:
    """Each collective of a recorded trace: the shortest time among its ranks, that of the rank that came last."""
    header = trace.header
    if header.source != "recorded":
        problem = f"is {header.source}: it has no times"
        raise Refusal(trace.path, "line 1: source", problem, "give a trace that was recorded")
    calls: dict[tuple[str, int], list[Record]] = {}
    for program in trace.programs:
        issued: dict[str, int] = {}
        for _, record in program:
            number = issued[record.group] = issued.get(record.group, -1) + 1
            if not record.size1 and record.op in _SPELT:
                calls.setdefault((record.group, number), []).append(record)
    for (group, _), records in calls.items():
        ranks, op = header.groups[group], _SPELT[records[0].op]
        times = [time_ns for record in records if (time_ns := _duration_ns(record))]
        size = max(record.bytes_out if op == "all_gather" else record.bytes_in for record in records)
        if len(times) == len(ranks) and min(times) > 0 and size:
            hosts = len({rank // header.ranks_per_node for rank in ranks})
            yield Measurement(op, len(ranks), hosts, size, min(times) / 1000)


def _duration_ns(record: Record) -> int | None:
    """Returns the time from issue to completion in ns; None where the record has no times."""
    if record.t_done_ns is None or record.t_issue_ns is None:
        return None
    return record.t_done_ns - record.t_issue_ns


def _rows(path: Path, header: Sequence[str], lines: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            yield number, read_row(path, number, header, line, _REMEDY)


def _operation(path: Path, field: str, text: str) -> Operation:
    op = _SPELT.get(text)
    if op is None:
        raise Refusal(path, field, f"is no operation ({text!r:.40})", f"write one of {', '.join(OPERATIONS)}")
    return op


def _time(path: Path, field: str, text: str) -> float:
    if not _TIME.fullmatch(text) or not float(text) > 0:
        raise Refusal(path, field, f"is not a time in microseconds ({text!r:.40})", "write a number above 0")
    return float(text)


def _checked(path: Path, number: int, one: Measurement) -> Iterator[Measurement]:
    """Yields the measurement, unless it is of a single rank; refuses more hosts than ranks."""
    if one.hosts > one.ranks:
        raise Refusal(path, f"line {number}", f"has {one.hosts} hosts for {one.ranks} ranks", "correct the row")
    if one.ranks > 1:
        yield one
