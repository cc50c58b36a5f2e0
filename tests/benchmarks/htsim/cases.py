"""Matrices and topologies that both simulators read, written for a case."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from netsim.foundation.units import PICOSECONDS_PER_SECOND, service_ps

PAYLOAD, HEADER, ACKNOWLEDGEMENT = 4086, 64, 64
"""Bytes of a packet's payload and header, and of an acknowledgement, as in htsim's UEC."""
RATE, DELAY_PS, LINKS = 100 * 10**9, 10**6, 6
"""Of every link, and links of the longest way on three tiers."""
WIRE = PAYLOAD + HEADER
PAUSES = {"pause_above": f"{15 * PAYLOAD + 1}B", "resume_at": f"{12 * PAYLOAD - 1}B"}
"""Thresholds of htsim's RoCE: above 15 payloads it pauses a link, below 12 it resumes it."""


class Case(NamedTuple):
    """What is simulated.

    Args:
        name: For the table.
        hosts: Number of hosts, k**3 / 4 with even k.
        lines: Connections and triggers of the matrix, for a seed.
    """

    name: str
    hosts: int
    lines: Callable[[int], list[str]]


def ports_of(hosts: int) -> int:
    """Ports of a switch of the fat tree with so many hosts.

    Raises:
        ValueError: There is none.
    """
    ports = round((4 * hosts) ** (1 / 3))
    if ports**3 != 4 * hosts or ports % 2:
        raise ValueError(f"{hosts} hosts are no fat tree of three tiers; take 16, 128, 1024 or 8192")
    return ports


def way_back_ps(hosts: int, src: int, dst: int) -> int:
    """How long an acknowledgement takes: over two links below one leaf, four inside a pod, six between pods."""
    half = ports_of(hosts) // 2
    tiers = 1 + (src // half != dst // half) + (src // half**2 != dst // half**2)
    return 2 * tiers * DELAY_PS


def mean_way_back_ps(case: Case) -> int:
    """The mean over the connections of a case, whose seed does not matter."""
    ends = (line.split()[0].split("->") for line in case.lines(0) if "->" in line)
    times = [way_back_ps(case.hosts, int(src), int(dst)) for src, dst in ends]
    return sum(times) // len(times)


def _sends(pairs: list[tuple[int, int]], size_bytes: int) -> list[str]:
    return [f"{src}->{dst} id {n} start 0 size {size_bytes}" for n, (src, dst) in enumerate(pairs, start=1)]


def one(size_bytes: int) -> Case:
    """A flow through all three tiers of 16 hosts."""
    return Case("one flow", 16, lambda _: _sends([(0, 13)], size_bytes))


def outcast_incast(size_bytes: int) -> Case:
    """Host 2 sends to ten hosts and host 3 to ten others, one of each being host 0, to which host 1 sends too."""
    pairs = [(1, 0), (2, 0), *((2, dst) for dst in range(4, 13)), (3, 0), *((3, dst) for dst in range(13, 22))]
    return Case("outcast and incast", 128, lambda _: _sends(pairs, size_bytes))


def permutation(hosts: int, size_bytes: int) -> Case:
    """Each host sends to another, each receives from another, drawn by the seed."""

    def lines(seed: int) -> list[str]:
        random, targets = Random(seed), list(range(hosts))
        while any(src == dst for src, dst in enumerate(targets)):
            random.shuffle(targets)
        return _sends(list(enumerate(targets)), size_bytes)

    return Case(f"permutation of {hosts}", hosts, lines)


def incast(hosts: int, size_bytes: int) -> Case:
    """All other hosts send to host 0."""
    return Case(f"incast {hosts - 1}:1", hosts, lambda _: _sends([(src, 0) for src in range(1, hosts)], size_bytes))


def ring(hosts: int, size_bytes: int) -> Case:
    """An all-gather of equal blocks: each host sends on what it has received, for hosts - 1 rounds.

    A host goes on when the one before it knows that its flow is done: flows that a receiver starts never end in htsim.
    """

    def lines(_: int) -> list[str]:
        written = []
        for round_ in range(hosts - 1):
            for src in range(hosts):
                identity = 1 + round_ * hosts + src
                begin = f"trigger {1 + (round_ - 1) * hosts + (src - 1) % hosts}" if round_ else "start 0"
                fires = f" send_done_trigger {identity}" if round_ < hosts - 2 else ""
                written.append(f"{src}->{(src + 1) % hosts} id {identity} {begin} size {size_bytes}{fires}")
        return written + [f"trigger id {number} oneshot" for number in range(1, 1 + (hosts - 2) * hosts)]

    return Case(f"ring of {hosts}", hosts, lines)


def write_matrix(case: Case, seed: int, path: Path) -> int:
    """Writes the matrix of a case; returns its number of connections."""
    lines = case.lines(seed)
    triggers = sum(line.startswith("trigger") for line in lines)
    header = [f"Nodes {case.hosts}", f"Connections {len(lines) - triggers}", f"Triggers {triggers}"]
    path.write_text("\n".join([*header, *lines]) + "\n", encoding="utf-8")
    return len(lines) - triggers


def one_by_one_us(case: Case, seed: int) -> int:
    """More than the time of all connections of a case one after the other."""
    sizes = [int(line.partition(" size ")[2].split()[0]) for line in case.lines(seed) if "->" in line]
    return 1000 + len(sizes) * 100 + 2 * sum(sizes) * 8 * 10**6 // RATE


def write_topology(case: Case, path: Path) -> None:
    """Writes a fat tree of three tiers, every tier 1:1."""
    ports = ports_of(case.hosts)
    half = ports // 2
    tier = f"Downlink_speed_Gbps {RATE // 10**9}\nDownlink_Latency_ns {DELAY_PS // 1000}\nSwitch_Latency_ns 0\n"
    text = f"Nodes {case.hosts}\nTiers 3\nPodsize {half * half}\n"
    for number in range(2):
        text += f"Tier {number}\nRadix_Down {half}\nRadix_Up {half}\n{tier}"
    path.write_text(f"{text}Tier 2\nRadix_Down {ports}\n{tier}", encoding="utf-8")


def queue_bytes() -> int:
    """One bandwidth-delay product of the longest way, in whole packets, as htsim sizes queues by itself."""
    both = service_ps(WIRE, RATE) + service_ps(ACKNOWLEDGEMENT, RATE) + 2 * DELAY_PS
    product = LINKS * both * RATE // (8 * PICOSECONDS_PER_SECOND)
    return -(-product // WIRE) * WIRE
