"""What netsim says about the traffic that is put on a fabric of namespaces."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from netsim import simulate
from tests.multinode.namespaces import Fabric
from tests.multinode.traffic import TCP_HEADERS, TCP_PAYLOAD, UDP_HEADERS, UDP_PAYLOAD, Stream, Target

_SEGMENTS_AN_ACKNOWLEDGEMENT = 2
"""RFC 1122, 4.2.3.2: at least every second full segment is acknowledged."""

Scheduling = Literal["round_robin", "sequential"]
Routing = Callable[[int, int, int], int]
"""Spine of a packet between leaves: from its source, its destination and how many the source has sent so before it."""


def tcp_completion_s(fabric: Fabric, streams: Sequence[Stream]) -> float:
    """Predicts when the last byte of the last stream arrives.

    Senders keep their links busy, a packet of each stream in turn. Acknowledgements are flows of their own the other
    way, with the bytes of one for every other segment.

    Args:
        fabric: Where.
        streams: What is sent, each from time 0; those between leaves name their spines.

    Returns:
        Seconds.
    """
    flows = [(stream.src, stream.dst, stream.bytes) for stream in streams]
    flows += [(stream.dst, stream.src, _acknowledgement_payload(stream.bytes)) for stream in streams]
    spines = [stream.spine for stream in streams] + [stream.acknowledgements for stream in streams]
    pinned = [(src, dst, spine) for (src, dst, _), spine in zip(flows, spines, strict=True)]
    transport = {"class": "tests.multinode.transports:PinnedFlows", "options": {"flows": pinned}}
    return _completion_s(fabric, flows, transport, TCP_PAYLOAD, TCP_HEADERS, "round_robin")


def udp_plan(
    hosts: int, hosts_per_leaf: int, packets: int, routing: Routing, scheduling: Scheduling
) -> list[list[Target]]:
    """The packets of an all-to-all, for each host in the order in which it sends them.

    Host i serves i + 1, i + 2, ...: round_robin one packet each in turn, sequential one after the other.

    Args:
        hosts: Number of hosts.
        hosts_per_leaf: Hosts below a leaf.
        packets: Packets from each host to each other.
        routing: Path choice.
        scheduling: Order of injection.
    """
    plan = []
    for src in range(hosts):
        others = [(src + distance) % hosts for distance in range(1, hosts)]
        in_turn = others * packets
        order = in_turn if scheduling == "round_robin" else sorted(in_turn, key=others.index)
        crossed = Counter[int]()
        targets = []
        for dst in order:
            within = src // hosts_per_leaf == dst // hosts_per_leaf
            targets.append(Target(dst, None if within else routing(src, dst, crossed.total())))
            crossed[dst] += not within
        plan.append(targets)
    return plan


def udp_completion_s(fabric: Fabric, plan: Sequence[Sequence[Target]], scheduling: Scheduling) -> float:
    """Predicts when the last packet of a plan arrives.

    Args:
        fabric: Where.
        plan: What each host sends, from time 0.
        scheduling: Order of injection in the plan.

    Returns:
        Seconds.
    """
    packets = Counter((src, target.dst) for src, targets in enumerate(plan) for target in targets)
    flows = [(src, dst, count * UDP_PAYLOAD) for (src, dst), count in packets.items()]
    planned = [[tuple(target) for target in targets] for targets in plan]
    transport = {"class": "tests.multinode.transports:PlannedPackets", "options": {"packets": planned}}
    return _completion_s(fabric, flows, transport, UDP_PAYLOAD, UDP_HEADERS, scheduling)


def topology(fabric: Fabric) -> dict[str, Any]:
    """Section ``topology`` of a scenario on the fabric."""
    rate = f"{fabric.rate_mbit}Mbps"
    shape = {"leaves": fabric.leaves, "spines": fabric.spines, "hosts_per_leaf": fabric.hosts_per_leaf}
    return {"kind": "leaf_spine", **shape, "host_rate": rate, "fabric_rate": rate, "link_delay": "0us"}


def _acknowledgement_payload(size_bytes: int) -> int:
    """Payload of full packets that weigh as much on the wire as the acknowledgements of a stream."""
    segments = -(-size_bytes // TCP_PAYLOAD)
    wire_bytes = TCP_HEADERS * -(-segments // _SEGMENTS_AN_ACKNOWLEDGEMENT)
    return round(wire_bytes * TCP_PAYLOAD / (TCP_PAYLOAD + TCP_HEADERS))


def _completion_s(
    fabric: Fabric,
    flows: Sequence[tuple[int, int, int]],
    transport: dict[str, Any],
    payload_bytes: int,
    header_bytes: int,
    scheduling: Scheduling,
) -> float:
    """Completion of flows that start at time 0, each src, dst and bytes."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "flows.csv")
        lines = [f"{src},{dst},{size_bytes},0" for src, dst, size_bytes in flows]
        path.write_text("\n".join(["src,dst,bytes,start_ns", *lines, ""]), encoding="utf-8")
        results = simulate(
            {
                "format": "flowfabric.scenario/1",
                "topology": topology(fabric),
                "packet": {"payload": f"{payload_bytes}B", "header": f"{header_bytes}B"},
                "nic": {"scheduling": scheduling, "destinations": "rotated"},
                "workload": {"kind": "flows", "path": str(path)},
                "transports": [transport],
                "seeds": [0],
            }
        )
    return results.to_dict()["runs"][0]["completion_ns"] / 1e9
