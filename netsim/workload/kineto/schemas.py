"""The arguments of a profiled collective in the terms of today's torch, whichever version has written them.

Today an event ``record_param_comms`` names collective, elements, dtype, splits and group (pytorch,
torch/csrc/profiler/util.cpp, saveNcclMeta). Up to torch 2.1, and with gloo, a call has an annotation ``nccl:NAME``
around it instead, with the shapes of what it takes, inside an operator ``c10d::NAME`` with those of its result.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

RECORD = "record_param_comms"
ANNOTATIONS = ("nccl:", "gloo:")
OPERATORS = "c10d::"
SILENT = ("wait", "init", "startcoalescing", "endcoalescing")
"""Names of records without traffic."""
EXPERT = re.compile(r"\b(internode|internode_ll|intranode|hybrid_ep)::(\w*?(?:notify|dispatch|combine)\w*)")
"""Kernels of DeepEP and HybridEP, by family and name."""

_NAMES = {
    "all_reduce": ("allreduce", "all_reduce", "allreduce_coalesced"),
    "all_gather": (
        *("all_gather", "allgather", "_allgather_base", "_all_gather_base", "allgather_base"),
        "allgather_into_tensor_coalesced",
    ),
    "reduce_scatter": (
        "reduce_scatter",
        "_reduce_scatter_base",
        "reduce_scatter_base",
        "reduce_scatter_tensor_coalesced",
    ),
    "all_to_all": ("all_to_all", "alltoall", "all_to_allv", "alltoallv", "alltoall_base"),
    "broadcast": ("broadcast", "_broadcast_oop"),
    "send": ("send",),
    "recv": ("recv",),
    "barrier": ("barrier", "all_reduce_barrier"),
}
"""Names that ProcessGroupNCCL gives, and those that other back ends of torch give."""
OPERATIONS = {name: op for op, names in _NAMES.items() for name in names}
_TYPES = {"c10::half": "half", "c10::bfloat16": "bfloat16", "long int": "long", "short int": "short"}
_TYPES |= {"unsigned char": "byte", "signed char": "char"}
_POINTS = {"->": "Dst Rank", "<-": "Src Rank"}


class Event(NamedTuple):
    """An event with a duration, in nanoseconds; `place` is its number in the file."""

    place: int
    name: str
    category: str
    thread: object
    start_ns: int
    end_ns: int
    args: Mapping[str, Any]


class Enclosing:
    """Finds the event of a thread in which a moment lies; events of a thread do not overlap."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events: dict[object, list[Event]] = defaultdict(list)
        for event in sorted(events, key=lambda event: event.start_ns):
            self._events[event.thread].append(event)

    def find(self, thread: object, moment_ns: int) -> Event | None:
        """The event of a thread in which a moment lies; None without one."""
        events = self._events.get(thread, [])
        begun = bisect_right(events, moment_ns, key=lambda event: event.start_ns)
        return events[begun - 1] if begun and moment_ns <= events[begun - 1].end_ns else None


class ShapedCall(NamedTuple):
    """A call of an older profile: its annotation and the operator that made it, of which one may be missing."""

    annotation: Event | None
    operator: Event | None

    @property
    def event(self) -> Event:
        """The event with the call's times: the annotation, or else the operator."""
        source = self.annotation or self.operator
        assert source is not None, "one of the two"
        return source


def calls_by_shapes(hosts: Iterable[Event]) -> list[ShapedCall]:
    """The calls of an older profile.

    An operator encloses its annotation, or, where a thread of the back end carries it out, as with gloo, comes before
    it and after all others of its kind. Gloo's profiles lack some annotations.
    """
    annotations = [event for event in hosts if event.name.startswith(ANNOTATIONS) and _has_sizes(event)]
    operators = [event for event in hosts if event.name.startswith(OPERATORS) and "Input Dims" in event.args]
    enclosing, of_operator = Enclosing(operators), dict[int, Event]()
    by_kind: dict[str | None, list[Event]] = defaultdict(list)
    for event in sorted(operators, key=lambda event: event.start_ns):
        by_kind[kind_of(event)].append(event)
    alone = []
    for event in sorted(annotations, key=lambda event: event.start_ns):
        operator = enclosing.find(event.thread, event.start_ns)
        if operator is None:
            before = by_kind[kind_of(event)]
            begun = bisect_right(before, event.start_ns, key=lambda event: event.start_ns)
            operator = before[begun - 1] if begun else None
        if operator is None or operator.place in of_operator:
            alone.append(ShapedCall(event, None))
        else:
            of_operator[operator.place] = event
    lossy = any(event.name.startswith(ANNOTATIONS[1]) for event in annotations)
    kept = [event for event in operators if event.place in of_operator or (lossy and kind_of(event) is not None)]
    return alone + [ShapedCall(of_operator.get(event.place), event) for event in kept]


def kind_of(event: Event) -> str | None:
    """The operation that an annotation or an operator stands for; None: another one."""
    return OPERATIONS.get(_name(event).lower())


def _name(event: Event) -> str:
    name = event.name.removeprefix(OPERATORS) if event.name.startswith(OPERATORS) else event.name.partition(":")[2]
    return (name.split() or [""])[0].removesuffix("_" if event.name.startswith(OPERATORS) else "")


def _has_sizes(annotation: Event) -> bool:
    return "Input Dims" in annotation.args or annotation.name.endswith("barrier")


def arguments(shaped: ShapedCall, types: dict[tuple[str | None, int], str]) -> dict[str, Any]:
    """The arguments of a call as today's torch writes them, from shapes.

    What the shapes leave open is absent: the result's elements, splits (even), a group's name and ranks. Ranks are
    places in the group. `types` keeps those of calls by operation and elements, for operators that do not say theirs.
    """
    event, operator = shaped
    op = kind_of(shaped.event)
    dims, listed = _taken(event or shaped.event, op)
    shapes = listed_shapes(dims)
    elements = sum(map(prod, shapes))
    dtype = str(listed).lower()
    if dtype == "tensorlist":
        dtype = types.get((op, elements), "float")
    types[op, elements] = dtype
    args: dict[str, Any] = {"Collective name": _name(shaped.event), "dtype": _TYPES.get(dtype, dtype)}
    args |= {"In msg nelems": elements} if shapes else {"Input Dims": dims}
    if op == "all_to_all" and len(shapes) > 1:
        args |= {"In split size": [prod(shape) for shape in shapes], "Group size": len(shapes)}
    for sign, key in _POINTS.items():
        if event is not None and sign in event.name:
            args[key] = _whole(event.name.partition(sign)[2])
    if operator is None:
        return args
    given = operator.args.get("Concrete Inputs")
    concrete = [*given, *[""] * 5] if isinstance(given, list) else [""] * 5
    if "_base" in operator.name:
        results = listed_shapes(operator.args.get("Input Dims"))
        whole = prod(results[0]) if results else 0
        args["Out msg nelems"] = whole
        larger, smaller = max(whole, elements), min(whole, elements)
        if op in ("all_gather", "reduce_scatter") and smaller and larger % smaller == 0:
            args["Group size"] = larger // smaller
        if op == "all_to_all":
            args |= {"Out split size": str(concrete[3]) or "[]", "In split size": str(concrete[4]) or "[]"}
    if op in ("send", "recv", "broadcast"):
        key = {"send": "Dst Rank", "recv": "Src Rank", "broadcast": "Rank"}[op]
        args.setdefault(key, _whole(concrete[2]))
    return args


def _taken(event: Event, op: str | None) -> tuple[object, object]:
    """Shapes and type of a call's inputs: all that an annotation has, or an operator's argument."""
    dims, types = event.args.get("Input Dims"), event.args.get("Input type")
    types = types if isinstance(types, list) else []
    if not event.name.startswith(OPERATORS):
        return dims, next(iter(types), "")
    place = 1 if op in ("all_gather", "reduce_scatter", "all_to_all") else 0
    taken = dims[place : place + 1] if isinstance(dims, list) else dims
    return taken, next(iter(types[place : place + 1]), "")


def _whole(text: object) -> int | None:
    return int(str(text)) if str(text).isascii() and str(text).isdecimal() and len(str(text)) < 10 else None


def listed_shapes(listed: object) -> list[Sequence[int]]:
    """The shapes of tensors, [] of a number; those of an argument of several tensors stand in a list of their own."""
    shapes: list[Sequence[int]] = []
    for shape in listed if isinstance(listed, list) else ():
        if not isinstance(shape, list):
            continue
        if any(isinstance(inner, list) for inner in shape):
            shapes += listed_shapes(shape)
        elif all(type(length) is int and length >= 0 for length in shape):
            shapes.append(shape)
    return shapes
