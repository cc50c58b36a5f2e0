"""CPU time and peak memory at size: python -m tests.benchmarks.netsim_scale --rows dit_moe_1024 all_to_all_4096.

Each row runs in a process of its own, whose traces are written by formula first. A row is the set-up of a scenario with
its bound, then a run; compiling the engines is done beforehand on a small case and not counted. The error of fluid is
that of its completion time against the packets of the same scenario: mean and standard error over the seeds of hashes,
and its range. Bars hold on one core; exit 1 if one is missed, or if fluid takes more CPU than packets.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from netsim.simulation.compare import run_one
from netsim.simulation.prepare import Prepared, prepare
from netsim.simulation.scenario import Scenario, read_scenario
from tests.benchmarks.seeds import Sample


class Row(NamedTuple):
    """A row of the table.

    Args:
        run: Run configuration whose step is the workload, with settings; None: an all-to-all of 1 kB a pair.
        ranks: Number of ranks.
        per_host: Ranks on a host.
        leaf: Hosts on a leaf, and spines.
        payload: Of a packet.
        transport: Of the run; None: the scenario is laid out only.
        engine: Of the run.
        cpu_s: Bar of CPU seconds.
        memory_gb: Bar of peak memory.
        before: CPU seconds and gigabytes before set-up was done in arrays; empty if unknown.
        more: Further keys of the scenario.
    """

    run: tuple[str, ...] | None
    ranks: int
    per_host: int
    leaf: int
    payload: str
    transport: str | None
    engine: str
    cpu_s: float
    memory_gb: float
    before: tuple[float, ...] = ()
    more: dict[str, Any] = {}  # noqa: RUF012


_DIT = ("configs/runs/dit_moe_64.yaml",)
_DIT_AT_SIZE = (*_DIT, "engine.zero_stage=0", "engine.precision=fp32", "optim.global_batch=20480")
_GPT = (
    "configs/runs/gpt_moe_512.yaml",
    *("moe=null", "model.hidden=5120", "model.num_layers=40", "model.num_heads=40", "engine.zero_stage=1"),
    *("parallel.expert=1", "optim.global_batch=512"),
)
_RINGS = {"algorithms": {"all_reduce": "ring", "all_gather": "ring"}}
_TREES = {"algorithms": {"all_reduce": "double_tree", "all_gather": "ring"}}
ROWS = {
    "dit_moe_256": Row(_DIT, 256, 1, 16, "9KB", "ecmp", "auto", 15, 1, (), _RINGS),
    "dit_moe_1024": Row(_DIT, 1024, 1, 32, "9KB", "ecmp", "auto", 60, 2, (173, 8.5), _RINGS),
    "gpt_13b_zero_128": Row(_GPT, 128, 8, 4, "1MB", "ecmp", "auto", 60, 4, (425, 17.6), _RINGS),
    "gpt_13b_tensor_8": Row((*_GPT, "parallel.tensor=8"), 128, 8, 4, "64KB", "ecmp", "auto", 30, 4, (80,), _RINGS),
    "all_to_all_4096": Row(None, 4096, 1, 64, "9KB", None, "auto", 10, 4, (100, 6.8)),
    "fluid_64": Row(_DIT, 64, 1, 8, "9KB", "ecmp", "fluid", 5, 1, (12.8,), _RINGS),
    "fluid_256": Row(_DIT, 256, 1, 16, "9KB", "ecmp", "fluid", 10, 1, (77,), _RINGS),
    "fluid_ideal_256": Row(_DIT, 256, 1, 16, "9KB", "ideal", "fluid", 10, 1, (), _RINGS),
    "fluid_1024": Row(_DIT, 1024, 1, 32, "9KB", "ecmp", "fluid", 60, 4, (590,), _RINGS),
    "fluid_10240": Row(_DIT_AT_SIZE, 10240, 8, 32, "9KB", "ecmp", "fluid", 120, 8, (), _TREES),
}
SAMPLE = ("fluid_64", "fluid_256")
"""Rows whose packets are simulated too, for the error of fluid and the ratio of CPU times."""
SEEDS = range(8)
"""Seeds of that error; a row is its first, in which an engine may still be compiled and CPU time does not count."""


def scenario_of(row: Row, trace: Path) -> dict[str, Any]:
    """The scenario of a row, whose trace is at a path."""
    hosts = row.ranks // row.per_host
    shape = {"leaves": hosts // row.leaf, "spines": row.leaf, "hosts_per_leaf": row.leaf}
    workload = {"kind": "trace", "path": str(trace)}
    if row.run is None:
        workload = {"kind": "collective", "op": "all_to_all", "bytes_per_rank": f"{row.ranks}KB"}
    return {
        "format": "flowfabric.scenario/1",
        "topology": {"kind": "leaf_spine", **shape, "ranks_per_host": row.per_host},
        "packet": {"payload": row.payload},
        "workload": workload,
        "transports": [row.transport or "ecmp"],
        "engine": row.engine,
        "seeds": [0],
        **row.more,
    }


def measure(name: str, trace: Path, warm: Path) -> str:
    """A line of the table, measured in this process."""
    row = ROWS[name]
    small = prepare(read_scenario(scenario_of(row._replace(ranks=64, per_host=1, leaf=8, run=_DIT), warm)), name)
    _ = small.bound
    if row.transport:
        run_one(small, read_scenario(scenario_of(row, trace)).transports[0], 0)
    del small
    scenario = read_scenario(scenario_of(row, trace))
    began = time.process_time()
    prepared = prepare(scenario, name)
    laid_out_s = time.process_time() - began
    engine, completion, ran_s, error, slower = "-", "-", 0.0, "", False
    if row.transport:
        began = time.process_time()
        run = run_one(prepared, scenario.transports[0], 0)
        ran_s = time.process_time() - began
        engine, completion = run.engine, f"{run.completion_ps / 1e9:.3f} ms"
        if name in SAMPLE:
            off, ratio = beside_packets(prepared, read_scenario({**scenario_of(row, trace), "engine": "event"}))
            figures = f"{off.mean:+.1f} ± {off.error:.1f} % ({min(off.values):+.1f} to {max(off.values):+.1f})"
            error, slower = f"  off by {figures}, {ratio:.1f} x less CPU than packets", ratio < 1
    total_s = laid_out_s + ran_s
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    bars = ("time", total_s > row.cpu_s), ("memory", memory > row.memory_gb), ("packets", slower)
    missed = [what for what, bad in bars if bad]
    gain = f"{row.before[0] / total_s:5.1f} x" if row.before else "      -"
    state = f"misses {' and '.join(missed)}" if missed else "ok"
    figures = f"{laid_out_s:8.2f} {ran_s:8.2f} {memory:6.2f} {row.cpu_s:5.0f} {row.memory_gb:4.0f} {gain}"
    return f"{name:18} {len(prepared.scene.tasks):>10,} {engine:8} {completion:>14} {figures} {state}{error}"


def beside_packets(streams: Prepared, scenario: Scenario) -> tuple[Sample, float]:
    """How far completion times of fluid are off those of packets, in percent by seed, and the ratio of CPU times.

    Args:
        streams: The scenario, prepared for fluid.
        scenario: The same for packets.
    """
    packets, transport, off, spent_s = prepare(scenario, "packets"), scenario.transports[0], [], [0.0, 0.0]
    for seed in SEEDS:
        completion_ps = []
        for side, prepared in enumerate((streams, packets)):
            began = time.process_time()
            completion_ps.append(run_one(prepared, transport, seed).completion_ps)
            spent_s[side] += time.process_time() - began if seed else 0.0
        off.append(100 * (completion_ps[0] / completion_ps[1] - 1))
    return Sample(off), spent_s[1] / spent_s[0]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="rows to measure")
    parser.add_argument("--one", nargs=3, metavar=("ROW", "TRACE", "WARM"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(measure(given.one[0], Path(given.one[1]), Path(given.one[2])))
        return
    heads = f"{'lay out':>8} {'run':>8} {'GB':>6} {'bar s':>5} {'GB':>4} {'gain':>7}"
    print(f"{'row':18} {'tasks':>10} {'engine':8} {'completion':>14} {heads}")
    missed = False
    with TemporaryDirectory() as folder:
        warm = _trace(ROWS["fluid_64"], Path(folder) / "warm.jsonl")
        for name in given.rows:
            trace = _trace(ROWS[name], Path(folder) / "trace.jsonl")
            command = [sys.executable, "-m", "tests.benchmarks.netsim_scale", "--one", name, str(trace), str(warm)]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            print(line, flush=True)
            missed |= "misses" in line
    sys.exit(missed)


def _trace(row: Row, path: Path) -> Path:
    """Writes the trace of a row by formula."""
    if row.run is not None:
        size = ["--world-size", str(row.ranks), "--ranks-per-node", str(row.per_host), "--out", str(path)]
        command = [sys.executable, "-m", "trainer", "trace", *row.run[:1], *row.run[1:], *size]
        subprocess.run(command, check=True, capture_output=True)
    return path


if __name__ == "__main__":
    main()
