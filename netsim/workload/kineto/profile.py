"""One rank's profile: its place in the run, its process groups, its collectives and what its device does besides.

torch.profiler writes Chrome's trace format, in which times are microseconds with fractions. Kernels that carry out a
collective have the External id of its record; in older profiles they have the correlation of a launch inside the call
(libkineto, output_json.cpp).
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

from netsim.foundation.documents import parse_json
from netsim.foundation.lines import MOST
from netsim.foundation.refusal import Refusal
from netsim.workload.kineto.schemas import (
    ANNOTATIONS,
    EXPERT,
    OPERATIONS,
    OPERATORS,
    RECORD,
    SILENT,
    Enclosing,
    Event,
    ShapedCall,
    arguments,
    calls_by_shapes,
    kind_of,
)
from netsim.workload.kineto.stream import EVENTS, read_stream
from netsim.workload.records import MOST_RANKS

_STEP, _OPTIMIZER = "ProfilerStep#", "Optimizer.step#"
_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver", "runtime")
_WAIT = "Stream Wait Event"
_PS_PER_NS = 1000
_REMEDY = "profile all ranks again, with the process group initialised and the same steps on all"
_EVENTS_BETWEEN_PHASES = 100_000

Group = tuple[int, ...] | None
"""Ranks of a group; None: the file does not list them."""
Source = Literal["record", "annotation", "expert", "kernel"]
"""What tells of a call: a record, an annotation with shapes, a kernel of DeepEP, or a kernel of which nothing is known
but its time."""


class Call(NamedTuple):
    """A collective as one rank called it; `place` is that of its event in the file.

    `kind` is its operation, or for DeepEP dispatch or combine; of a kernel alone it is nccl. Times are those of its
    kernels since the first event of the file, or of the call where there are none. `kernel_ns` is what these add up
    to, without `notify_ns`, in which DeepEP waits for all ranks.
    """

    place: int
    kind: str
    source: Source
    args: Mapping[str, Any]
    start_ns: int
    end_ns: int
    step: int
    phase: str
    stream: str
    launch: int
    kernel_ns: int
    notify_ns: int = 0


class Work(NamedTuple):
    """A kernel or copy that is no collective, on its stream; `launch` is its correlation, or -1."""

    start_ns: int
    end_ns: int
    stream: str
    launch: int


class Wait(NamedTuple):
    """A stream waits for the work that another stream had when an event was recorded; both by correlation."""

    stream: str
    launch: int
    other: str
    recorded: int


class Profile(NamedTuple):
    """The profile of a rank; host "" if unknown, calls and work in the order of their starts.

    `begin_ns` is the begin of its first step, or of the first collective or work if there are no steps.
    """

    path: Path
    rank: int
    world_size: int
    host: str
    groups: Mapping[str, Group]
    calls: Sequence[Call]
    work: Sequence[Work]
    waits: Sequence[Wait]
    begin_ns: int
    has_kernels: bool

    @property
    def end_ns(self) -> int:
        """When the last collective and the last work have ended."""
        return max(max((one.end_ns for one in part), default=0) for part in (self.calls, self.work))


def read_profile(path: Path, progress: Callable[[str], None], world_size: int | None = None) -> Profile:
    """Reads the profile of a rank, ``.json`` or ``.json.gz``; `world_size` replaces the file's number of ranks."""
    events = _Events(path, progress)
    content = read_stream(path, events.keep)
    about = content.get("distributedInfo")
    if not isinstance(about, dict):
        raise Refusal(path, "distributedInfo", "is missing: the rank is unknown", _REMEDY)
    ranks = world_size or _whole(path, "distributedInfo.world_size", about.get("world_size"))
    if not 0 < ranks <= MOST_RANKS:
        raise Refusal(path, "distributedInfo.world_size", f"is not in 1 to {MOST_RANKS:,} ({ranks})", _REMEDY)
    rank = _whole(path, "distributedInfo.rank", about.get("rank"))
    if rank >= ranks:
        raise Refusal(path, "distributedInfo.rank", f"is not below world_size ({rank}, of {ranks})", _REMEDY)
    if EVENTS not in content:
        raise Refusal(path, EVENTS, "is missing", "write the profile with export_chrome_trace")
    host = content.get("host_name")
    known = host if isinstance(host, str) else ""
    return Profile(path, rank, ranks, known, _groups(about.get("pg_config")), *events.read())


def _whole(path: Path, field: str, value: object, most: int = MOST) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < most:
        raise Refusal(path, field, f"is not a whole number ({value!r:.40})", _REMEDY)
    return value


def _groups(configured: object) -> dict[str, Group]:
    """Process groups of the header, by name."""
    if isinstance(configured, str):
        try:
            configured = parse_json(configured)
        except ValueError:
            return {}
    groups: dict[str, Group] = {}
    for entry in configured if isinstance(configured, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("pg_name"), str):
            ranks = entry.get("ranks")
            whole = isinstance(ranks, list) and all(type(rank) is int for rank in ranks)
            groups[entry["pg_name"]] = tuple(ranks) if whole and ranks else None
    return groups


class _Events:
    """The events of a file that matter; times are counted from the first event."""

    def __init__(self, path: Path, progress: Callable[[str], None]) -> None:
        self._path, self._progress = path, progress
        self._hosts: list[Event] = []
        self._moving: list[Event] = []
        self._work: list[Work] = []
        self._waits: list[Wait] = []
        self._launches: dict[int, tuple[object, int]] = {}
        self._first_ns: int | None = None
        self._last = 0, 0

    def keep(self, place: int, event: dict[str, Any]) -> None:
        """Keeps an event if it matters: collectives, kernels, launches, waits between streams, annotations."""
        if place % _EVENTS_BETWEEN_PHASES == 0:
            self._progress(f"reading {self._path.name}, {place:,} events")
        name = event.get("name")
        if event.get("ph") != "X" or not isinstance(name, str):
            return
        start_ns, length_ns = (self._time_ns(place, event, key) for key in ("ts", "dur"))
        self._first_ns = start_ns if self._first_ns is None else min(self._first_ns, start_ns)
        self._last = max(self._last, (start_ns + length_ns, place))
        args = event.get("args")
        args = args if isinstance(args, dict) else {}
        category, thread = str(event.get("cat", "")).lower(), repr((event.get("pid"), event.get("tid")))
        whole = Event(place, name, category, thread, start_ns, start_ns + length_ns, args)
        if category in _WORK:
            if "stream" in args:
                thread = str(_whole(self._path, f"traceEvents.{place}.args.stream", args["stream"]))
            if category == "kernel" and (name.startswith("nccl") or EXPERT.search(name)):
                self._moving.append(whole._replace(thread=thread))
            else:
                self._work.append(Work(start_ns, start_ns + length_ns, thread, _number(args.get("correlation"))))
        elif category in _LAUNCHES:
            if "Launch" in name:
                self._launches[_number(args.get("correlation"))] = thread, start_ns
        elif category == "cuda_sync" and name == _WAIT:
            launch, recorded = (_number(args.get(key)) for key in ("correlation", "wait_on_cuda_event_record_corr_id"))
            self._waits.append(Wait(str(args.get("stream")), launch, str(args.get("wait_on_stream")), recorded))
        elif not category.startswith("gpu") and name.startswith((RECORD, *ANNOTATIONS, OPERATORS, _STEP, _OPTIMIZER)):
            self._hosts.append(whole)

    def _time_ns(self, place: int, event: Mapping[str, Any], key: str) -> int:
        value = event.get(key)
        if not isinstance(value, (int, Decimal)) or isinstance(value, bool) or not 0 <= value < MOST:
            shown = value if isinstance(value, Decimal) else repr(value)
            problem = f"is no time in microseconds ({shown!s:.40})"
            raise Refusal(self._path, f"traceEvents.{place}.{key}", problem, _REMEDY)
        return round(1000 * value)

    def read(self) -> tuple[list[Call], list[Work], list[Wait], int, bool]:
        """Collectives and work by their starts, waits, the begin of the first step, and whether there are kernels."""
        zero_ns, (last_ns, place) = self._first_ns or 0, self._last
        if last_ns - zero_ns >= MOST / _PS_PER_NS:
            raise Refusal(self._path, f"traceEvents.{place}.dur", f"ends too late ({last_ns - zero_ns} ns)", _REMEDY)
        calls = sorted(self._calls(), key=lambda call: (call.start_ns, call.place))
        if not calls:
            problem = f"has no collectives with their sizes (events {RECORD}, annotations nccl: or gloo: with shapes)"
            raise Refusal(self._path, EVENTS, problem, "profile a run on several ranks, with record_shapes=True")
        calls = [call._replace(start_ns=call.start_ns - zero_ns, end_ns=call.end_ns - zero_ns) for call in calls]
        work = sorted(one._replace(start_ns=one[0] - zero_ns, end_ns=one[1] - zero_ns) for one in self._work)
        steps = [event.start_ns - zero_ns for event in self._hosts if _is_step(event)]
        begin_ns = min(steps or [calls[0].start_ns, *(one.start_ns for one in work[:1])])
        return calls, work, self._waits, begin_ns, bool(self._moving)

    def _calls(self) -> Iterator[Call]:
        """The collectives, in any order."""
        steps = sorted((event for event in self._hosts if _is_step(event)), key=lambda event: event.start_ns)
        begins = [step.start_ns for step in steps]
        optimizers = sorted((one.start_ns, one.end_ns) for one in self._hosts if one.name.startswith(_OPTIMIZER))
        threads = {event.thread for event in steps}

        def call(event: Event, source: Source, kind: str, args: Mapping[str, Any], kernels: Sequence[Event]) -> Call:
            begun = bisect_right(begins, event.start_ns)
            number = int(steps[begun - 1].name.removeprefix(_STEP)) if begun else 0
            phase = _phase(event, optimizers, threads) if source in ("record", "annotation") else "forward"
            times = min(one.start_ns for one in kernels), max(one.end_ns for one in kernels)
            took_ns = sum(one.end_ns - one.start_ns for one in kernels)
            about = str(kernels[0].thread), _number(kernels[0].args.get("correlation")), took_ns
            return Call(event.place, kind, source, args, *times, number, phase, *about)

        records = [event for event in self._hosts if event.name == RECORD and "Collective name" in event.args]
        left = {kernel.place: kernel for kernel in self._moving if not EXPERT.search(kernel.name)}
        by_id: dict[str, list[Event]] = defaultdict(list)
        for kernel in left.values():
            by_id[repr(kernel.args.get("External id"))].append(kernel)
        for event in records:
            name = str(event.args["Collective name"]).lower()
            if name not in SILENT:
                kernels = by_id.get(repr(event.args.get("External id")), [])
                for kernel in kernels:
                    left.pop(kernel.place, None)
                yield call(event, "record", OPERATIONS.get(name, name), event.args, kernels or [event])
        if not records:
            types: dict[tuple[str | None, int], str] = {}
            for one, kernels in self._by_shapes(list(left.values())):
                for kernel in kernels:
                    left.pop(kernel.place, None)
                args = arguments(one, types)
                event = one.event if one.operator is None else one.event._replace(thread=one.operator.thread)
                yield call(event, "annotation", kind_of(event) or args["Collective name"], args, kernels or [event])
        for kernel in left.values():
            yield call(kernel, "kernel", "nccl", {}, [kernel])
        yield from self._of_experts(call)

    def _of_experts(self, call: Callable[..., Call]) -> Iterator[Call]:
        """Calls of DeepEP, each with the wait for all ranks before it."""
        notify: dict[object, list[Event]] = defaultdict(list)
        for kernel in sorted(self._moving, key=lambda event: event.start_ns):
            match = EXPERT.search(kernel.name)
            if match is None:
                continue
            if "notify" in match[2]:
                notify[kernel.thread].append(kernel)
                continue
            before = notify.pop(kernel.thread, [])
            args = {"family": match[1]}
            one = call(kernel, "expert", "dispatch" if "dispatch" in match[2] else "combine", args, [kernel])
            begin_ns = min(event.start_ns for event in (*before, kernel))
            yield one._replace(start_ns=begin_ns, notify_ns=sum(event.end_ns - event.start_ns for event in before))
        for kernel in (kernel for of_stream in notify.values() for kernel in of_stream):
            yield call(kernel, "kernel", "notify", {}, [kernel])

    def _by_shapes(self, kernels: Sequence[Event]) -> list[tuple[ShapedCall, list[Event]]]:
        """Calls of older profiles, and the kernels that were launched in each, or else follow in its place."""
        calls = sorted(calls_by_shapes(self._hosts), key=lambda one: one.event.start_ns)
        around, of_call = Enclosing(one.event for one in calls), defaultdict[int, list[Event]](list)
        alone = []
        for kernel in kernels:
            thread, moment_ns = self._launches.get(_number(kernel.args.get("correlation")), (None, 0))
            enclosing = around.find(thread, moment_ns)
            if enclosing is None:
                alone.append(kernel)
            else:
                of_call[enclosing.place].append(kernel)
        silent = [one.event for one in calls if not of_call[one.event.place]]
        if len(silent) == len(alone):
            for event, kernel in zip(silent, sorted(alone, key=lambda event: event.start_ns), strict=True):
                of_call[event.place].append(kernel)
        return [(one, of_call[one.event.place]) for one in calls]


def _number(value: object) -> int:
    """An event's correlation, -1 if there is none."""
    return value if type(value) is int and 0 <= value < MOST else -1


def _is_step(event: Event) -> bool:
    number = event.name.removeprefix(_STEP)
    is_step = event.category == "user_annotation" and event.name.startswith(_STEP)
    return is_step and number.isascii() and number.isdecimal() and len(number) <= 9


def _phase(event: Event, optimizers: Sequence[tuple[int, int]], threads: set[object]) -> str:
    """Phase of an event: optimizer inside its annotation, backward on threads of autograd, else forward."""
    begun = bisect_right(optimizers, (event.start_ns, MOST))
    if begun and event.start_ns <= optimizers[begun - 1][1]:
        return "optimizer"
    return "backward" if threads and event.thread not in threads else "forward"
