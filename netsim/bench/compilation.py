"""Compiles every engine ahead of its first use: each runs once on a small fabric."""

from collections.abc import Callable
from typing import Any

from netsim.compare import run_one
from netsim.prepare import prepare
from netsim.scenario import read_scenario

_FABRIC = {"kind": "leaf_spine", "leaves": 2, "spines": 2, "hosts_per_leaf": 2}
_EXCHANGE = {"kind": "collective", "op": "all_to_all", "bytes_per_rank": "16KB"}
_RING = {"kind": "collective", "op": "all_reduce", "bytes_per_rank": "16KB"}
_RUNS: dict[str, dict[str, Any]] = {
    "event": {"engine": "event"},
    "windowed": {"engine": "windowed"},
    "event, with pauses": {"engine": "event", "flow_control": {"kind": "pfc"}},
    "windowed, with pauses": {"engine": "windowed", "flow_control": {"kind": "pfc"}},
    "exact": {"engine": "exact"},
    "fluid": {"engine": "fluid"},
    "fast-forward": {"workload": _RING},
    "flows that have ended": {"engine": "event", "topology": {**_FABRIC, "hosts_per_leaf": 70}},
}
"""What is compiled, and what of a scenario leads to it; two engines have code for queues only where links need them."""


def compile_engines(tell: Callable[[str], None]) -> None:
    """Compiles what has not been compiled since netsim was changed; `tell` gets the name of each part before."""
    for name, changes in _RUNS.items():
        tell(name)
        document = {
            "format": "flowfabric.scenario/1",
            "topology": _FABRIC,
            "workload": _EXCHANGE,
            "transports": ["ecmp"],
            "seeds": [0],
        }
        scenario = read_scenario(document | changes)
        run_one(prepare(scenario, "scenario"), scenario.transports[0], seed=0)
