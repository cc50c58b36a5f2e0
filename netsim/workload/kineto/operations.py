"""What the arguments of a profiled collective say: operation, group and bytes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from netsim.documents import MOST
from netsim.foundation.refusal import Refusal
from netsim.workload.kineto.profile import Call, Group, Profile

_OPERATIONS = {
    "allreduce": "all_reduce",
    "all_reduce": "all_reduce",
    "allreduce_coalesced": "all_reduce",
    "all_gather": "all_gather",
    "allgather": "all_gather",
    "_allgather_base": "all_gather",
    "allgather_base": "all_gather",
    "allgather_into_tensor_coalesced": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "_reduce_scatter_base": "reduce_scatter",
    "reduce_scatter_base": "reduce_scatter",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
    "all_to_all": "all_to_all",
    "alltoall": "all_to_all",
    "all_to_allv": "all_to_all",
    "alltoallv": "all_to_all",
    "broadcast": "broadcast",
    "_broadcast_oop": "broadcast",
    "send": "send",
    "recv": "recv",
    "barrier": "barrier",
}
"""By the names that ProcessGroupNCCL gives, and those that other back ends of torch give."""
_BYTES = {"double": 8, "float": 4, "half": 2, "bfloat16": 2, "long": 8, "int": 4, "short": 2, "char": 1, "byte": 1}
_BYTES |= {"bool": 1, "complexfloat": 8, "complexdouble": 16, "int64": 8, "int32": 4, "uint64": 8, "uint32": 4}
_FLOAT8 = "float8_"
_MOST_DIGITS = 18


class Operation(NamedTuple):
    """A call in the terms of a collective trace; `root` and `peer` are global ranks.

    The rank contributes `bytes_in` and then holds `bytes_out`. Splits are bytes to and from each member, None but for
    all_to_all.
    """

    op: str
    group: str
    ranks: tuple[int, ...]
    dtype: str
    bytes_in: int
    bytes_out: int
    in_splits: tuple[int, ...] | None
    out_splits: tuple[int, ...] | None
    root: int | None
    peer: int | None


class Arguments:
    """The arguments of a call, read one by one."""

    def __init__(self, profile: Profile, call: Call) -> None:
        self._profile, self._place = profile, call.place
        self._args: Mapping[str, Any] = call.args

    def refuse(self, name: str, problem: str, remedy: str = "profile the run again") -> Refusal:
        """The error that names the event and the argument."""
        return Refusal(self._profile.path, f"traceEvents.{self._place}.args.{name}", problem, remedy)

    def operation(self) -> Operation:
        """What the call does."""
        name = str(self._args["Collective name"])
        op = _OPERATIONS.get(name.lower())
        if op is None:
            problem = f"is not a collective that can be simulated ({name!r:.40})"
            raise self.refuse("Collective name", problem, f"use {', '.join(sorted(set(_OPERATIONS.values())))}")
        group, ranks = self._group()
        dtype = str(self._args.get("dtype", ""))
        width = 0 if op == "barrier" else self._width(dtype)
        elements_in, elements_out = (self._whole(name) if width else 0 for name in ("In msg nelems", "Out msg nelems"))
        in_splits = out_splits = root = peer = None
        match op:
            case "all_to_all":
                in_splits = self._splits("In split size", elements_in, width, len(ranks))
                out_splits = self._splits("Out split size", elements_out, width, len(ranks))
            case "all_reduce":
                elements_out = elements_in
            case "broadcast":
                place = self._whole("Rank")
                if place >= len(ranks):
                    raise self.refuse("Rank", f"is not a place in a group of {len(ranks)} ({place})")
                root = ranks[place]
                elements_out = max(elements_in, elements_out)
                elements_in = elements_out if root == self._profile.rank else 0
            case "send" | "recv":
                peer = self._whole("Dst Rank" if op == "send" else "Src Rank")
                size = max(elements_in, elements_out)
                elements_in, elements_out = (size, 0) if op == "send" else (0, size)
        sizes = width * elements_in, width * elements_out
        if max(sizes) >= MOST:
            raise self.refuse("In msg nelems", f"is too large ({max(elements_in, elements_out)})")
        return Operation(op, group, ranks, dtype.lower(), *sizes, in_splits, out_splits, root, peer)

    def _width(self, dtype: str) -> int:
        width = 1 if dtype.lower().startswith(_FLOAT8) else _BYTES.get(dtype.lower())
        if width is None:
            raise self.refuse("dtype", f"is unknown ({dtype!r:.40})", f"use {', '.join(_BYTES)}")
        return width

    def _whole(self, name: str) -> int:
        value = self._args.get(name)
        if type(value) is not int or not 0 <= value < MOST:
            raise self.refuse(name, "is missing" if value is None else f"is not a whole number ({value!r:.40})")
        return value

    def _listed(self, name: str) -> tuple[tuple[int, ...], bool]:
        """Numbers in a list that is written as text, and whether the profiler has cut it off."""
        value = self._args.get(name, "[]")
        text = str(value) if isinstance(value, list) else value
        if not isinstance(text, str) or not (text.startswith("[") and text.endswith("]")):
            raise self.refuse(name, f"is not a list of numbers ({value!r:.40})")
        parts = [part.strip() for part in text[1:-1].split(",") if part.strip()]
        cut_off = parts[-1:] == ["..."]
        numbers = parts[:-1] if cut_off else parts
        if not all(part.isascii() and part.isdecimal() and len(part) <= _MOST_DIGITS for part in numbers):
            raise self.refuse(name, f"is not a list of numbers ({value!r:.40})")
        return tuple(map(int, numbers)), cut_off

    def _splits(self, name: str, elements: int, width: int, size: int) -> tuple[int, ...]:
        """Bytes for each member; the profile has rows of the tensor's first dimension, or nothing if they are even."""
        rows, cut_off = self._listed(name)
        if cut_off:
            remedy = "record a collective trace instead, or profile groups of at most 30 ranks"
            raise self.refuse(name, "is cut off by the profiler, which keeps 30 entries", remedy)
        rows = rows or (1,) * size
        whole = sum(rows)
        if len(rows) != size or (elements and (not whole or elements % whole)):
            raise self.refuse(name, f"does not cut {elements} elements for {size} ranks ({list(rows)!r:.40})")
        return tuple(width * (elements // whole if whole else 0) * part for part in rows)

    def _group(self) -> tuple[str, tuple[int, ...]]:
        """Name and ranks of the process group, from the call, from the file's header, or by start and stride."""
        name = str(self._args.get("Process Group Name", ""))
        listed, cut_off = self._listed("Process Group Ranks")
        ranks: Group = None if cut_off else listed
        if not ranks:
            ranks = self._profile.groups.get(name)
        start, stride, size = (self._args.get(key) for key in ("Global rank start", "Global rank stride", "Group size"))
        if not ranks and type(start) is int and type(stride) is int and type(size) is int:
            if not 0 < size <= self._profile.world_size:
                raise self.refuse("Group size", f"is not in 1 to {self._profile.world_size} ({size})")
            ranks = tuple(start + stride * place for place in range(size))
        if not ranks:
            raise self.refuse("Process Group Ranks", f"are unknown (group {name!r:.40})")
        distinct = len(set(ranks)) == len(ranks) and min(ranks) >= 0 and max(ranks) < self._profile.world_size
        if not distinct or self._profile.rank not in ranks:
            problem = f"does not list distinct ranks with {self._profile.rank} among them ({list(ranks)!r:.40})"
            raise self.refuse("Process Group Ranks", problem)
        return name, ranks
