"""The first use of an engine, which is compiled then, once for each version of netsim; small runs do without."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from netsim.engine.compiled.cache import forget_if_outdated, is_kept
from netsim.engine.protocol import Scene
from netsim.transport.config import TransportConfig

MOST_WORK = 2_000_000
"""Packet-hops that simpy simulates in less time than it takes to compile an engine."""
_WORK_OF_MESSAGE = 1_000
"""Packet-hops for which simpy takes as long as Python takes for a message of the flow-level engine."""
_ENGINES = Path(__file__).parent / "engine"


def is_compiled(engine: str) -> bool:
    """Whether an engine has been compiled, so that its first use does not compile it."""
    forget_if_outdated(_ENGINES / engine)
    return is_kept(_ENGINES / engine)


def is_small(scene: Scene, transports: Sequence[TransportConfig], seeds: int) -> bool:
    """Whether all runs of a scenario take Python less time than one engine takes to be compiled."""
    flow_level = sum(transport.kind == "ideal" for transport in transports)
    packets = seeds * (len(transports) - flow_level)
    sizes = scene.tasks.columns().bytes
    work = seeds * flow_level * _WORK_OF_MESSAGE * int(np.count_nonzero(sizes))
    fewest = packets * int((-(-sizes // scene.packet.payload)).sum())
    return work + fewest <= MOST_WORK and work + packets * packet_hops(scene) <= MOST_WORK


def packet_hops(scene: Scene) -> int:
    """Packets of all messages, and acknowledgements where they are sent, times the links of their shortest paths."""
    columns, topology = scene.tasks.columns(), scene.topology
    sent, hosts, leaves = np.flatnonzero(columns.bytes), np.asarray(scene.hosts), len(scene.topology.tiers[0])
    leaf = np.array([topology.leaf(host) for host in range(topology.hosts)])
    src, dst = hosts[columns.src[sent]], hosts[columns.dst[sent]]
    pairs, pair = np.unique(leaf[src] * leaves + leaf[dst], return_inverse=True)
    between = np.array([len(topology.between(*divmod(code, leaves))[0]) for code in pairs.tolist()], dtype=np.int64)
    links = np.where(src == dst, 1, 2 + between[pair])
    answered = scene.congestion.kind != "none" or scene.recovery.kind != "none"
    return (1 + answered) * int((-(-columns.bytes[sent] // scene.packet.payload) * links).sum())


@contextmanager
def watching_compilation(report: Callable[[int], None]) -> Iterator[None]:
    """Reports the number so far before each function that is compiled in this block."""
    from numba.core import event

    class Listener(event.Listener):
        functions = 0

        def on_start(self, event: Any) -> None:  # noqa: ARG002
            self.functions += 1
            report(self.functions)

        def on_end(self, event: Any) -> None:
            """Nothing: the next function says that this one is done."""

    with event.install_listener("numba:compile", Listener()):
        yield
