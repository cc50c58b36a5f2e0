"""Ethereal: flow-level balance of every fabric link, decided by each host alone."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from math import gcd
from typing import ClassVar, Literal

from netsim.draws import Draws, Purpose, stream
from netsim.foundation.units import Duration, split_bytes
from netsim.transport.protocol import Flow, Release, Transport, TransportSettings

Pieces = Literal["equal", "minimal"]
Order = Literal["nic", "published", "staggered"]


class Ethereal(Transport):
    """Spreads the flows of a host to one leaf over all paths, and cuts only the flows that are left over.

    Of n flows of equal size to one leaf over s paths, n - r with r = n mod s go whole, in turn over the paths; the
    other r are cut, either into s / gcd(r, s) equal pieces each that continue the turn, or, as few as possible, where
    the shares of s paths in r flows laid end to end meet: r + s - gcd(r, s) pieces in all. Every path then carries n/s
    flows, exactly as under ideal spraying. Flows are balanced together if their host releases them in one instant and
    they have the same size. Sizes that do not divide differ by a byte at most.

    A flow that times out moves to another path, and its host avoids the old one towards that leaf for a while.

    Addanki, Goyal, Marinos: Challenging the Need for Packet Spraying in Large-Scale Distributed Training,
    arXiv 2407.00550, and its authors' simulator front end (AstraSimNetwork.cc); minimal pieces are ours.

    The staggered order is this project's: by the distance from the source's place in its leaf to the destination's,
    then by the distance in leaves. Each host begins with the link up of its own place and, where that link has several
    paths, with the path of its leaf, without shuffles. Hosts that start together and send equal messages to each other
    then send, at every moment, to distinct hosts and, on fabrics without oversubscription, over distinct links, without
    communication between hosts.
    """

    def __init__(
        self,
        seed: int,
        most_paths: int,
        pieces: Pieces = "equal",
        randomise: bool = True,
        order: Order = "nic",
        start_delay: int = 0,
        avoid: int = 10**11,
    ) -> None:
        super().__init__(seed, most_paths)
        self._cut = self._equal if pieces == "equal" else self._minimal
        self.pieces, self.randomise, self.order = pieces, randomise and order != "staggered", order
        self.start_delay_ps, self._avoid_ps = start_delay, avoid
        self.orders_flows = order != "nic"
        self._leaf_order = Draws(seed, Purpose.ETHEREAL_LEAVES)
        self._flow_order = Draws(seed, Purpose.ETHEREAL_FLOWS)
        self._path_order = Draws(seed, Purpose.ETHEREAL_PATHS)
        self._delay = Draws(seed, Purpose.START_DELAY)
        self._another = Draws(seed, Purpose.REPATH)
        self.bad_until: dict[tuple[int, int, int], int] = {}
        """Until when a path is avoided, by first link, destination leaf and path."""

    def constants(self) -> dict[str, int | float | str]:
        return {
            "admission": "BALANCED",
            "asks_after_timeout": True,
            "parts": self.stride,
            "equal_pieces": self.pieces == "equal",
            "shuffled": self.randomise,
            "shuffled_groups": self.order == "published",
            "staggered": self.order == "staggered",
            "start_delay_ps": self.start_delay_ps,
            "path_draws": stream(self.seed, Purpose.ETHEREAL_PATHS),
            "leaf_draws": stream(self.seed, Purpose.ETHEREAL_LEAVES),
            "member_draws": stream(self.seed, Purpose.ETHEREAL_FLOWS),
            "delay_draws": stream(self.seed, Purpose.START_DELAY),
        }

    def admit(self, released: Sequence[Release], now_ps: int) -> list[Flow]:
        """Balances each group of equal flows to one leaf; traffic with one path only is sent as it is."""
        groups: dict[tuple[int, int], list[Release]] = defaultdict(list)
        for message in released:
            groups[message.dst_leaf if len(message.paths) > 1 else -1, message.bytes].append(message)
        keys = list(groups)
        if self.order == "published":
            keys.sort(key=lambda key: self._leaf_order(groups[key][0].key))
        flows: list[Flow] = []
        for group in (groups[key] for key in keys):
            if len(group[0].paths) == 1:
                flows += [self._flow(message, 0, message.bytes, 0) for message in group]
            else:
                flows += self._balance(group, self._good(group[0], group[0].usable, now_ps))
        return sorted(flows, key=_stagger) if self.order == "staggered" else flows

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:
        """Another path for a flow whose own has failed."""
        good = self._good(flow.message, usable, now_ps)
        return good[self._another(self.key_of(flow), serial) % len(good)]

    def on_timeout(self, flow: Flow, path: int | None, usable: tuple[int, ...], now_ps: int) -> int | None:
        """Draws another path, and avoids the old path for a while."""
        if path is None or len(flow.message.paths) == 1:
            return path
        self.bad_until[flow.message.paths[0][0], flow.message.dst_leaf, path] = now_ps + self._avoid_ps
        return self.choose_path(flow, now_ps, usable, now_ps)

    def _good(self, message: Release, usable: tuple[int, ...], now_ps: int) -> tuple[int, ...]:
        """Usable paths that have not failed lately; all usable paths if none is left."""
        if not self.bad_until:
            return usable
        pair = message.paths[0][0], message.dst_leaf
        return tuple(path for path in usable if self.bad_until.get((*pair, path), 0) <= now_ps) or usable

    def _balance(self, group: list[Release], paths: tuple[int, ...]) -> Iterator[Flow]:
        first = group[0]
        order, flows = list(paths), group
        if self.randomise:
            order.sort(key=lambda path: self._path_order(first.key, path))
            flows = sorted(group, key=lambda message: self._flow_order(message.key))
        elif self.order == "staggered":
            order = _links_in_turn(first, paths)
            flows = sorted(group, key=_places_ahead)
        whole = len(flows) - len(flows) % len(order)
        for turn, message in enumerate(flows[:whole]):
            yield self._flow(message, 0, message.bytes, order[turn % len(order)])
        if whole < len(flows):
            yield from self._cut(flows[whole:], order)

    def _equal(self, flows: Sequence[Release], order: Sequence[int]) -> Iterator[Flow]:
        pieces = len(order) // gcd(len(flows), len(order))
        for position, message in enumerate(flows):
            for piece, size in enumerate(split_bytes(message.bytes, pieces)):
                if size:
                    yield self._flow(message, piece, size, order[(position * pieces + piece) % len(order)])

    def _minimal(self, flows: Sequence[Release], order: Sequence[int]) -> Iterator[Flow]:
        """Path k takes bytes [k, k + 1) * total / s of the flows laid end to end."""
        each = flows[0].bytes
        total = each * len(flows)
        for position, message in enumerate(flows):
            begin, end = position * each, (position + 1) * each
            path = begin * len(order) // total
            piece = 0
            while begin < end:
                border = min(end, (path + 1) * total // len(order))
                if border > begin:
                    yield self._flow(message, piece, border - begin, order[path])
                    piece += 1
                begin, path = max(begin, border), path + 1

    def _flow(self, message: Release, piece: int, size_bytes: int, path: int) -> Flow:
        flow = Flow(message.task * self.stride + piece, message, size_bytes, path)
        if not self.start_delay_ps:
            return flow
        return flow._replace(delay_ps=self._delay(self.key_of(flow)) % (self.start_delay_ps + 1))


def _links_in_turn(message: Release, paths: Sequence[int]) -> list[int]:
    """Paths in the order of turns: one link up after another, from the source's place on, each with its next route."""
    routes: dict[int, list[int]] = defaultdict(list)
    for path in paths:
        routes[message.paths[path][1]].append(path)
    rounds = zip_longest(*(_begun_at(message.src_leaf, onward) for onward in routes.values()))
    return _begun_at(message.src_place, [path for turn in rounds for path in turn if path is not None])


def _begun_at(place: int, circle: list[int]) -> list[int]:
    place %= len(circle)
    return circle[place:] + circle[:place]


def _places_ahead(message: Release) -> tuple[bool, int]:
    """Distance from the source's place to the destination's, modulo the number of places."""
    return message.dst_place < message.src_place, message.dst_place


def _stagger(flow: Flow) -> tuple[tuple[bool, int], bool, int, int]:
    """Sort key in the ring: distance in places, then distance in leaves; pieces in turn."""
    message = flow.message
    return _places_ahead(message), message.dst_leaf < message.src_leaf, message.dst_leaf, flow.id


class EtherealConfig(TransportSettings):
    """Each host spreads its flows evenly over all paths, and cuts only the flows that are left over.

    Args:
        pieces: How left-over flows are cut: into equal pieces, or into as few as possible (minimal).
        randomise: Whether the flows of a group and the order of its paths are shuffled, as the authors do; false: both
            go by number, and all hosts begin with the same path.
        order: Order, in the ring of their host, of flows released together. nic: by the section nic; published: as the
            authors' hosts open them, in shuffled order; staggered: by distance, so that hosts that start together send
            to distinct hosts.
        start_delay: Largest delay before a flow joins its host's ring; each flow draws a delay up to this; 50 ns in the
            paper.
        avoid: Time for which a host avoids a path after a flow on it has timed out.
    """

    transport: ClassVar[type[Transport]] = Ethereal

    kind: Literal["ethereal"]
    pieces: Pieces = "equal"
    randomise: bool = True
    order: Order = "nic"
    start_delay: Duration = 0
    avoid: Duration = 100 * 10**9
