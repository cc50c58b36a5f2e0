"""Scenarios as documents, for tests."""

from collections.abc import Mapping
from typing import Any

from netsim import Results, simulate


def scenario_of(
    leaves: object,
    spines: object,
    hosts_per_leaf: object,
    workload: Mapping[str, object] | None = None,
    topology: Mapping[str, object] | None = None,
    **sections: Any,
) -> dict[str, Any]:
    """A scenario on a leaf-spine fabric: of ECMP and seed 0, unless the sections say otherwise."""
    shape = {"kind": "leaf_spine", "leaves": leaves, "spines": spines, "hosts_per_leaf": hosts_per_leaf}
    return scenario_on({**shape, **(topology or {})}, workload, **sections)


def scenario_on(
    topology: Mapping[str, object], workload: Mapping[str, object] | None = None, **sections: Any
) -> dict[str, Any]:
    """The same on any fabric."""
    whole = {"format": "flowfabric.scenario/1", "topology": topology, "transports": ["ecmp"], "seeds": [0]}
    return whole | ({} if workload is None else {"workload": workload}) | sections


def collective_of(op: object, bytes_per_rank: object) -> dict[str, Any]:
    """A workload of one collective."""
    return {"kind": "collective", "op": op, "bytes_per_rank": bytes_per_rank}


def one_leaf(workload: dict[str, Any] | None, hosts: int, **changes: Any) -> Results:
    """All hosts on one leaf, so that times have closed forms."""
    return simulate(scenario_of(1, 1, hosts) | ({"workload": workload} if workload else {}) | changes)


SCENARIO = scenario_of(2, 2, 2, collective_of("all_reduce", "100KB"))
