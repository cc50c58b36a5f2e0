"""A profile as the program of a collective trace: computing before each collective, and the step that waits for it.

What begins after the end of a collective waits for it, unless the profile has the waits between streams (events
``Stream Wait Event``). A collective overlaps what its device computes meanwhile. The two together take the longer time,
so that a step is computing and exposed communication.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from netsim.workload.kineto.profile import Call, Profile

Spans = Sequence[tuple[int, int]]


class Step(NamedTuple):
    """A record of a program: a collective, or None for what is computed before something is waited for.

    `wait` is the number of the step that waits for it, None if that is the next one or nothing else was begun.
    """

    call: int | None
    gap_ns: int
    wait: int | None
    at_ns: int


class Waits(NamedTuple):
    """How long each call waits for ranks that come later, None where unknown, and how much of that is exposed.

    Nothing is computed in the exposed part, and no other call waits.
    """

    whole_ns: Sequence[int | None]
    exposed_ns: Sequence[int]


class Exposed(NamedTuple):
    """A profile's duration, and the part of it in which collectives run and nothing is computed."""

    whole_ns: int
    exposed_ns: int


def program(profile: Profile, sized: Sequence[Call]) -> list[Step]:
    """The steps of a rank in which `sized` calls are simulated; all else counts with the time that it took."""
    busy = merged(_computing(profile, sized))
    ends = [end for _, end in busy]
    moments = [(call.start_ns, 1, number) for number, call in enumerate(sized)]
    awaited = _awaited(profile, sized, busy)
    moments += [(max(ns, sized[number].start_ns + 1), 0, number) for number, ns in awaited.items()]
    steps: list[Step] = []
    step_of: dict[int, int] = {}
    point_ns = profile.begin_ns
    for ns, begins, number in sorted(moments):
        if begins:
            step_of[number] = len(steps)
            steps.append(Step(number, max(0, ns - point_ns), None, ns))
        else:
            last = bisect_left(ends, ns)
            runs = last < len(busy) and busy[last][0] < ns
            goes_on = runs or ns > sized[number].end_ns
            computed_ns = (ns if goes_on else ends[last - 1] if last else 0) - point_ns
            if computed_ns > 0:
                steps.append(Step(None, computed_ns, None, point_ns))
            if step_of[number] < len(steps) - 1:
                steps[step_of[number]] = steps[step_of[number]]._replace(wait=len(steps))
        point_ns = max(point_ns, ns)
    if profile.end_ns > point_ns and busy:
        steps.append(Step(None, profile.end_ns - point_ns, None, point_ns))
    return steps


def exposed(profile: Profile) -> Exposed:
    """Duration of a profile, and of its communication without computing at the same time."""
    moving = merged((call.start_ns, call.end_ns) for call in profile.calls)
    computing = merged((one.start_ns, one.end_ns) for one in profile.work)
    whole_ns = profile.end_ns - profile.begin_ns
    return Exposed(whole_ns, sum(end - begin for begin, end in moving) - overlap_ns(moving, computing))


def waits(profile: Profile, sized: Sequence[Call], alike: Sequence[tuple[int, Hashable]]) -> Waits:
    """Waiting of a rank's calls. Calls are alike if both parts of `alike`, number of ranks and key, are equal.

    The kernels before DeepEP's do nothing else. A rank of n comes last to one call of n, so that the shortest n-th of
    calls that are alike is taken not to have waited, and the others for as long as they exceed it.
    """
    times: dict[tuple[int, Hashable], list[int]] = defaultdict(list)
    for call, key in zip(sized, alike, strict=True):
        times[key].append(call.end_ns - call.start_ns)
    alone = {key: sorted(ns)[(len(ns) - 1) // key[0]] for key, ns in times.items() if len(ns) > 1}
    whole: list[int | None] = []
    for call, key in zip(sized, alike, strict=True):
        more_ns = max(0, call.end_ns - call.start_ns - alone[key]) if key in alone else None
        whole.append(call.notify_ns if call.source == "expert" else more_ns)
    computing = merged((one.start_ns, one.end_ns) for one in profile.work)
    ends = [end for _, end in computing]
    exposed_ns, over_ns = [], 0
    for call, waited_ns in zip(sized, whole, strict=True):
        begin, end = max(call.start_ns, over_ns), call.start_ns + (waited_ns or 0)
        beside = computing[bisect_left(ends, begin) : bisect_left(ends, end) + 1]
        exposed_ns.append(max(0, end - begin - overlap_ns([(begin, end)], beside)))
        over_ns = max(over_ns, end)
    return Waits(whole, exposed_ns)


def merged(spans: Iterator[tuple[int, int]] | Spans) -> list[tuple[int, int]]:
    """The union of spans, in order."""
    union: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if union and begin <= union[-1][1]:
            union[-1] = union[-1][0], max(union[-1][1], end)
        else:
            union.append((begin, end))
    return union


def overlap_ns(one: Spans, other: Spans) -> int:
    """Common time of two unions of spans."""
    total = place = 0
    for begin, end in one:
        while place < len(other) and other[place][1] <= begin:
            place += 1
        at = place
        while at < len(other) and other[at][0] < end:
            total += min(end, other[at][1]) - max(begin, other[at][0])
            at += 1
    return total


def _computing(profile: Profile, sized: Sequence[Call]) -> Iterator[tuple[int, int]]:
    """Times that are not simulated but kept: kernels and copies, and collectives of unknown size."""
    simulated = {call.place for call in sized}
    yield from ((one.start_ns, one.end_ns) for one in profile.work)
    yield from ((call.start_ns, call.end_ns) for call in profile.calls if call.place not in simulated)


def _awaited(profile: Profile, sized: Sequence[Call], busy: Spans) -> Mapping[int, int]:
    """For each call when its rank waits for it: not before its end, nor after the next one on its stream begins."""
    begins = [work.start_ns for work in profile.work]
    busy_ends = [end for _, end in busy]
    by_events = _by_events(profile, sized)
    awaited, following = {}, dict[str, int]()
    for number in reversed(range(len(sized))):
        call = sized[number]
        ns = by_events.get(number)
        if ns is None:
            at = bisect_left(busy_ends, call.end_ns + 1)
            runs = at < len(busy) and busy[at][0] < call.end_ns
            later = bisect_left(begins, call.end_ns)
            ns = min([busy[at][1], *begins[later : later + 1]]) if runs else call.end_ns
        awaited[number] = max(call.end_ns, min(ns, following.get(call.stream, ns)))
        following[call.stream] = call.start_ns
    return awaited


def _by_events(profile: Profile, sized: Sequence[Call]) -> dict[int, int]:
    """For each call the begin of the first work that waits for it, by events between streams."""
    waits = sorted(profile.waits, key=lambda wait: wait.launch)
    by_event: dict[int, int] = {}
    launched: dict[str, list[tuple[int, int]]] = {}
    for work in profile.work:
        launched.setdefault(work.stream, []).append((work.launch, work.start_ns))
    for works in launched.values():
        works.sort()
    begins = {
        stream: list(accumulate((ns for _, ns in reversed(works)), min))[::-1] for stream, works in launched.items()
    }
    for number, call in enumerate(sized):
        for wait in waits:
            if wait.other != call.stream or wait.recorded < call.launch or wait.stream == call.stream:
                continue
            works = launched.get(wait.stream, [])
            first = bisect_left(works, (wait.launch, 0))
            if first < len(works):
                by_event[number] = begins[wait.stream][first]
                break
    return by_event
