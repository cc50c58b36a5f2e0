"""Computation from work: the roofline, its overlap with asynchronous collectives, and what has no work."""

import json
from itertools import product
from pathlib import Path

import pytest
import yaml

from netsim import simulate
from netsim.__main__ import main
from netsim.workload.device import DEVICES, DeviceConfig, Work
from tests.each import each
from tests.netsim.documents import scenario_of
from tests.netsim.traces import TraceWriter

pytestmark = pytest.mark.usefixtures("blank_pictures")

SERVICE_PS, DELAY_PS = 320_000, 500_000  # 4,000 B at 100 Gbps
DEVICE = {"teraflops": 100, "memory_gbps": 1000, "efficiency": 0.5, "memory_efficiency": 1.0}
FLOPS_PER_PS = 50
PACKETS = 100
SENT_PS = PACKETS * SERVICE_PS + SERVICE_PS + 2 * DELAY_PS


def written(path: Path, records: list[dict[str, int]]) -> Path:
    """Rank 0 sends rank 1 a large message, then single packets, after the work of each record."""
    writer = TraceWriter(2)
    writer.header["format"] = "flowfabric.collectives/3"
    for number, work in enumerate(records):
        writer.pair(0, 1, 4000 if number else PACKETS * 4000, **work)
    return writer.write(path)


def scenario(trace: Path, device: object) -> dict[str, object]:
    return scenario_of(
        1, 1, 2, {"kind": "trace", "path": str(trace), **({} if device is None else {"device": device})}, engine="simpy"
    )


def completion_ps(trace: Path, device: object) -> int:
    return simulate(scenario(trace, device)).runs[0].completion_ps


@each(
    "flops, memory_bytes, expected_ps",
    [(5_000_000, 0, 100_000), (0, 3000, 3000), (5_000_000, 300_000, 300_000), (1, 0, 1), (0, 0, 0)],
)
def test_work_takes_the_longer_of_arithmetic_and_memory(flops, memory_bytes, expected_ps):
    assert DeviceConfig.model_validate(DEVICE).compute_ps(Work(flops, memory_bytes)) == expected_ps


def test_computation_comes_before_the_collective_that_it_belongs_to(tmp_path):
    trace = written(tmp_path / "trace.jsonl", [{"flops": 7_000_000 * FLOPS_PER_PS, "memory_bytes": 0}])
    assert completion_ps(trace, None) == SENT_PS
    assert completion_ps(trace, DEVICE) == 7_000_000 + SENT_PS


@each("contention, compute_ps", product([1.0, 1.5], [3_000_000, 200_000_000]))
def test_computation_beside_an_asynchronous_collective_takes_the_longer_of_both(tmp_path, compute_ps, contention):
    """Both ranks compute while the message is under way, meet at a barrier, wait, and send one packet."""
    writer = TraceWriter(2)
    writer.header["format"] = "flowfabric.collectives/3"
    writer.pair(0, 1, PACKETS * 4000, **{"async": True, "wait_seq": 2})
    writer.barrier(flops=compute_ps * FLOPS_PER_PS, memory_bytes=0)
    writer.pair(0, 1, 4000, flops=0)
    trace = writer.write(tmp_path / "trace.jsonl")
    found = completion_ps(trace, {**DEVICE, "contention": contention})
    assert found == max(SENT_PS, round(contention * compute_ps)) + 2 * (SERVICE_PS + DELAY_PS)


def test_recorded_gaps_stand_and_a_device_fills_in_what_is_not_known(tmp_path):
    trace = written(tmp_path / "trace.jsonl", [{"gap_ns": 5, "flops": 10**12}, {"flops": 7_000_000 * FLOPS_PER_PS}])
    without = completion_ps(trace, None)
    assert completion_ps(trace, DEVICE) == without + 7_000_000


def test_devices_by_name_are_their_peaks(tmp_path):
    trace = written(tmp_path / "trace.jsonl", [{"flops": 10**12}])
    for name, peaks in DEVICES.items():
        assert completion_ps(trace, name) == completion_ps(trace, peaks._asdict())


@each(
    "device, record, said",
    [
        ("h1000", {"flops": 1}, "workload.trace.device: no device of that name is known ('h1000'); use h100"),
        ("abacus", {"flops": 1}, "use one of v100, a100"),
        ("h100", {}, "has nothing to compute: the trace says no work (flops); write it with"),
        ("h100", {"gap_ns": 3}, "changes nothing: the trace has gaps of computation"),
        ("{teraflops: 1, memory_gbps: 0}", {"flops": 1}, "device.memory_gbps: "),
        ("{teraflops: 1, memory_gbps: 1, efficiency: 1.5}", {"flops": 1}, "device.efficiency: "),
        ("{teraflops: 1, memory_gbps: 1, contention: 0.5}", {"flops": 1}, "device.contention: "),
    ],
)
def test_what_cannot_compute_is_refused_in_one_line(device, record, said, tmp_path, capsys):
    file, trace = tmp_path / "scenario.yaml", written(tmp_path / "trace.jsonl", [record])
    file.write_text(yaml.safe_dump(scenario(trace, None)))
    assert main(["compare", str(file), "--device", device, "--out", str(tmp_path / "out"), "--jobs", "1"]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "first use" not in line]
    assert len(told) == 1
    assert said.replace("workload.trace.", "workload.") in told[0]


def test_work_in_an_older_format_is_refused(tmp_path):
    trace = written(tmp_path / "trace.jsonl", [{"flops": 1}])
    header, *lines = trace.read_text().splitlines()
    old = json.dumps({**json.loads(header), "format": "flowfabric.collectives/2"})
    trace.write_text("\n".join([old, *lines]) + "\n")
    with pytest.raises(ValueError, match=r"flops: belongs to flowfabric\.collectives/3"):
        completion_ps(trace, None)
