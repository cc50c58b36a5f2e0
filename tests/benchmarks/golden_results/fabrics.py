"""Scenarios of netsim."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.benchmarks.golden_results.gold import Case, Gold, call, done
from tests.forked import ROOT

SCENARIOS = ROOT / "configs" / "scenarios"
FILES = ROOT / "tests" / "files"

SMALL = {
    "all_reduce_halving_doubling_64": "256KB",
    "all_reduce_ring_64": "256KB",
    "all_to_all_64": "512KB",
    "all_to_all_72": "864KB",
    "closed_loop_64": "1MB",
    "dragonfly_72": "8KB",
    "moe_uneven_64": "512KB",
    "oversubscribed_2_to_1": "512KB",
    "oversubscribed_4_to_1": "512KB",
    "pxn_64": "1MB",
    "rails_256": "1MB",
    "sampling_64": "64KB",
    "sequential_nic_64": "512KB",
    "spine_down_64": "512KB",
    "unequal_spines_64": "512KB",
}
"""Bytes of a rank with which simpy, at some 50,000 packet-hops a second, takes a second for a run."""
RECORDED = FILES / "collectives.jsonl"
FORMULA = ("configs/runs/dit_moe_64.yaml", "--world-size", "64", "--ranks-per-node", "1")
SHRUNK = ("model.num_layers=2", "model.hidden=64", "model.num_heads=4", "moe.expert_hidden=64", "optim.global_batch=64")
CONTROLS = {
    **{f"control_{kind}": (f"congestion={{kind: {kind}}}",)
       for kind in ("none", "window", "dctcp", "dcqcn", "swift", "nscc", "receiver_credit")},
    "control_ndp": ("congestion={kind: ndp}", "flow_control={kind: trim}", "recovery={kind: selective}"),
    "selective": ("recovery={kind: selective}",),
    "pfc": ("flow_control={kind: pfc}",),
}  # fmt: skip
"""Changes of closed_loop_64, at a quarter of its bytes."""
INPUTS = {
    "flows": "workload={kind: flows, path: tests/files/flows.csv}",
    "matrix": "workload={kind: matrix, path: tests/files/htsim.cm}",
    "chakra": "workload={kind: chakra, path: tests/files/chakra}",
    "goal": "workload={kind: goal, path: tests/files/schedule.goal}",
    "simccl": "workload={kind: simccl, path: tests/files/simccl.csv}",
    "aicb": "workload={kind: aicb, path: tests/files/aicb.txt}",
    "rollout": "workload={kind: trace, path: tests/files/collectives_rollout.jsonl}",
}
"""Workloads of files, on the fabric of sampling_64."""


def netsim_cases() -> Iterator[Case]:
    """Every scenario under every transport, by each engine that takes it."""
    for path in sorted(SCENARIOS.glob("*.yaml")):
        if path.stem == "demo":
            yield Case("netsim/demo", partial(_demo, SHRUNK, ["none"]))
            continue
        given = [f"workload.path={RECORDED}"] if path.stem == "two_nodes" else []
        simpy = [f"workload.bytes_per_rank={SMALL[path.stem]}"] if path.stem in SMALL else []
        if not given and not simpy:
            simpy = ["none"]
        yield Case(f"netsim/{path.stem}", partial(_simulated, path, given, simpy))
    yield Case("netsim/every_section", partial(_simulated, FILES / "scenario.yaml", [], []))
    loop, fabric = (SCENARIOS / f"{name}.yaml" for name in ("closed_loop_64", "sampling_64"))
    for name, changes in CONTROLS.items():
        given = [*changes, "workload.bytes_per_rank=4MB"]
        yield Case(f"netsim/{name}", partial(_simulated, loop, given, ["workload.bytes_per_rank=500KB"]))
    for name, workload in INPUTS.items():
        yield Case(f"netsim/input_{name}", partial(_simulated, fabric, [workload], []))


def large_cases() -> Iterator[Case]:
    """What is too large for the others: the whole demo, and 256 ranks on simpy."""
    yield Case("large/demo", partial(_demo, (), ["none"]))
    yield Case("large/all_to_all_256", partial(_simulated, SCENARIOS / "all_to_all_256.yaml", [], []))


def _demo(changes: tuple[str, ...], simpy: list[str], gold: Gold, folder: Path) -> None:
    trace = folder / "formula.jsonl"
    config, *rest = FORMULA
    if done(gold, "trace", call("trainer", "trace", config, *changes, *rest, "--out", str(trace)), folder):
        _simulated(SCENARIOS / "demo.yaml", [f"workload.path={trace}"], simpy, gold, folder)


def _simulated(scenario: Path, changes: list[str], simpy: list[str], gold: Gold, folder: Path) -> None:
    """Simulates in a process of its own, which loads compiled engines once."""
    module = "tests.benchmarks.golden_results.simulate"
    arguments = [sys.executable, "-m", module, str(scenario.relative_to(ROOT)), str(folder), *changes]
    result = subprocess.run([*arguments, "--simpy", *simpy], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{scenario.name}: {result.stderr.strip().splitlines()[-1]}")
    digests, texts = json.loads((folder / "gold.json").read_text())
    gold.digests |= digests
    gold.texts |= {name: text.replace(str(folder), "DIR") for name, text in texts.items()}
