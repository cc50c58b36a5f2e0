"""The collective trace as a file: what is written can be read and fits the schema; what breaks it is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from moe.collective_trace import CollectiveRecord, TraceHeader, read, write
from tests.each import each
from tests.trainer.experiment.forecast.specs import zero_spec
from trainer.__main__ import main
from trainer.experiment.forecast.trace import formula

SCHEMA = json.loads(Path("configs/schemas/collectives.schema.json").read_text())
GOLDEN = Path("tests/files/collectives.jsonl")
ROLLOUTS = Path("tests/files/collectives_rollout.jsonl")
CONFIG = "configs/runs/digits_moe.yaml"

Lines = list[dict[str, Any]]


def satisfies_schema(path: Path) -> bool:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return "format" in lines[0] and all(validator.is_valid(line) for line in lines)


def written(path: Path) -> tuple[TraceHeader, list[CollectiveRecord]]:
    """A trace with every kind of field, written by hand."""
    header = TraceHeader(
        source="replayed",
        world_size=3,
        ranks_per_node=2,
        groups={"data": (0, 1, 2), "alone": (2,)},
        steps=(4, 9),
        config_sha256=None,
        torch=None,
    )
    plain = CollectiveRecord(
        rank=2, seq=0, step=4, micro=1, phase="backward", op="all_reduce", group="data", size1=False, dtype="float32",
        bytes_in=8, bytes_out=8, asynchronous=True, wait_seq=2,
    )  # fmt: skip
    rows = replace(
        plain, seq=1, op="all_to_all", in_splits=(8, 0, 0), out_splits=(0, 4, 4), asynchronous=False, wait_seq=None
    )
    alone = replace(plain, seq=2, group="alone", size1=True, asynchronous=False, wait_seq=None, gap_ns=5, layer=7)
    send = replace(alone, seq=3, step=9, op="send", group="data", size1=False, peer=0, tag=1, bytes_out=0)
    records = [plain, rows, alone, send]
    write(path, header, iter(records))
    return header, records


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "trace.jsonl"
    assert written(path) == read(path)
    assert [file.name for file in path.parent.iterdir()] == ["trace.jsonl"]


def test_the_same_trace_is_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "again.jsonl", *read(GOLDEN))
    assert (tmp_path / "again.jsonl").read_bytes() == GOLDEN.read_bytes()
    write(tmp_path / "rollouts.jsonl", *read(ROLLOUTS))
    assert (tmp_path / "rollouts.jsonl").read_bytes() == ROLLOUTS.read_bytes()


def test_golden_written_and_computed_traces_satisfy_the_schema(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    written(tmp_path / "written.jsonl")
    spec = zero_spec(world_size=4, expert_parallel=2, precision="bf16", bucket_elements=100)
    write(tmp_path / "computed.jsonl", *formula(spec))
    for path in (GOLDEN, ROLLOUTS, tmp_path / "written.jsonl", tmp_path / "computed.jsonl"):
        assert satisfies_schema(path), path


def test_a_header_may_say_that_its_times_are_those_of_a_device(tmp_path: Path) -> None:
    header, records = read(GOLDEN)
    assert header.clock == "host"
    write(tmp_path / "device.jsonl", replace(header, clock="device"), records)
    assert satisfies_schema(tmp_path / "device.jsonl")
    assert read(tmp_path / "device.jsonl")[0].clock == "device"


def test_rollouts_are_read_in_version_2_and_in_no_other() -> None:
    versions = [read(path)[0].version for path in (GOLDEN, ROLLOUTS)]
    assert versions == [1, 2]
    assert {record.phase for record in read(ROLLOUTS)[1]} == {"rollout", "backward", "optimizer"}


def test_nothing_half_written_stays_behind(tmp_path: Path) -> None:
    def failing() -> Any:
        yield from read(GOLDEN)[1][:2]
        raise RuntimeError("the formula failed")

    with pytest.raises(RuntimeError, match="failed"):
        write(tmp_path / "trace.jsonl", read(GOLDEN)[0], failing())
    assert list(tmp_path.iterdir()) == []


def changed(number: int, **fields: Any) -> Callable[[Lines], Lines]:
    """Line `number`, from 1, with other values."""

    def change(lines: Lines) -> Lines:
        lines[number - 1] |= fields
        return lines

    return change


def without(number: int, field: str) -> Callable[[Lines], Lines]:
    def change(lines: Lines) -> Lines:
        del lines[number - 1][field]
        return lines

    return change


# From a golden trace to a malformed one, and where the reader must point. Lines 2 to 10 are rank 0's: all_gather,
# all_to_all, all_to_all, send, async all_reduce, all_reduce alone, reduce_scatter, broadcast, barrier.
MALFORMED: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "unknown version": (changed(1, format="flowfabric.collectives/9"), "line 1, format"),
    "rollout in version 1": (changed(2, phase="rollout"), "line 2, phase"),
    "products in version 1": (changed(2, products=[["gemm", 8, 1]]), "line 2, products"),
    "product without a number": (changed(2, products=[["gemm", 8]]), "line 2, products"),
    "unknown source": (changed(1, source="guessed"), "line 1, source"),
    "unknown clock": (changed(1, clock="sundial"), "line 1, clock"),
    "no ranks": (changed(1, world_size=0), "line 1, world_size"),
    "missing header field": (without(1, "steps"), "line 1, steps"),
    "group beyond the world": (changed(1, groups={"data": [0, 2]}), "line 1, groups.data"),
    "group out of order": (changed(1, groups={"data": [1, 0]}), "line 1, groups.data"),
    "no header": (lambda lines: lines[1:], "line 1, rank"),
    "unknown field": (changed(2, colour="red"), "line 2, colour"),
    "missing field": (without(2, "layer"), "line 2, layer"),
    "NaN": (changed(2, gap_ns=float("nan")), "line 2, gap_ns"),
    "negative bytes": (changed(2, bytes_in=-1), "line 2, bytes_in"),
    "fraction": (changed(2, t_done_ns=1.5), "line 2, t_done_ns"),
    "text for a number": (changed(2, seq="0"), "line 2, seq"),
    "flag for a number": (changed(2, micro=True), "line 2, micro"),
    "unknown operation": (changed(2, op="gather"), "line 2, op"),
    "unknown phase": (changed(2, phase="warmup"), "line 2, phase"),
    "unknown group": (changed(2, group="tensor"), "line 2, group"),
    "rank outside its group": (changed(7, rank=1), "line 7, rank"),
    "unlisted step": (changed(2, step=4), "line 2, step"),
    "wrong size1": (changed(7, size1=False), "line 7, size1"),
    "seq falls": (changed(3, seq=0), "line 3, seq"),
    "no splits": (changed(3, in_splits=None), "line 3, in_splits"),
    "splits of another op": (changed(2, out_splits=[64, 64]), "line 2, out_splits"),
    "too few splits": (changed(3, in_splits=[544]), "line 3, in_splits"),
    "splits do not add up": (changed(3, out_splits=[340, 140]), "line 3, out_splits"),
    "all_reduce changes size": (changed(6, bytes_out=4), "line 6, bytes_out"),
    "no peer": (changed(5, peer=None), "line 5, peer"),
    "peer outside": (changed(5, peer=9), "line 5, peer"),
    "tag of another op": (changed(2, tag=1), "line 2, tag"),
    "no root": (changed(9, root=None), "line 9, root"),
    "async without wait": (changed(6, wait_seq=None), "line 6, wait_seq"),
    "waits before it starts": (changed(6, wait_seq=4), "line 6, wait_seq"),
    "sync with wait": (changed(2, wait_seq=3), "line 2, wait_seq"),
}

RAW: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "file"),
    "cut in a line": (GOLDEN.read_bytes()[:-40], "file"),
    "no JSON": (GOLDEN.read_bytes().replace(b'{"rank":1', b'{"rank":', 1), "line 11, record"),
    "a list": (b"[]\n", "line 1, record"),
    "not text": (b"\xff\xfe\x00\n", "file"),
}


def refusal(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says to a trace that it cannot use."""
    out = path.with_name("computed.jsonl")
    arguments = ["trace", CONFIG, "--world-size", "2", "--times", str(path), "--out", str(out)]
    assert main(arguments) == 2
    assert not out.exists()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@each("case", MALFORMED)
def test_malformed_records_are_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_it, place = MALFORMED[case]
    lines = break_it([json.loads(line) for line in GOLDEN.read_text().splitlines()])
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    message = refusal(path, capsys)
    assert message.startswith(f"trainer trace: {path}: {place}: ")
    assert "; " in message


@each("case", RAW)
def test_damaged_files_are_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, place = RAW[case]
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    message = refusal(path, capsys)
    assert message.startswith(f"trainer trace: {path}: {place}: ")
    assert "; " in message


def test_a_missing_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path / 'absent.jsonl'}: file: cannot be read" in refusal(tmp_path / "absent.jsonl", capsys)


def test_the_schema_refuses_what_it_can_express() -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    header, record = (json.loads(line) for line in GOLDEN.read_text().splitlines()[:2])
    for broken in (header | {"format": "x"}, record | {"op": "gather"}, record | {"root": 0}, record | {"colour": 1}):
        assert not validator.is_valid(broken)
