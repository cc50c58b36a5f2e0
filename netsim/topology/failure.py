"""Failures: their section in the scenario, the rate of every link over time, and what the routing knows of them."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema, model_validator

from netsim.foundation.refusal import nearest
from netsim.foundation.settings import Section
from netsim.foundation.units import Duration, format_rate, format_time, parse_rate, parse_time
from netsim.topology.cabled import WithDetours
from netsim.topology.protocol import Path, Topology, paths, places

NEVER = 2**62
"""A time after the end of every simulation, in picoseconds."""


def _rate_or_none(value: object) -> int:
    return 0 if value == 0 and not isinstance(value, bool) else parse_rate(value)


def _time_or_never(value: object) -> int:
    return NEVER if value in (None, "never") else parse_time(value)


DegradedRate = Annotated[
    int,
    BeforeValidator(_rate_or_none),
    PlainSerializer(format_rate, return_type=str),
    WithJsonSchema({"anyOf": [{"const": 0}, {"type": "string"}], "x-values": "0 | rate such as 25Gbps"}),
]
NoticedAfter = Annotated[
    int,
    BeforeValidator(_time_or_never),
    PlainSerializer(lambda time: "never" if time == NEVER else format_time(time), return_type=str),
    WithJsonSchema({"type": ["string", "null"], "x-values": "duration such as 1ms | never"}),
]


class FailureConfig(Section):
    """An entry of ``failures``. A cable fails in both directions, a switch with all its cables.

    Args:
        link: Name of one direction of the cable that fails, such as leaf0-spine3; or give `switch`.
        switch: Name of the switch that fails, such as spine3; or give `link`.
        at: Simulated time at which the failure begins.
        until: Simulated time at which the failure ends; null: it never ends.
        rate: Rate during the failure; 0: the link is down, and all packets in its queue or arriving there are lost.
        noticed_after: Delay until the routing knows that a link is down, or up again, and changes the usable paths;
            never, or null: the routing does not notice. A failure at time 0 is known from the beginning.
    """

    link: str | None = None
    switch: str | None = None
    at: Duration = 0
    until: Duration | None = None
    rate: DegradedRate = 0
    noticed_after: NoticedAfter = 10**9

    @model_validator(mode="after")
    def _one_thing(self) -> "FailureConfig":
        if (self.link is None) == (self.switch is None):
            raise ValueError("a failure is of a link or of a switch; name exactly one")
        if self.until is not None and self.until <= self.at:
            raise ValueError("a failure must end after it begins; give a later until, or null")
        return self


class Rates:
    """The rate of every link over time. A packet's service time follows the rate at the begin of its service."""

    def __init__(self, topology: Topology, failures: Sequence[FailureConfig]) -> None:
        self.initial = [link.rate_bps for link in topology.links]
        self.changes: dict[int, list[tuple[int, int]]] = {}
        """Times and rates of links that change; a rate holds from its time on, and the first time is 0."""
        self._by_link: dict[int, list[FailureConfig]] = {}
        for number, failure in enumerate(failures):
            for link in _links(topology, failure, number):
                self._by_link.setdefault(link, []).append(failure)
        for link, affecting in self._by_link.items():
            times = {0, *(f.at for f in affecting), *(f.until for f in affecting if f.until is not None)}
            nominal = topology.links[link].rate_bps
            steps = [(time, min([nominal, *(f.rate for f in affecting if _active(f, time))])) for time in sorted(times)]
            self.changes[link] = [step for n, step in enumerate(steps) if not n or step[1] != steps[n - 1][1]]

    @property
    def lossy(self) -> bool:
        """Whether a link goes down while traffic may be on it."""
        return any(rate == 0 and time > 0 for steps in self.changes.values() for time, rate in steps)

    def at(self, link: int, time_ps: int) -> int:
        """Bits per second at a moment; 0 is down."""
        steps = self.changes.get(link)
        if steps is None:
            return self.initial[link]
        return steps[bisect_right(steps, (time_ps, NEVER)) - 1][1]

    def next_down(self, link: int, time_ps: int) -> int:
        """The first moment from `time_ps` on at which the link is down, NEVER if there is none."""
        steps = self.changes.get(link, ())
        for number, (time, rate) in enumerate(steps):
            end = steps[number + 1][0] if number + 1 < len(steps) else NEVER
            if not rate and end > time_ps:
                return max(time, time_ps)
        return NEVER

    def best(self, link: int) -> int:
        """The highest rate the link ever has."""
        steps = self.changes.get(link)
        return self.initial[link] if steps is None else max(rate for _, rate in steps)

    def known_down(self) -> list[tuple[int, frozenset[int]]]:
        """Times at which the routing's knowledge changes, and the links that it avoids from then on; the first is 0."""
        intervals: list[tuple[int, int, int]] = []
        for link, affecting in self._by_link.items():
            for failure in affecting:
                if failure.rate:
                    continue
                begin = failure.at + failure.noticed_after if failure.at else 0
                end = NEVER if failure.until is None else failure.until + failure.noticed_after
                intervals.append((link, begin, end))
        times = sorted({0, *(time for _, *ends in intervals for time in ends if time < NEVER)})
        return [(t, frozenset(link for link, begin, end in intervals if begin <= t < end)) for t in times]


def _active(failure: FailureConfig, time_ps: int) -> bool:
    return failure.at <= time_ps and (failure.until is None or time_ps < failure.until)


def _links(topology: Topology, failure: FailureConfig, number: int) -> list[int]:
    """Both directions of all links that a failure concerns."""
    field = f"topology.failures.{number}"
    if failure.link is not None:
        affected = [index for index, link in enumerate(topology.links) if link.name == failure.link]
        what = failure.link
    else:
        affected = [i for i, link in enumerate(topology.links) if failure.switch in (link.src, link.dst)]
        what = failure.switch or ""
        if what.startswith("host"):
            affected = []
    if not affected:
        raise ValueError(f"{field}: '{what}' is not in the fabric; {_nearest(topology, failure)}")
    both = sorted({*affected, *(topology.reverse(link) for link in affected)})
    for link in both:
        if failure.rate > topology.links[link].rate_bps:
            nominal = format_rate(topology.links[link].rate_bps)
            raise ValueError(f"{field}.rate: {format_rate(failure.rate)} is more than {nominal}; give at most that")
    return both


def _nearest(topology: Topology, failure: FailureConfig) -> str:
    """Remedy for a name that the fabric does not have: similar names."""
    links = [link.name for link in topology.links if "host" not in (link.src[:4], link.dst[:4])]
    switches = [name for tier in topology.tiers for name in tier]
    if failure.switch is not None:
        near = nearest(failure.switch, switches)
        return f"name a switch such as {near}" if near else f"name a switch: {', '.join(t[0] for t in topology.tiers)}"
    near = nearest(failure.link, links) or next(iter(links), topology.links[0].name)
    return f"name a link such as {near}"


class Routes:
    """The paths between hosts, and those among them that the routing takes as usable.

    Knowledge changes at a few moments, `times`; an interval between two of them is an epoch. If after the beginning all
    paths between two leaves are known to be down, all of them stay usable, as does a host's link, and traffic waits.
    """

    def __init__(self, topology: Topology, rates: Rates) -> None:
        self._topology, self._rates = topology, rates
        self._known = rates.known_down()
        self.times = [time for time, _ in self._known]
        self.paths = cache(self._paths)
        self.usable_routes = cache(self._usable_routes)

    @cached_property
    def places(self) -> list[int]:
        """Place of each host among the hosts of its leaf."""
        return places(self._topology)

    @cached_property
    def with_detours(self) -> "Routes":
        """These routes with the fabric's detours added, if it has any."""
        fabric = getattr(self._topology, "with_detours", None)
        return self if fabric is None else Routes(fabric, self._rates)

    def minimal(self, src_leaf: int, dst_leaf: int) -> int:
        """Number of minimal routes, which come first."""
        if isinstance(self._topology, WithDetours):
            return self._topology.minimal(src_leaf, dst_leaf)
        return len(self._topology.between(src_leaf, dst_leaf))

    @property
    def topology(self) -> Topology:
        """The fabric."""
        return self._topology

    def epoch(self, now_ps: int) -> int:
        """Number of the epoch at a moment."""
        return bisect_right(self.times, now_ps) - 1

    def usable(self, src: int, dst: int, epoch: int = 0) -> tuple[int, ...]:
        """Indices of the usable paths; empty only if there is none at the beginning."""
        topology, down = self._topology, self._known[epoch][1]
        ends = (topology.inside(src),) if src == dst else (topology.up(src), topology.down(dst))
        if not epoch and down.intersection(ends):
            return ()
        return self.usable_routes(topology.leaf(src), topology.leaf(dst), epoch)

    def _paths(self, src: int, dst: int) -> tuple[Path, ...]:
        """All paths from host to host, failures aside."""
        return paths(self._topology, src, dst)

    def _usable_routes(self, src_leaf: int, dst_leaf: int, epoch: int) -> tuple[int, ...]:
        """Usable routes between two leaves; their indices are equal to the indices of the paths between hosts."""
        down = self._known[epoch][1]
        routes = self._topology.between(src_leaf, dst_leaf)
        good = tuple(index for index, route in enumerate(routes) if not down.intersection(route))
        return good if good or not epoch else tuple(range(len(routes)))
