"""Ranks without a profile: copies of a rank with a profile, each at its own place in its own groups."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from netsim.foundation.refusal import Refusal

_SPEC = re.compile(r"([\w.@-]{1,40})=([0-9]{1,7})(?:x([0-9]{1,7}))?")
_DEFAULT = "default"


class Operation(NamedTuple):
    """A call in the terms of a collective trace; `root` and `peer` are global ranks.

    The rank contributes `bytes_in` and then holds `bytes_out`. Splits are bytes to and from each member, None but for
    all_to_all; `assumed` if a profile does not list all of them.
    """

    op: str
    group: str
    ranks: tuple[int, ...]
    dtype: str
    bytes_in: int
    bytes_out: int
    in_splits: tuple[int, ...] | None = None
    out_splits: tuple[int, ...] | None = None
    root: int | None = None
    peer: int | None = None
    assumed: bool = False


class Shape(NamedTuple):
    """Groups of `size` ranks at a distance of `stride`."""

    size: int
    stride: int

    def ranks(self, rank: int) -> tuple[int, ...]:
        """The group of a rank."""
        block = self.size * self.stride
        first = rank // block * block + rank % self.stride
        return tuple(range(first, first + block, self.stride))


class Groups:
    """Process groups of which the profiles do not list the ranks.

    Args:
        world_size: Number of ranks.
        given: Groups such as expert=64x1: name, size and stride, which is 1 if absent.

    A call takes the group of its name, or else of its size. One that names neither takes the group ``default``, or all
    ranks. Without a group of that size its ranks are assumed to be consecutive.
    """

    def __init__(self, world_size: int, given: Sequence[str]) -> None:
        self._world_size = world_size
        self._given = dict(self._read(text) for text in given)
        self.assumed: set[int] = set()
        """Sizes of groups that were taken to be of ranks that follow each other."""

    def _read(self, text: str) -> tuple[str, Shape]:
        match = _SPEC.fullmatch(text)
        if match is None:
            raise Refusal("command line", "--group", f"is no group ({text:.60})", "write NAME=SIZExSTRIDE: expert=64x1")
        shape = Shape(int(match[2]), int(match[3] or 1))
        if not shape.size * shape.stride or self._world_size % (shape.size * shape.stride):
            problem = f"{text} does not divide {self._world_size} ranks"
            raise Refusal("command line", "--group", problem, "write a size and a stride whose product does")
        return match[1], shape

    def find(self, name: str, size: int | None, rank: int) -> tuple[str, tuple[int, ...]]:
        """Name and ranks of the group of a rank; ValueError if there is none of that size."""
        everyone = Shape(self._world_size, 1)
        named = {name: self._given[name]} if name in self._given else self._given
        fitting = {key: shape for key, shape in named.items() if size in (None, shape.size)}
        if size is None and name not in self._given:
            fitting = {_DEFAULT: self._given[_DEFAULT]} if _DEFAULT in self._given else {name: everyone}
        if fitting:
            chosen, shape = next(iter(fitting.items()))
            return name or chosen, shape.ranks(rank)
        if size is None or self._world_size % size:
            raise ValueError(f"are unknown (of a group of {size} ranks, which does not divide {self._world_size})")
        if size < self._world_size:
            self.assumed.add(size)
        return name, Shape(size, 1).ranks(rank)


def copied(operation: Operation, source: int, rank: int, where: str) -> Operation:
    """The operation of rank `source` as rank `rank` carries it out, with peers and splits shifted.

    Raises:
        Refusal: The ranks of the group have no regular distance, so that those of the copy's are unknown.
    """
    ranks, size = operation.ranks, len(operation.ranks)
    shape = Shape(size, ranks[1] - ranks[0] if size > 1 else 1)
    if shape.stride < 1 or shape.ranks(source) != ranks:
        problem = f"has ranks at no regular distance ({list(ranks)!r:.40}), so that those of rank {rank} are unknown"
        raise Refusal(where, f"group {operation.group}", problem, "give the profiles of all ranks")
    own = shape.ranks(rank)
    turn = own.index(rank) - ranks.index(source)
    changes: dict[str, object] = {"ranks": own}
    if operation.root is not None:
        changes["root"] = own[ranks.index(operation.root)]
        changes["bytes_in"] = operation.bytes_out if changes["root"] == rank else 0
    if operation.peer is not None:
        changes["peer"] = own[(ranks.index(operation.peer) + turn) % size]
    if operation.in_splits is not None:
        changes["assumed"] = True
        changes["in_splits"] = tuple(operation.in_splits[(place - turn) % size] for place in range(size))
    return operation._replace(**changes)


def agreed(operations: Sequence[Sequence[Operation]]) -> list[list[Operation]]:
    """The operations of all ranks. In all-to-alls with assumed splits each rank receives what the others send to it."""
    meetings: Mapping[tuple[object, ...], dict[int, int]] = defaultdict(dict)
    for rank, of_rank in enumerate(operations):
        turns: dict[tuple[object, ...], int] = defaultdict(int)
        for place, operation in enumerate(of_rank):
            if operation.peer is None:
                key = operation.group, operation.ranks
                meetings[*key, turns[key]][rank] = place
                turns[key] += 1
    result = [list(of_rank) for of_rank in operations]
    for (_, ranks, _), places in meetings.items():
        members = [operations[rank][places[rank]] for rank in ranks if rank in places]  # pyright: ignore[reportGeneralTypeIssues]
        listed = all(one.in_splits is not None for one in members)
        if len(members) < len(places) or not listed or not any(one.assumed for one in members):
            continue
        for member, rank in enumerate(ranks):  # pyright: ignore[reportArgumentType]
            received = tuple(one.in_splits[member] for one in members if one.in_splits is not None)
            changed = {"out_splits": received, "bytes_out": sum(received)}
            result[rank][places[rank]] = members[member]._replace(**changed)
    return result
