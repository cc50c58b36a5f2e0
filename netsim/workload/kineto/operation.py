"""The arguments of a profiled call, read one by one, as an operation of a collective trace."""

from math import gcd, prod
from typing import Any

import numpy as np

from netsim.foundation.lines import MOST
from netsim.foundation.refusal import Refusal
from netsim.foundation.units import split_bytes
from netsim.workload.kineto.peers import Groups, Operation
from netsim.workload.kineto.profile import Call, Group, Profile
from netsim.workload.kineto.schemas import OPERATIONS, listed_shapes

_BYTES = {"double": 8, "float": 4, "half": 2, "bfloat16": 2, "long": 8, "int": 4, "short": 2, "char": 1, "byte": 1}
_BYTES |= {"bool": 1, "complexfloat": 8, "complexdouble": 16, "int64": 8, "int32": 4, "uint64": 8, "uint32": 4}
_FLOAT8 = "float8_"
_MOST_DIGITS = 18
MOST_LISTED = 30
"""Entries after which the profiler truncates a list."""
_WIDEST = 1 << 20
"""Most elements of a row if its width is derived from numbers of elements."""


class Arguments:
    """The arguments of a call of a record or an annotation."""

    def __init__(self, profile: Profile, call: Call, groups: Groups) -> None:
        self._profile, self._call, self._args, self._groups = profile, call, call.args, groups
        self._by_shapes = call.source == "annotation"

    def refuse(self, name: str, problem: str, remedy: str = "profile the run again") -> Refusal:
        """The error that names the event and the argument."""
        return Refusal(self._profile.path, f"traceEvents.{self._call.place}.args.{name}", problem, remedy)

    def operation(self) -> Operation:
        """The call as an operation of a collective trace."""
        name = str(self._args["Collective name"])
        op = OPERATIONS.get(name.lower())
        if op is None:
            problem = f"is not a collective that can be simulated ({name!r:.40})"
            raise self.refuse("Collective name", problem, f"use {', '.join(sorted(set(OPERATIONS.values())))}")
        group, ranks = self._group()
        dtype = str(self._args.get("dtype", ""))
        width = 0 if op == "barrier" else self._width(dtype)
        elements_in, elements_out = self._elements(op, len(ranks)) if width else (0, 0)
        in_splits = out_splits = root = peer = None
        assumed = False
        match op:
            case "all_to_all":
                row = self._row((elements_in, elements_out), len(ranks))
                in_splits = self._splits("In split size", elements_in, width, len(ranks), row)
                out_splits = self._splits("Out split size", elements_out, width, len(ranks), row)
                assumed = row is not None
            case "all_reduce":
                elements_out = elements_in
            case "broadcast":
                root = self._place("Rank", ranks)
                elements_out = max(elements_in, elements_out)
                elements_in = elements_out if root == self._profile.rank else 0
            case "send" | "recv":
                end = "Dst Rank" if op == "send" else "Src Rank"
                peer = self._place(end, ranks) if self._by_shapes else self._whole(end)
                size = max(elements_in, elements_out)
                elements_in, elements_out = (size, 0) if op == "send" else (0, size)
        sizes = width * elements_in, width * elements_out
        if max(sizes) >= MOST:
            raise self.refuse("In msg nelems", f"is too large ({max(elements_in, elements_out)})")
        return Operation(op, group, ranks, dtype.lower(), *sizes, in_splits, out_splits, root, peer, assumed)

    def _elements(self, op: str, ranks: int) -> tuple[int, int]:
        """Elements of contribution and result; the latter follows where shapes give the former alone."""
        if "Input Dims" in self._args and self._by_shapes:
            problem = f"has no shapes ({self._args['Input Dims']!r:.40})"
            raise self.refuse("Input Dims", problem, "profile the run with record_shapes=True")
        given = self._whole("In msg nelems")
        if self._by_shapes and "Out msg nelems" not in self._args:
            return given, given * ranks if op == "all_gather" else given // ranks if op == "reduce_scatter" else given
        return given, self._whole("Out msg nelems")

    def _width(self, dtype: str) -> int:
        width = 1 if dtype.lower().startswith(_FLOAT8) else _BYTES.get(dtype.lower())
        if width is None:
            raise self.refuse("dtype", f"is unknown ({dtype!r:.40})", f"use {', '.join(_BYTES)}")
        return width

    def _whole(self, name: str) -> int:
        value = self._args.get(name)
        if type(value) is not int or not 0 <= value < MOST:
            raise self.refuse(name, "is missing" if value is None else f"is not a whole number ({value!s:.40})")
        return value

    def _place(self, name: str, ranks: tuple[int, ...]) -> int:
        """The rank whose place in the group is the argument `name`."""
        place = self._whole(name)
        if place >= len(ranks):
            raise self.refuse(name, f"is not a place in a group of {len(ranks)} ({place})")
        return ranks[place]

    def _listed(self, name: str) -> tuple[tuple[int, ...], bool]:
        """Numbers of a list that is written as text, and whether the profiler has truncated it."""
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

    def _splits(self, name: str, elements: int, width: int, size: int, row: int | None) -> tuple[int, ...]:
        """Bytes for each member; the profile has rows of the tensor's first dimension, or nothing if they are even.

        The members behind a list that is cut off get equal parts of the rest, in rows of so many elements.
        """
        rows, cut_off = self._listed(name)
        if cut_off and row is not None:
            rest, part = divmod(elements - row * sum(rows), row)
            if len(rows) >= size or rest < 0 or part:
                problem = f"is cut off behind {len(rows)} of {size} ranks with {sum(rows)} rows of {row} elements"
                raise self.refuse(name, f"{problem}, which contradicts {elements} elements")
            rows = (*rows, *split_bytes(rest, size - len(rows)))
        rows = rows or (1,) * size
        whole = sum(rows)
        if len(rows) != size or (elements and (not whole or elements % whole)):
            raise self.refuse(name, f"does not cut {elements} elements for {size} ranks ({list(rows)!r:.40})")
        return tuple(width * (elements // whole if whole else 0) * part for part in rows)

    def _row(self, elements: tuple[int, int], size: int) -> int | None:
        """Elements of a row where a list of splits is cut off, else None.

        By the shape of what is sent, or the divisor of both numbers of elements by which the members behind the lists
        get nearest to as much as those before.
        """
        lists = [self._listed(name) for name in ("In split size", "Out split size")]
        if not any(cut_off for _, cut_off in lists):
            return None
        shape = next(iter(listed_shapes(self._args.get("Input Dims"))), ())
        if elements[0] and prod(shape) == elements[0]:
            return prod(shape[1:])
        sums, ranks = [sum(rows) for rows, _ in lists], max(len(rows) for rows, _ in lists)
        if not any(sums):
            return 1
        most = min(whole // total for whole, total in zip(elements, sums, strict=True) if total)
        widths = np.arange(1, min(max(most, 1), _WIDEST) + 1)
        widths = widths[gcd(*elements) % widths == 0]
        even = max(sum(elements), 1) * ranks / (sum(sums) * size)
        return int(widths[np.abs(np.log(widths / even)).argmin()])

    def _group(self) -> tuple[str, tuple[int, ...]]:
        """Name and ranks of the group: from the call, the file's header, start and stride, or the user's groups."""
        name = str(self._args.get("Process Group Name", ""))
        listed, cut_off = self._listed("Process Group Ranks")
        ranks: Group = None if cut_off else listed
        if not ranks:
            ranks = self._profile.groups.get(name)
        start, stride, size = (self._number(key) for key in ("Global rank start", "Global rank stride", "Group size"))
        if size is not None and not 0 < size <= self._profile.world_size:
            raise self.refuse("Group size", f"is not in 1 to {self._profile.world_size} ({size})")
        if not ranks and start is not None and stride is not None and size is not None:
            ranks = tuple(start + stride * place for place in range(size))
        if not ranks:
            splits, cut_off = self._listed("In split size")
            size = size or (None if cut_off else len(splits) or None)
            try:
                name, ranks = self._groups.find(name, size, self._profile.rank)
            except ValueError as error:
                raise self.refuse("Process Group Ranks", str(error), "give --group NAME=SIZExSTRIDE") from None
        distinct = len(set(ranks)) == len(ranks) and min(ranks) >= 0 and max(ranks) < self._profile.world_size
        if not distinct or self._profile.rank not in ranks:
            problem = f"does not list distinct ranks with {self._profile.rank} among them ({list(ranks)!r:.40})"
            raise self.refuse("Process Group Ranks", problem)
        return name, ranks

    def _number(self, name: str) -> int | None:
        value: Any = self._args.get(name)
        return value if type(value) is int else None
