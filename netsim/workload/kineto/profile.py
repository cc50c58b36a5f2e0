"""One rank's profile: its place in the run, its process groups, and the collectives on its timeline.

torch.profiler writes Chrome's trace format. Operations of NCCL are events ``record_param_comms`` whose args name the
collective, its elements and its group (pytorch, torch/csrc/profiler/util.cpp, saveNcclMeta); the kernels that carry
them out have the same External id, and so their times (libkineto, output_json.cpp). Profiles of gloo have no such args.
"""

import gzip
import zlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from netsim.documents import MOST
from netsim.foundation.documents import parse_json
from netsim.foundation.refusal import Refusal

RECORD = "record_param_comms"
_STEP, _OPTIMIZER = "ProfilerStep#", "Optimizer.step#"
_SILENT = ("wait", "init", "startcoalescing", "endcoalescing")
"""Names of records that move nothing."""
_MOST_BYTES = 2 << 30
_PS_PER_US = 10**6
_REMEDY = "profile all ranks again, with the process group initialised and the same steps on all"

Group = tuple[int, ...] | None
"""Ranks of a group; None: the file does not list them."""


class Call(NamedTuple):
    """A collective as one rank called it; `place` is that of its event in the file.

    Times are those of its kernel, or of the call where there is none, since the first event of the file.
    """

    place: int
    args: Mapping[str, Any]
    start_ns: int
    end_ns: int
    step: int
    phase: str


class Profile(NamedTuple):
    """The profile of a rank; host "" if unknown, calls in the order of their starts.

    `begin_ns` is the begin of its first step, or of the first collective if there are no steps.
    """

    path: Path
    rank: int
    world_size: int
    host: str
    groups: Mapping[str, Group]
    calls: Sequence[Call]
    begin_ns: int
    has_kernels: bool


class _Event(NamedTuple):
    """An event with a duration, in nanoseconds since the first event of the file."""

    place: int
    name: str
    category: str
    thread: object
    start_ns: int
    end_ns: int
    args: Mapping[str, Any]


def read_profile(path: Path) -> Profile:
    """Reads the profile of a rank, ``.json`` or ``.json.gz``."""
    content = _content(path)
    about = content.get("distributedInfo")
    if not isinstance(about, dict):
        raise Refusal(path, "distributedInfo", "is missing: the rank is unknown", _REMEDY)
    world_size = _whole(path, "distributedInfo.world_size", about.get("world_size"))
    rank = _whole(path, "distributedInfo.rank", about.get("rank"))
    if rank >= world_size:
        raise Refusal(path, "distributedInfo.rank", f"is not below world_size ({rank}, of {world_size})", _REMEDY)
    events = _events(path, content.get("traceEvents"))
    calls, begin_ns, has_kernels = _calls(path, events)
    host = content.get("host_name")
    known = host if isinstance(host, str) else ""
    return Profile(path, rank, world_size, known, _groups(about.get("pg_config")), calls, begin_ns, has_kernels)


def _content(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as file:
                data = file.read(_MOST_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise Refusal(path, "file", "is not compressed by gzip, or cut off", _REMEDY) from None
    except OSError as error:
        raise Refusal(path, "file", f"cannot be read ({error.strerror})", "give files that can be read") from None
    if len(data) > _MOST_BYTES:
        raise Refusal(path, "file", f"has more than {_MOST_BYTES >> 30} GiB", "profile fewer steps")
    try:
        content = parse_json(data.decode("utf-8"))
    except ValueError:
        raise Refusal(path, "file", "is not JSON, or cut off", _REMEDY) from None
    if not isinstance(content, dict):
        raise Refusal(path, "file", "is not a profile of torch.profiler", "write it with export_chrome_trace")
    return content


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


def _events(path: Path, listed: object) -> list[_Event]:
    """Events with a duration."""
    if not isinstance(listed, list):
        raise Refusal(path, "traceEvents", "is missing", "write the profile with export_chrome_trace")
    timed: list[tuple[int, dict[str, Any], float, float]] = []
    for place, event in enumerate(listed):
        if isinstance(event, dict) and event.get("ph") == "X" and isinstance(event.get("name"), str):
            timed.append((place, event, *_times_us(path, place, event)))
    first_us = min((begin for *_, begin, _ in timed), default=0.0)
    events = []
    for place, event, begin, length in timed:
        args, thread = event.get("args"), (event.get("pid"), event.get("tid"))
        if begin - first_us + length >= MOST / _PS_PER_US:
            raise Refusal(path, f"traceEvents.{place}.dur", f"ends too late ({length} us)", _REMEDY)
        start_ns = round(1000 * (begin - first_us))
        about = event["name"], str(event.get("cat", "")), repr(thread)
        known = args if isinstance(args, dict) else {}
        events.append(_Event(place, *about, start_ns, start_ns + round(1000 * length), known))
    return events


def _times_us(path: Path, place: int, event: Mapping[str, Any]) -> tuple[float, float]:
    """Start and duration of an event."""
    for name in ("ts", "dur"):
        value = event.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < MOST:
            problem = f"is no time in microseconds ({value!r:.40})"
            raise Refusal(path, f"traceEvents.{place}.{name}", problem, _REMEDY)
    return float(event["ts"]), float(event["dur"])


def _calls(path: Path, events: Sequence[_Event]) -> tuple[list[Call], int, bool]:
    """Collectives in the order of their starts, the begin of the first step, and whether kernels give their times."""
    records = [event for event in events if event.name == RECORD and "Collective name" in event.args]
    records = [event for event in records if str(event.args["Collective name"]).lower() not in _SILENT]
    if not records:
        problem = f"has no collectives with their sizes (events {RECORD} with Collective name)"
        raise Refusal(path, "traceEvents", problem, "profile a run on NCCL; profiles of gloo do not say them")
    kernels: dict[object, list[_Event]] = defaultdict(list)
    for event in events:
        if event.category == "kernel" and event.name.startswith("nccl"):
            kernels[repr(event.args.get("External id"))].append(event)
    steps = sorted((event for event in events if _is_step(event)), key=lambda event: event.start_ns)
    begins = [step.start_ns for step in steps]
    optimizers = sorted((event.start_ns, event.end_ns) for event in events if event.name.startswith(_OPTIMIZER))
    threads = {event.thread for event in steps}
    calls = []
    for event in records:
        of_it = kernels.get(repr(event.args.get("External id")), [event])
        begun = bisect_right(begins, event.start_ns)
        number = int(steps[begun - 1].name.removeprefix(_STEP)) if begun else 0
        start_ns, end_ns = min(one.start_ns for one in of_it), max(one.end_ns for one in of_it)
        phase = _phase(event, optimizers, threads)
        calls.append(Call(event.place, event.args, start_ns, end_ns, number, phase))
    calls.sort(key=lambda call: (call.start_ns, call.place))
    return calls, steps[0].start_ns if steps else calls[0].start_ns, bool(kernels)


def _is_step(event: _Event) -> bool:
    number = event.name.removeprefix(_STEP)
    is_step = event.category == "user_annotation" and event.name.startswith(_STEP)
    return is_step and number.isascii() and number.isdecimal() and len(number) <= 9


def _phase(event: _Event, optimizers: Sequence[tuple[int, int]], threads: set[object]) -> str:
    """The optimizer's annotation says what is its own; autograd has threads of its own."""
    begun = bisect_right(optimizers, (event.start_ns, MOST))
    if begun and event.start_ns <= optimizers[begun - 1][1]:
        return "optimizer"
    return "backward" if threads and event.thread not in threads else "forward"
