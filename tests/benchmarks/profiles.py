"""Recorded durations of collectives as netsim reads them beside a plain reading of the JSON.

    python -m tests.benchmarks.profiles FILE... [--folder DIR]

Prints, for each kind, the sum of its kernels' durations by both, and exits with 1 where they differ by more than half
a microsecond, which is what a profile in whole microseconds leaves open. With a folder of the profiles of all ranks, as
a run with `observe.profile={steps: [20, 139], shapes: true}` writes, it also simulates what each one alone is imported
to, beside all together.
"""

import argparse
import gzip
import json
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from netsim import simulate
from netsim.workload.kineto.convert import import_kineto
from netsim.workload.kineto.profile import read_profile
from netsim.workload.kineto.schemas import OPERATIONS
from netsim.workload.kineto.timeline import exposed

_EXPERT = re.compile(r"(?:internode|intranode|hybrid_ep)\w*::\w*?(notify|dispatch|combine)")


def plain_us(path: Path) -> Counter[str]:
    """Durations by kind: kernels of DeepEP by their name, those of NCCL by the call in which they were launched."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]
    kernels = [event for event in events if event.get("cat", "").lower() == "kernel"]
    total: Counter[str] = Counter()
    for kernel in kernels:
        expert = _EXPERT.search(kernel["name"])
        if expert:
            total[expert[1]] += kernel["dur"]
        elif kernel["name"].startswith("nccl"):
            total[_nccl_kind(kernel, events)] += kernel["dur"]
    return total


def _nccl_kind(kernel: dict[str, Any], events: list[dict[str, Any]]) -> str:
    args = kernel["args"]
    for event in events:
        same = event.get("args", {}).get("External id") == args.get("External id")
        if event["name"] == "record_param_comms" and same and "Collective name" in event["args"]:
            return _operation(event["args"]["Collective name"])
    launches = [
        one for one in events if "Launch" in one["name"] and one["args"].get("correlation") == args["correlation"]
    ]
    for launch in launches:
        for event in events:
            inside = event["ts"] <= launch["ts"] <= event["ts"] + event["dur"] and event["tid"] == launch["tid"]
            if event["name"].startswith("nccl:") and inside and event["cat"] == "user_annotation":
                return _operation(event["name"].split(":")[1].split()[0])
    return "nccl"


def _operation(name: str) -> str:
    return OPERATIONS.get(name.lower(), name.lower())


def read_us(path: Path) -> Counter[str]:
    """The same as netsim reads it."""
    total: Counter[str] = Counter()
    for call in read_profile(path, lambda _: None).calls:
        total[call.kind] += call.kernel_ns
        total["notify"] += call.notify_ns
    return Counter({kind: ns / 1000 for kind, ns in total.items() if ns})


def _compare_ranks(folder: Path) -> None:
    """Prints what each rank's profile alone, and all together, are simulated to take, beside what was recorded."""
    all_ms, recorded_ms = _simulated_ms(folder)
    print(f"{folder}: {all_ms:.3f} ms by the profiles of all ranks, {recorded_ms:.3f} ms recorded")
    for path in sorted(folder.iterdir()):
        alone_ms, _ = _simulated_ms(path)
        print(f"{path.name:36} {alone_ms:.3f} ms by this one alone ({alone_ms / all_ms - 1:+.1%})")


def _simulated_ms(profiles: Path) -> tuple[float, float]:
    """What an import of profiles is simulated to take, and the longest of them."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.jsonl"
        converted = import_kineto(profiles, trace)
        recorded_ms = max(exposed(one.profile).whole_ns for one in converted.recorded) / 1e6
        topology = {"kind": "leaf_spine", "leaves": 1, "spines": 1, "hosts_per_leaf": converted.ranks}
        topology["host_rate"] = "10Gbps"
        about = {"format": "flowfabric.scenario/1", "topology": topology, "transports": ["ideal"], "seeds": [0]}
        results = simulate({**about, "workload": {"kind": "trace", "path": str(trace)}})
        return results.runs[0].completion_ps / 1e9, recorded_ms


def main() -> int:
    """Prints both sums."""
    parser = argparse.ArgumentParser(description="Recorded durations beside a plain reading.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--folder", type=Path, metavar="DIR")
    options, wrong = parser.parse_args(), 0
    for path in options.files:
        plain, read = plain_us(path), read_us(path)
        for kind in sorted(plain | read):
            wrong += abs(plain[kind] - read[kind]) > 0.5
            print(f"{path.name:36} {kind:16} plain {plain[kind]:14,.3f} us   read {read[kind]:14,.3f} us")
    if options.folder is not None:
        _compare_ranks(options.folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
