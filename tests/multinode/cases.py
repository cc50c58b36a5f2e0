"""What is measured on a fabric of namespaces and predicted by netsim: 2 leaves, 2 spines and 2 hosts a leaf."""

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import permutations, product
from typing import Any, NamedTuple, get_args

from netsim.draws import mix
from tests.multinode.namespaces import Fabric, fabric
from tests.multinode.prediction import Routing, Scheduling, tcp_completion_s, udp_completion_s, udp_plan
from tests.multinode.traffic import UDP_PAYLOAD, Measurement, Stream, run_tcp, run_udp

LEAVES, SPINES, HOSTS_PER_LEAF = 2, 2, 2
_ONE_WAY, _HASHED, _TWO_WAY, _PACKETS = 0.02, 0.03, 0.05, 0.06
_SHORT_QUEUE_S = 0.03
_SEED = 2


class Sizes(NamedTuple):
    """How much is sent, and how fast.

    Args:
        rate_mbit: Rate of every link, 10^6 bit/s.
        stream_bytes: Payload of a TCP stream.
        pair_bytes: Payload from each host to each other in a UDP all-to-all.
    """

    rate_mbit: int = 50
    stream_bytes: int = 4_000_000
    pair_bytes: int = 1_332_160


class Case(NamedTuple):
    """One thing to measure and predict.

    Args:
        name: What it is.
        limit: Largest relative error that is accepted, None if the error is only reported.
        outcomes_s: What netsim predicts, seconds; several where a hash decides among them.
        run: Measures once.
        queue_bytes: Room in front of every link, None for as good as no limit.
    """

    name: str
    limit: float | None
    outcomes_s: Callable[[Fabric], Sequence[float]]
    run: Callable[[Fabric], Measurement]
    queue_bytes: int | None = None

    def fabric(self, sizes: Sizes) -> AbstractContextManager[Fabric]:
        """The fabric to measure it on."""
        room = {} if self.queue_bytes is None else {"queue_bytes": self.queue_bytes}
        return fabric(LEAVES, SPINES, HOSTS_PER_LEAF, sizes.rate_mbit, **room)


class Figure(NamedTuple):
    """A case measured.

    Args:
        name: Name of the case.
        limit: Its limit.
        outcomes_s: What netsim predicts.
        runs_s: What was measured.
        error: Median of the runs' relative errors, each against the outcome nearest to it.
        spread: Largest minus smallest run, relative to the median.
        lost: Packets lost or sent again, in each run.
        late_s: Latest start of a sender.
        load_average: The machine's, larger of before and after; processes.
        loaded: It exceeded the number of cores, so that the figure does not count.
    """

    name: str
    limit: float | None
    outcomes_s: Sequence[float]
    runs_s: Sequence[float]
    error: float
    spread: float
    lost: Sequence[int]
    late_s: float
    load_average: float
    loaded: bool

    @property
    def kept(self) -> bool:
        """Whether the error is within the limit, if there is one."""
        return self.limit is None or abs(self.error) <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """The figure as JSON holds it."""
        return {**self._asdict(), "median_s": statistics.median(self.runs_s), "kept": self.kept}


def measure(case: Case, sizes: Sizes, runs: int = 3) -> Figure:
    """Measures a case a number of times."""
    before = os.getloadavg()[0]
    with case.fabric(sizes) as made:
        outcomes = case.outcomes_s(made)
        measured = [case.run(made) for _ in range(runs)]
    times = [measurement.completion_s for measurement in measured]
    load_average = max(before, os.getloadavg()[0])
    return Figure(
        name=case.name,
        limit=case.limit,
        outcomes_s=outcomes,
        runs_s=times,
        error=statistics.median(min((t / outcome - 1 for outcome in outcomes), key=abs) for t in times),
        spread=(max(times) - min(times)) / statistics.median(times),
        lost=[measurement.lost for measurement in measured],
        late_s=max(measurement.late_s for measurement in measured),
        load_average=load_average,
        loaded=load_average > cores(),
    )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cases(sizes: Sizes) -> Iterator[Case]:
    """All cases; those without a limit show one by one what moves two-way TCP away from its prediction."""
    size = sizes.stream_bytes
    there = [Stream(0, 2, size), Stream(1, 3, size)]
    both = [*there, Stream(2, 0, size), Stream(3, 1, size)]
    all_to_all = [Stream(src, dst, size) for src, dst in permutations(range(LEAVES * HOSTS_PER_LEAF), 2)]
    apart, exchange = (_through(streams, lambda src, _: src % SPINES) for streams in (there, both))
    balanced = _through(all_to_all, _latin)
    yield _tcp("TCP in one direction, same spine", _through(there, lambda *_: 0), _ONE_WAY)
    yield _tcp("TCP in one direction, spine each", apart, _ONE_WAY)
    yield _tcp("TCP in one direction, hashed", there, _HASHED)
    yield _tcp("TCP permutation", exchange, _TWO_WAY)
    yield _tcp("TCP all-to-all", balanced, _TWO_WAY)
    for scheduling in get_args(Scheduling):
        for routing in _ROUTINGS:
            yield _udp(f"UDP all-to-all, {scheduling}, {routing}", sizes, routing, scheduling)
    hashed = [stream._replace(acknowledgements=None) for stream in exchange]
    short = round(_SHORT_QUEUE_S * sizes.rate_mbit * 1e6 / 8)
    yield _tcp("TCP permutation, ACKs hashed", hashed)
    yield _tcp("TCP permutation, cubic", exchange, congestion_control="cubic")
    yield _tcp("TCP permutation, bbr", exchange, congestion_control="bbr")
    yield _tcp("TCP all-to-all, queues of 30 ms", balanced, queue_bytes=short)
    yield _tcp("TCP all-to-all, a quarter as long", [stream._replace(bytes=size // 4) for stream in balanced])


def _latin(src: int, dst: int) -> int:
    """Spine of a pair: every host spreads over all spines, and so does what every host receives."""
    return (src + dst) % HOSTS_PER_LEAF % SPINES


_ROUTINGS: dict[str, Routing] = {
    "latin": lambda src, dst, _: _latin(src, dst),
    "random by flow": lambda src, dst, _: mix(mix(_SEED + src) + dst) % SPINES,
    "spray": lambda src, _, crossed: (src + crossed) % SPINES,
    "one spine": lambda *_: 0,
}


def _through(streams: Sequence[Stream], spine: Callable[[int, int], int]) -> list[Stream]:
    """The streams between leaves with their spines, the same for acknowledgements."""
    chosen = []
    for stream in streams:
        crosses = stream.src // HOSTS_PER_LEAF != stream.dst // HOSTS_PER_LEAF
        through = spine(stream.src, stream.dst) if crosses else None
        chosen.append(stream._replace(spine=through, acknowledgements=through))
    return chosen


def _hash_outcomes(streams: Sequence[Stream]) -> Iterator[list[Stream]]:
    """The streams with each choice of spines that the hash may make for what none is named for; none within a leaf."""
    options = [
        [
            stream._replace(spine=spine, acknowledgements=back)
            for spine in (range(SPINES) if stream.spine is None else (stream.spine,))
            for back in (range(SPINES) if stream.acknowledgements is None else (stream.acknowledgements,))
        ]
        if stream.src // HOSTS_PER_LEAF != stream.dst // HOSTS_PER_LEAF
        else [stream]
        for stream in streams
    ]
    yield from map(list, product(*options))


def _tcp(
    name: str,
    streams: Sequence[Stream],
    limit: float | None = None,
    congestion_control: str = "reno",
    queue_bytes: int | None = None,
) -> Case:
    def outcomes_s(made: Fabric) -> list[float]:
        times = {round(tcp_completion_s(made, chosen), 3) for chosen in _hash_outcomes(streams)}
        return sorted(times)

    run = partial(run_tcp, streams=streams, congestion_control=congestion_control)
    return Case(name, limit, outcomes_s, run, queue_bytes)


def _udp(name: str, sizes: Sizes, routing: str, scheduling: Scheduling) -> Case:
    hosts, packets = LEAVES * HOSTS_PER_LEAF, sizes.pair_bytes // UDP_PAYLOAD
    plan = udp_plan(hosts, HOSTS_PER_LEAF, packets, _ROUTINGS[routing], scheduling)
    return Case(
        name, _PACKETS, lambda made: [udp_completion_s(made, plan, scheduling)], lambda made: run_udp(made, plan)
    )
