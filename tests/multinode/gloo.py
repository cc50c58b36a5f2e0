"""Collectives of gloo across namespaces against the replay of their own recording.

``python -m tests.multinode.gloo --out DIR`` starts torchrun on each of four hosts; every rank records steps of an
all-to-all and an all-reduce. The merged trace is what ``netsim compare`` then replays on a fabric of the same rates.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from moe.collective_trace import rank_path, read
from netsim.__main__ import main as netsim
from tests.multinode.cases import HOSTS_PER_LEAF, LEAVES, SPINES
from tests.multinode.launching import run_on_hosts
from tests.multinode.namespaces import Fabric, fabric, obstacle
from tests.multinode.prediction import topology as topology_of
from tests.multinode.traffic import TCP_HEADERS, TCP_PAYLOAD
from trainer.trace.merge import merge

_SECONDS_AT_MOST = 240
_HASHES = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Records, replays and compares; prints one line and writes gloo.json.

    Args:
        argv: Arguments, those of the process if None.

    Returns:
        0, or 1 without namespaces.
    """
    parser = argparse.ArgumentParser(prog="gloo", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where trace, replay and figures go")
    parser.add_argument("--rate", type=int, default=50, metavar="MBIT", help="rate of every link, Mbit/s (default: 50)")
    arguments = parser.parse_args(argv)
    why_not = obstacle()
    if why_not:
        print(f"gloo: {why_not}", file=sys.stderr)
        return 1
    folder = arguments.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with fabric(LEAVES, SPINES, HOSTS_PER_LEAF, arguments.rate) as made:
        _record(made, folder)
    merge(folder, LEAVES * HOSTS_PER_LEAF)
    trace = folder / "collectives.jsonl"
    recorded = recorded_steps_s(trace)
    predicted = _replay(trace, topology_of(made), folder, len(recorded))
    ratio = fmean(predicted) / fmean(recorded.values())
    figures = {"recorded_s": list(recorded.values()), "predicted_s": predicted, "ratio": ratio}
    figures["load_average"] = os.getloadavg()[0]
    (folder / "gloo.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(
        f"step recorded {_range(list(recorded.values()))} s, predicted {_range(predicted)} s, "
        f"predicted / recorded {ratio:.2f}, load average {figures['load_average']:.2f}"
    )
    return 0


def recorded_steps_s(trace: Path) -> Mapping[int, float]:
    """How long each step of a recorded trace took the slowest rank, seconds."""
    done: dict[int, int] = defaultdict(int)
    for record in read(trace)[1]:
        assert record.t_done_ns is not None
        done[record.step] = max(done[record.step], record.t_done_ns)
    return {step: nanoseconds / 1e9 for step, nanoseconds in sorted(done.items())}


def _record(made: Fabric, folder: Path) -> None:
    """Runs `tests.multinode.gloo_steps` with a rank on every host."""
    for rank in range(made.hosts):
        rank_path(folder, rank).unlink(missing_ok=True)
    run_on_hosts(made, "tests.multinode.gloo_steps", [str(folder)], seconds_at_most=_SECONDS_AT_MOST)


def _replay(trace: Path, topology: dict[str, Any], folder: Path, steps: int) -> list[float]:
    """Seconds a step that ``netsim compare`` predicts, for each of several hash functions."""
    scenario = {
        "format": "flowfabric.scenario/1",
        "topology": topology,
        "packet": {"payload": f"{TCP_PAYLOAD}B", "header": f"{TCP_HEADERS}B"},
        "workload": {"kind": "trace", "path": str(trace)},
        "transports": ["ecmp"],
        "seeds": list(range(_HASHES)),
    }
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(scenario, sort_keys=False), encoding="utf-8")
    status = netsim(["compare", str(path), "--out", str(folder / "replay"), "--jobs", "1"])
    assert status == 0, "netsim compare refused"
    results = json.loads((folder / "replay" / "results.json").read_text(encoding="utf-8"))
    return [run["completion_ns"] / 1e9 / steps for run in results["runs"]]


def _range(times_s: Sequence[float]) -> str:
    return f"{fmean(times_s):.3f} [{min(times_s):.3f}, {max(times_s):.3f}]"


if __name__ == "__main__":
    raise SystemExit(main())
