"""What profiles say of a collective, in the terms of today's torch, whichever version has written them.

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
"""Names of records that move nothing."""
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
        """The event, or None."""
        events = self._events.get(thread, [])
        begun = bisect_right(events, moment_ns, key=lambda event: event.start_ns)
        return events[begun - 1] if begun and moment_ns <= events[begun - 1].end_ns else None


def told_by_annotation(annotation: Event, operator: Event | None) -> dict[str, Any]:
    """The arguments of a call as today's torch writes them, from the shapes of an older one.

    What the shapes leave open is absent: the result's elements, splits (even), a group's name and ranks. Ranks are
    places in the group.
    """
    name, *points = annotation.name.partition(":")[2].split()
    shapes = _shapes(annotation.args.get("Input Dims"))
    types = annotation.args.get("Input type")
    dtype = str(types[0]).lower() if isinstance(types, list) and types else ""
    elements = sum(map(prod, shapes))
    args: dict[str, Any] = {"Collective name": name, "dtype": _TYPES.get(dtype, dtype)}
    args |= {"In msg nelems": elements} if shapes else {"Input Dims": annotation.args.get("Input Dims")}
    op = OPERATIONS.get(name.lower())
    if op == "all_to_all" and len(shapes) > 1:
        args |= {"In split size": [prod(shape) for shape in shapes], "Group size": len(shapes)}
    for sign, key in _POINTS.items():
        if points and sign in points[0]:
            args[key] = _whole(points[0].partition(sign)[2])
    if operator is None:
        return args
    given = operator.args.get("Concrete Inputs")
    concrete = [*given, *[""] * 5] if isinstance(given, list) else [""] * 5
    if "_base" in operator.name:
        whole = sum(map(prod, _shapes(operator.args.get("Input Dims"))[:1]))
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


def _whole(text: object) -> int | None:
    return int(str(text)) if str(text).isascii() and str(text).isdecimal() and len(str(text)) < 10 else None


def _shapes(listed: object) -> list[Sequence[int]]:
    """The shapes of tensors, which stand in a list of their own where an argument is a list of tensors."""
    shapes: list[Sequence[int]] = []
    for shape in listed if isinstance(listed, list) else ():
        if not isinstance(shape, list):
            continue
        if any(isinstance(inner, list) for inner in shape):
            shapes += _shapes(shape)
        elif shape and all(type(length) is int and length >= 0 for length in shape):
            shapes.append(shape)
    return shapes
