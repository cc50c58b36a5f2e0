"""Malformed collective traces through the command: one line with file, line, field and remedy; exit status 2."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from netsim.__main__ import main
from netsim.workload.records import read_trace
from tests.each import each
from tests.netsim.traces import TraceWriter

pytestmark = pytest.mark.usefixtures("blank_pictures")

Breaking = Callable[[list[dict[str, Any]]], object]


def sound() -> TraceWriter:
    """A trace with one record of every operation on three ranks."""
    trace = TraceWriter(3, {"pair": [0, 2], "alone": [1]})
    trace.all_reduce(1200)
    trace.all_to_all([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    trace.all_gather([10, 20, 30])
    trace.reduce_scatter([10, 20, 30])
    trace.broadcast(root=2, size_bytes=64, group="pair")
    trace.pair(0, 1, 99)
    trace.barrier()
    trace.all_reduce(8, group="alone")
    return trace


def find(lines: list[dict[str, Any]], op: str, rank: int = 0) -> dict[str, Any]:
    """The first record of an operation at a rank."""
    return next(line for line in lines[1:] if line["op"] == op and line["rank"] == rank)


def compare(path: Path, folder: Path, *overrides: str) -> int:
    """`compare` on a fabric of four hosts."""
    scenario = folder / "scenario.yaml"
    scenario.write_text(
        "format: flowfabric.scenario/1\n"
        "topology: {kind: leaf_spine, leaves: 2, spines: 1, hosts_per_leaf: 2}\n"
        f"workload: {{kind: trace, path: {path}}}\n"
        "transports: [ecmp]\nseeds: [0]\n"
    )
    return main(["compare", str(scenario), *overrides, "--out", str(folder / "out"), "--jobs", "1"])


BROKEN: dict[str, tuple[Breaking, str]] = {
    "unknown version": (lambda t: t[0].update(format="flowfabric.collectives/9"), "line 1: format:"),
    "rollout in version 1": (lambda t: t[3].update(phase="rollout"), "line 4: phase:"),
    "products in version 1": (lambda t: t[3].update(products=[["gemm", 8, 1]]), "line 4: products:"),
    "unknown product": (lambda t: t[3].update(products=[["sum", 8, 1]]), "line 4: products.0.0:"),
    "no header": (lambda t: t.pop(0), "line 1: "),
    "rank outside the world": (lambda t: t[0]["groups"].update(pair=[0, 3]), "line 1: groups.pair:"),
    "empty group": (lambda t: t[0]["groups"].update(pair=[]), "line 1: groups.pair:"),
    "no world": (lambda t: t[0].update(world_size=0), "line 1: world_size:"),
    "unknown key": (lambda t: t[3].update(colour="red"), "line 4: colour:"),
    "missing key": (lambda t: t[3].pop("bytes_in"), "line 4: bytes_in:"),
    "NaN": (lambda t: t[3].update(gap_ns=float("nan")), "line 4"),
    "fraction of a byte": (lambda t: t[3].update(bytes_in=1.5), "line 4: bytes_in:"),
    "negative bytes": (lambda t: t[3].update(bytes_in=-1), "line 4: bytes_in:"),
    "number as text": (lambda t: t[3].update(bytes_in="12"), "line 4: bytes_in:"),
    "unknown operation": (lambda t: t[3].update(op="gossip"), "line 4: op:"),
    "unknown group": (lambda t: t[3].update(group="nobody"), "line 4: group:"),
    "rank no member": (lambda t: find(t, "broadcast").update(rank=1), "rank:"),
    "size1 of a larger group": (lambda t: t[3].update(size1=True), "line 4: size1:"),
    "step not announced": (lambda t: t[3].update(step=9), "line 4: step:"),
    "seq goes back": (lambda t: find(t, "all_gather").update(seq=0), "seq:"),
    "splits too short": (lambda t: find(t, "all_to_all").update(in_splits=[6, 0]), "in_splits:"),
    "splits of another sum": (lambda t: find(t, "all_to_all").update(in_splits=[1, 2, 4]), "in_splits:"),
    "splits of an all_reduce": (lambda t: t[1].update(in_splits=[400] * 3), "line 2: in_splits:"),
    "root outside the group": (lambda t: find(t, "broadcast").update(root=1), "root:"),
    "no root": (lambda t: find(t, "broadcast").update(root=None), "root:"),
    "peer is the rank itself": (lambda t: find(t, "send").update(peer=0), "peer:"),
    "waits before it starts": (lambda t: t[1].update({"async": True, "wait_seq": 0}), "line 2: wait_seq:"),
    "async without wait": (lambda t: t[1].update({"async": True}), "line 2: wait_seq:"),
    "sizes disagree": (lambda t: t[2].update(bytes_in=1000), "line 3: bytes_in:"),
    "operations disagree": (lambda t: t[2].update(op="barrier"), "line 3: op:"),
    "roots disagree": (lambda t: find(t, "broadcast", 2).update(root=0), "root:"),
    "received is not what was sent": (lambda t: find(t, "all_to_all", 1).update(out_splits=[3, 5, 7]), "out_splits.0:"),
    "gathered is not the sum": (
        lambda t: [line.update(bytes_out=61) for line in t if line.get("op") == "all_gather"],
        "bytes_out:",
    ),
    "scattered is not the sum": (lambda t: find(t, "reduce_scatter").update(bytes_out=11), "bytes_in:"),
    "send and recv disagree": (lambda t: find(t, "recv", 1).update(bytes_out=98), "bytes_out:"),
    "a rank never comes": (lambda t: t.remove(find(t, "barrier", 2)), "group:"),
    "nobody receives": (lambda t: t.remove(find(t, "recv", 1)), "group:"),
}


@each("name", BROKEN)
def test_says_in_one_line_what_is_wrong(name, tmp_path, capsys):
    breaking, expected = BROKEN[name]
    lines = [json.loads(line) for line in sound().lines()]
    breaking(lines)
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert compare(path, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"netsim compare: {path}: ")
    assert expected in error
    assert "; " in error
    assert not (tmp_path / "out").exists()


@each(
    "content, expected",
    [
        (b"", "file: is empty"),
        (b'{"format": "flowfabric.coll', "cut off"),
        (b"\xff\xfe\n", "file: is not text"),
        (b"[1, 2]\n", "line 1: "),
        (b"hello\n", "line 1: is not JSON"),
        (None, "file: cannot be read"),
    ],
)
def test_refuses_files_that_are_no_traces(content, expected, tmp_path, capsys):
    path = tmp_path / "trace.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert compare(path, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{path}: {expected}" in error or expected in error


def test_a_cut_off_last_line_is_refused(tmp_path, capsys):
    path = sound().write(tmp_path / "trace.jsonl")
    path.write_text(path.read_text()[:-40])
    assert compare(path, tmp_path) == 2
    assert "cut off" in capsys.readouterr().err


def test_too_few_hosts_and_steps_that_are_not_there(tmp_path, capsys):
    path = sound().write(tmp_path / "trace.jsonl")
    assert compare(path, tmp_path, "topology.leaves=1", "topology.hosts_per_leaf=2") == 2
    assert "rank 2 has no host (2 ranks fit); take a larger topology" in capsys.readouterr().err
    assert compare(path, tmp_path, "workload.steps=[0,7]") == 2
    assert "lacks step 7; ask for steps among 0" in capsys.readouterr().err


def test_a_sound_trace_passes(tmp_path):
    assert compare(sound().write(tmp_path / "trace.jsonl"), tmp_path) == 0


def test_a_trace_may_tell_the_time_of_a_device(tmp_path):
    trace = sound()
    trace.header["clock"] = "device"
    path = trace.write(tmp_path / "trace.jsonl")
    assert compare(path, tmp_path) == 0
    assert read_trace(path).header.clock == "device"


def test_the_golden_trace_and_the_tests_own_satisfy_the_schema():
    schema = jsonschema.Draft202012Validator(json.loads(Path("configs/schemas/collectives.schema.json").read_text()))
    golden, rollouts = Path("tests/files/collectives.jsonl"), Path("tests/files/collectives_rollout.jsonl")
    for line in [*golden.read_text().splitlines(), *rollouts.read_text().splitlines(), *sound().lines()]:
        schema.validate(json.loads(line))
    assert read_trace(golden).header.world_size == 2
    phases = [record.phase for _, record in read_trace(rollouts).programs[0]]
    assert phases[:4] == ["rollout", "rollout", "rollout", "backward"]
