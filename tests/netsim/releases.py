"""Messages as hosts hand them to transports, and what flows that carry their path put on links."""

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

from netsim.topology.failure import FailureConfig, Rates, Routes
from netsim.topology.protocol import Path, Topology, places
from netsim.transport.protocol import Flow, Release


class Releases:
    """Messages between the hosts of a fabric, one rank each.

    Args:
        topology: The fabric.
        failures: What is down from the beginning, which the routing knows.
    """

    def __init__(self, topology: Topology, failures: Sequence[FailureConfig] = ()) -> None:
        self.topology = topology
        self.routes = Routes(topology, Rates(topology, failures))
        self._places = places(topology)

    def __call__(self, task: int, src: int, dst: int, size_bytes: int) -> Release:
        """A message."""
        leaves = self.topology.leaf(dst), self.topology.leaf(src)
        ends = self._places[src], self._places[dst]
        paths, usable = self.routes.paths(src, dst), self.routes.usable(src, dst)
        return Release(task, src, dst, leaves[0], size_bytes, paths, usable, leaves[1], *ends)

    def all_to_all(self, size_bytes: int) -> list[list[Release]]:
        """The same number of bytes between each two hosts, as each host releases them."""
        hosts = range(self.topology.hosts)
        return [[self(src * len(hosts) + dst, src, dst, size_bytes) for dst in hosts if dst != src] for src in hosts]


def loads(flows: Iterable[Flow]) -> dict[int, Fraction]:
    """Bytes on each link."""
    by_path: Counter[Path] = Counter()
    for flow in flows:
        assert flow.path is not None
        by_path[flow.message.paths[flow.path]] += flow.bytes
    return _on_links({path: Fraction(size) for path, size in by_path.items()})


def ideal_loads(messages: Iterable[Release]) -> dict[int, Fraction]:
    """Bytes on each link if every message spreads evenly over the paths that work."""
    by_paths: Counter[tuple[Path, ...]] = Counter()
    for message in messages:
        by_paths[tuple(message.paths[path] for path in message.usable)] += message.bytes
    return _on_links({path: Fraction(size, len(paths)) for paths, size in by_paths.items() for path in paths})


def _on_links(by_path: dict[Path, Fraction]) -> dict[int, Fraction]:
    load: dict[int, Fraction] = {}
    for path, size in by_path.items():
        for link in path:
            load[link] = load.get(link, 0) + size
    return load
