"""The loop on four ranks: train, trace, place, replay, simulate, train on under the placement.

``python -m tests.benchmarks.loop --out DIR [--dispatch home|copies] [key=value ...]``

The replayed trace of a step must be what the retrained run records for the same step, operation by operation and byte
by byte. Prints what it found and writes ``loop.json``; exits with 1 where the two differ.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from moe.collective_trace import CollectiveRecord, read, write
from moe.placement.placement import Placement
from moe.replay import replay
from moe.routing_trace import RoutingTrace

RANKS, STEPS, RECORDED = 4, 60, (61, 62)
CONFIG = "configs/runs/digits_moe.yaml"
SETTINGS = (
    "parallel.expert=4",
    "moe.top_k=2",
    "moe.router={kind: sparse_ot, capacity_factor: 1.5}",
    "evaluate.every=null",
    "sample.every=null",
    "observe.tensorboard=false",
    f"checkpoint.every={STEPS}",
    "trace.ranks_per_node=2",
)
SCENARIO = {
    "format": "flowfabric.scenario/1",
    "topology": {
        "kind": "leaf_spine",
        "leaves": 2,
        "spines": 2,
        "hosts_per_leaf": 2,
        "host_rate": "1Gbps",
        "fabric_rate": "1Gbps",
        "link_delay": "500ns",
    },
    "packet": {"payload": "1448B", "header": "52B"},
    "transports": ["ecmp", "ethereal"],
    "seeds": [0],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Goes once round the loop.

    Args:
        argv: arguments, those of the process if None.

    Returns:
        0, or 1 if the replay and the recording differ.
    """
    parser = argparse.ArgumentParser(prog="loop", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where runs, traces and figures go")
    parser.add_argument("--dispatch", choices=("home", "copies"), default="home", help="mode of the retrained run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="further settings of the runs")
    arguments = parser.parse_args(argv)
    folder = arguments.out.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    settings = (*SETTINGS, *arguments.overrides)

    first, plain, placed = folder / "first", folder / "plain", folder / "placed"
    train(first, f"optim.steps={STEPS}", f"trace.steps=[{STEPS - 1}, {STEPS}]", *settings)
    placement = place(first / "traces" / "routing.npz", folder / "placement.json", arguments.dispatch)
    more = (f"optim.steps={RECORDED[-1]}", f"trace.steps={list(RECORDED)}", *settings)
    for run, extra in ((plain, ()), (placed, (f"moe.placement={placement}", f"moe.dispatch={arguments.dispatch}"))):
        run.mkdir()
        shutil.copytree(first / "checkpoints", run / "checkpoints")
        train(run, *more, *extra)

    header, records = read(plain / "traces" / "collectives.jsonl")
    routing = RoutingTrace.read(plain / "traces" / "routing.npz")
    replayed_header, replayed = replay(header, records, routing, Placement.read(placement), arguments.dispatch)
    write(folder / "replayed.jsonl", replayed_header, replayed)
    recorded = read(placed / "traces" / "collectives.jsonl")[1]
    differing = differences(replayed, recorded)
    figures = {
        "records": len(recorded),
        "differing": len(differing),
        "first_difference": differing[0] if differing else None,
        "losses_equal": losses(plain) == losses(placed),
        "cross_rank_bytes": {"before": cross_rank_bytes(records), "replayed": cross_rank_bytes(replayed)},
        "simulated_us": {
            "before": simulated_us(folder / "before", plain / "traces" / "collectives.jsonl"),
            "replayed": simulated_us(folder / "after", folder / "replayed.jsonl"),
        },
    }
    (folder / "loop.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))
    return int(bool(differing))


def train(run: Path, *settings: str) -> None:
    """Trains on four local ranks."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    command = [*launcher, "-m", "trainer", "train", CONFIG, f"run.dir={run}", *settings]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def place(routing: Path, out: Path, dispatch: str) -> Path:
    """Places the experts on two nodes of two ranks."""
    shape = ["--nodes", "2", "--ranks-per-node", "2", "--objective", dispatch]
    subprocess.run([sys.executable, "-m", "moe", "place", str(routing), *shape, "--out", str(out)], check=True)
    return out


def differences(replayed: Sequence[CollectiveRecord], recorded: Sequence[CollectiveRecord]) -> list[str]:
    """Records that differ in anything but times."""

    def timeless(record: CollectiveRecord) -> CollectiveRecord:
        return replace(record, gap_ns=None, t_issue_ns=None, t_done_ns=None)

    pairs = [(timeless(one), timeless(two)) for one, two in zip(replayed, recorded, strict=False)]
    found = [f"{one} against {two}" for one, two in pairs if one != two]
    if len(replayed) != len(recorded):
        found.append(f"{len(replayed)} records against {len(recorded)}")
    return found


def losses(run: Path) -> list[float]:
    """Training losses of the recorded steps."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if line["step"] in RECORDED]


def cross_rank_bytes(records: Sequence[CollectiveRecord]) -> int:
    """Bytes of all-to-alls that leave their rank."""
    own = {"expert": range(RANKS)}
    return sum(
        record.bytes_in - record.in_splits[list(own["expert"]).index(record.rank)]
        for record in records
        if record.in_splits is not None
    )


def simulated_us(folder: Path, trace: Path) -> dict[str, float]:
    """Time of the recorded steps on a leaf-spine fabric, by transport."""
    folder.mkdir(parents=True)
    workload: dict[str, Any] = {"kind": "trace", "path": str(trace), "steps": "all"}
    (folder / "scenario.yaml").write_text(yaml.safe_dump(SCENARIO | {"workload": workload}, sort_keys=False))
    command = [sys.executable, "-m", "netsim", "compare", str(folder / "scenario.yaml"), "--out", str(folder / "out")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    runs = json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))["runs"]
    return {run["transport"]: run["completion_ns"] / 1e3 for run in runs}


if __name__ == "__main__":
    sys.exit(main())
