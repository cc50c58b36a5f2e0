"""The algorithm that NCCL would take, by its model of latencies and bandwidths.

NCCL estimates, for each algorithm and protocol, latency + bytes / bandwidth, and takes the least. The constants and
rules are those of ncclTopoTuneModel and ncclTopoGetAlgoTime in its src/graph/tuning.cc (version 2.30.7). What is
left out: algorithms in which switches add up (NVLS, CollNet), the caps of a channel's bandwidth, and what environment
variables change. Constants are those of hosts with Intel processors and Hopper or later GPUs; the latency of an adapter
beyond the protocols' own is 0, as InfiniBand adapters report it.

NCCL's tree is two binary trees, here double_tree; its PAT (parallel aggregated trees), for hosts of one rank, gathers
and scatters in a logarithm of rounds, as halving_doubling does here. Latencies of the model hold launches and software,
which the simulator does not have: they decide the choice alone.
"""

from typing import NamedTuple

from netsim.collective.group import Group

PROTOCOLS = ("LL", "LL128", "Simple")

_BASE_US = {"tree": (6.8, 14.0, 8.4), "ring": (6.6, 14.0, 8.4), "pat": (8.0, 8.0, 8.0)}
_NVLINK_US = {"tree": (0.6, 1.25, 4.0), "ring": (0.6, 1.9, 3.4), "pat": (0.0, 0.0, 4.0)}
_NETWORK_US = {"tree": (5.0, 8.5, 14.0), "ring": (2.7, 4.0, 14.0), "pat": (0.0, 0.0, 14.0)}
_POST_US = 1.0
"""Least time of a step within a host if the ring spans several hosts; three times as long for Simple."""
_MOST_LL_GB = (141.0, 39.0, 20.4)
"""Most gigabytes a second of LL within one host, on two hosts, and on more."""
_TREE_PARTS = (
    (1, 1, 1, 1, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1, 1),
    (1, 1, 1, 1, 1, 0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9, 1, 1),
    (0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7, 0.6, 0.6, 0.5, 0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.8, 0.9, 0.9),
)
"""Share of a tree's bandwidth, by protocol and power of two of the size from 64 B."""
_PLATEAU = 1.4
_ALGORITHMS = {
    "all_reduce": ("tree", "ring"),
    "all_gather": ("pat", "ring"),
    "reduce_scatter": ("pat", "ring"),
    "broadcast": ("ring",),
}
_NAMES = {"tree": "double_tree", "ring": "ring", "pat": "halving_doubling"}


class Choice(NamedTuple):
    """A candidate of NCCL; `protocol` is LL, LL128 or Simple, `time_us` its estimate."""

    algorithm: str
    protocol: str
    time_us: float


def nccl(op: str, group: Group, size_bytes: int) -> str:
    """The algorithm that NCCL takes; all-to-alls are direct, since NCCL has no other."""
    if op == "all_to_all":
        return "direct"
    return min(candidates(op, group, size_bytes), key=lambda choice: choice.time_us).algorithm


def candidates(op: str, group: Group, size_bytes: int) -> list[Choice]:
    """Algorithms and protocols that NCCL compares for `op` (not all_to_all) in a group of at least two ranks."""
    hosts, ranks = len(group.by_host), group.ranks
    bus_gb = (group.inside_bps if hosts == 1 else group.adapter_bps) / 8e9
    choices = []
    for algorithm in _ALGORITHMS[op]:
        for number, protocol in enumerate(PROTOCOLS):
            if algorithm == "pat" and (protocol != "Simple" or hosts < ranks):
                continue
            bandwidth = _bandwidth_gb(op, algorithm, number, bus_gb, hosts, ranks)
            latency = _latency_us(op, algorithm, number, hosts, ranks)
            power = (size_bytes >> 6).bit_length() - 1
            if algorithm == "tree" and 0 <= power < len(_TREE_PARTS[number]):
                bandwidth *= _TREE_PARTS[number][power]
            if (algorithm, protocol, op) == ("ring", "Simple", "all_reduce") and hosts > 1 and size_bytes >= 64 * ranks:
                latency *= _PLATEAU
            choices.append(Choice(_NAMES[algorithm], protocol, latency + size_bytes / (1000 * bandwidth)))
    return choices


def _bandwidth_gb(op: str, algorithm: str, protocol: int, bus_gb: float, hosts: int, ranks: int) -> float:
    """Bandwidth of an operation by NCCL's model, in gigabytes a second."""
    most_ll = _MOST_LL_GB[min(hosts, 3) - 1]
    match algorithm, PROTOCOLS[protocol]:
        case "ring", "LL":
            bus_gb = min(most_ll, bus_gb / 2)
        case "ring", "LL128":
            bus_gb *= 0.92
        case "tree", "LL":
            bus_gb = min(most_ll, 0.92 * bus_gb / 3.8)
        case "tree", "LL128":
            bus_gb *= 0.92 * (7 / 9 if hosts == 1 else 120 / 128)
        case "tree", "Simple":
            bus_gb *= 0.92
    match algorithm:
        case "ring":
            return bus_gb * ranks / _steps(op, ranks)
        case "tree":
            return bus_gb / 2
        case _:
            return bus_gb


def _latency_us(op: str, algorithm: str, protocol: int, hosts: int, ranks: int) -> float:
    near, far = _NVLINK_US[algorithm][protocol], _NETWORK_US[algorithm][protocol]
    if hosts == ranks:
        far = _NETWORK_US["tree"][protocol]
    base = _BASE_US[algorithm][protocol]
    rounds = hosts.bit_length() - 1
    match algorithm:
        case "tree":
            return base + 2 * ((ranks // hosts - 1) * near + rounds * far)
        case "pat":
            return base + rounds * far / 3.5 + 2.8 * ranks
    if op == "broadcast":
        return base + (_NVLINK_US if hosts == 1 else _NETWORK_US)["ring"][protocol]
    if hosts > 1:
        near = max(near, _POST_US * (3 if PROTOCOLS[protocol] == "Simple" else 1))
    steps = _steps(op, ranks)
    between = 0 if hosts == 1 else steps * (hosts - 1) // (ranks - 1)
    return base + (steps - between) * near + between * far


def _steps(op: str, ranks: int) -> int:
    """Rounds of a ring."""
    return {"all_reduce": 2 * (ranks - 1), "broadcast": ranks}.get(op, ranks - 1)
