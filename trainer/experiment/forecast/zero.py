"""DeepSpeed while every rank has all parameters, ZeRO 0, 1 and 2: what a step sends, and what a rank holds.

Every one of these stages all-reduces gradients, so that all move the same bytes; they differ in the pieces. Stages 1
and 2 fill buckets of limited size, cut their content at the borders of the ranks' partitions and reduce what belongs
to one process group together; stage 0 reduces each group as a whole. As DeepSpeed 0.19.8 does it in
runtime/zero/stage_1_and_2.py and runtime/engine.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, NamedTuple

from trainer.experiment.forecast.partitions import ParameterGroup, Partition
from trainer.experiment.forecast.protocol import (
    DTYPES,
    ELEMENT_BYTES,
    FLOAT32,
    FLOAT64,
    Collective,
    Growth,
    Micro,
    Moment,
    Part,
    Phase,
    Place,
    all_gather,
    all_reduce,
)

_STAGE_0_ELEMENTS = 500_000_000

Name = tuple[int, int]
"""Number of a partition, and of a parameter in it."""


class Piece(NamedTuple):
    """An all-reduce over a process group, of so many elements from so many tensors."""

    group: str
    elements: int
    tensors: int


@dataclass(frozen=True, slots=True)
class Reduction:
    """Gradients that leave the bucket, and the all-reduces that take them."""

    names: tuple[Name, ...]
    pieces: tuple[Piece, ...]


@dataclass(kw_only=True)
class ZeroStep:
    """The order in which a step puts gradients into the bucket (a name) and empties it (a reduction).

    Exact if everything fits one bucket, or if reductions wait for the end of the backward pass. Otherwise approximate,
    since autograd delivers dense and expert gradients mixed.

    Attributes:
        overlaps: whether gradients are reduced during the last backward pass, which stage 2 does in each.
        apart: by partition, the rank whose part is never joined with an adjacent one; None if all are joined.
    """

    stage: int
    partitions: tuple[Partition, ...]
    bucket_elements: int
    overlaps: bool = False
    apart: tuple[int, ...] | None = None
    _bucket: list[Name] = field(default_factory=list, init=False)

    def gradient(self, name: Name, *, last: bool) -> Iterator[Name | Reduction]:
        """Yields the events when autograd delivers a gradient, in a step's last backward pass or an earlier one."""
        if self.stage == 2 or (self.stage == 1 and self.overlaps and last):
            yield from self._put(name)

    def end(self, *, last: bool) -> Iterator[Name | Reduction]:
        """Yields the events at the end of a backward pass."""
        if self.stage == 0 and last:
            yield Reduction((), tuple(self._whole_groups()))
        if self.stage == 1 and last and not self.overlaps:
            for name in self.names():
                yield from self._put(name)
        yield from self._emptied()

    def names(self) -> list[Name]:
        """All parameters, group after group."""
        return [(index, place) for index, one in enumerate(self.partitions) for place in range(len(one.group.sizes))]

    def size(self, name: Name) -> int:
        return self.partitions[name[0]].group.sizes[name[1]]

    def _put(self, name: Name) -> Iterator[Name | Reduction]:
        """Puts a gradient into the bucket, and before that empties the bucket if it has no space left."""
        if sum(map(self.size, self._bucket)) + self.size(name) > self.bucket_elements:
            yield from self._emptied()
        self._bucket.append(name)
        yield name

    def _emptied(self) -> Iterator[Reduction]:
        if self._bucket:
            yield Reduction(tuple(self._bucket), tuple(self._pieces()))
            self._bucket.clear()

    def _pieces(self) -> Iterator[Piece]:
        """Joins adjacent parts of one owner, and then parts of one process group until they exceed the bucket."""
        parts: dict[str, list[int]] = {}
        previous = None
        for index, place in self._bucket:
            partition = self.partitions[index]
            group = partition.group.group
            of_group = parts.setdefault(group, [])
            for rank in partition.owners(place):
                alone = self.apart is not None and rank == self.apart[index]
                if (group, rank) == previous and not alone:
                    of_group[-1] += partition.overlap(place, rank)
                else:
                    of_group.append(partition.overlap(place, rank))
                previous = group, rank
        for group, sizes in parts.items():
            yield from _runs(group, sizes, self.bucket_elements)

    def _whole_groups(self) -> Iterator[Piece]:
        for group in ("data", "expert_data"):
            sizes = [size for one in self.partitions if one.group.group == group for size in one.group.sizes]
            yield from _runs(group, sizes, _STAGE_0_ELEMENTS)


def _runs(group: str, sizes: Iterable[int], limit: int) -> Iterator[Piece]:
    """Joins sizes into all-reduces; each ends with the size that takes its sum above `limit`."""
    total = count = 0
    for size in sizes:
        total, count = total + size, count + 1
        if total > limit:
            yield Piece(group, total, count)
            total = count = 0
    if count:
        yield Piece(group, total, count)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroTraffic:
    """All-reduces of gradients and the gathering of new parameters.

    Attributes:
        parameters: the optimiser's parameter groups; expert parameters are those of one rank.
        precision: element type of parameters; gradients are reduced in float32, and bf16 adds an overflow check.
        tensor_parallel: ranks that share the dense parameters, whose parts of the norm are added up.
    """

    stage: Literal[0, 1, 2]
    parameters: tuple[ParameterGroup, ...]
    num_ranks: Mapping[str, int]
    precision: Literal["fp32", "bf16"]
    bucket_elements: int
    accumulation: int = 1
    tensor_parallel: int = 1

    def entering(self, _phase: Phase, _place: Place, _micro: int, /) -> Iterator[Collective]:
        yield from ()

    def leaving(self, phase: Phase, place: Place, micro: int, /) -> Iterator[Collective]:
        """Yields the reductions of gradients, at the end of a backward pass."""
        if phase != "backward" or place != "before":
            return
        for piece in self.reductions(last=micro == self.accumulation - 1):
            yield all_reduce(piece.group, "float32", piece.elements * FLOAT32)

    def reductions(self, *, last: bool = True) -> Iterator[Piece]:
        """The all-reduces of a backward pass, which delivers the last parameter of a group first."""
        step = ZeroStep(
            stage=self.stage,
            partitions=self._partitions,
            bucket_elements=self.bucket_elements,
            overlaps=self.precision == "bf16",
        )
        backwards = sorted(step.names(), key=lambda name: (name[0], -name[1]))
        during = (event for name in backwards for event in step.gradient(name, last=last))
        for event in chain(during, step.end(last=last)):
            if isinstance(event, Reduction):
                yield from event.pieces

    def evaluating(self, calls: int, /) -> Iterator[Mapping[Place, Sequence[Collective]]]:
        """Yields no gathers for any pass, since all parameters are whole."""
        yield from ({} for _ in range(calls))

    def update(self) -> Iterator[Collective]:
        """Overflow check, gradient norm and, where the optimiser is sharded, the new parameters.

        The norm is computed whether or not gradients are clipped: by DeepSpeed over each parameter group, or by the
        engine itself in stage 0, where the ranks that share the experts add up their parts.
        """
        experts = [owner for owner in self.parameters if owner.group == "expert_data"]
        if self.stage == 0:
            if experts:
                yield all_reduce("expert", "float32", FLOAT32)
            yield from self._over_parts("float32", FLOAT32)
            return
        if self.precision == "bf16":
            yield all_reduce("data", "uint8", 1)
            yield from self._over_parts("uint8", 1)
        for _ in self.parameters:
            yield all_reduce("data", "float32", FLOAT32)
            yield from self._over_parts("float32", FLOAT32)
        for _ in experts:
            yield all_reduce("expert_data", "float32", FLOAT32)
        for one in self._partitions:
            if one.num_ranks > 1:
                size = one.own * ELEMENT_BYTES[self.precision]
                yield all_gather(one.group.group, DTYPES[self.precision], size, one.num_ranks)

    def _over_parts(self, dtype: str, size: int) -> Iterator[Collective]:
        if self.tensor_parallel > 1:
            yield all_reduce("tensor", dtype, size)

    @property
    def _partitions(self) -> tuple[Partition, ...]:
        return tuple(Partition(group, self.num_ranks[group.group]) for group in self.parameters)


@dataclass(kw_only=True)
class ZeroMemory:
    """Gradients in buckets, and an optimiser on the elements of a rank.

    Attributes:
        partitions: of the optimiser's parameter groups; those of experts are over the ranks that hold copies.
        ranks: number of this rank among those that share each partition.
        owner: partition of each parameter of the network, and its index there.
        element_bytes: of a parameter and its gradient.
        sum_bytes: of an element of the gradients of several micro batches.
        overlaps: whether gradients are reduced during the backward pass in stage 1, too.
    """

    stage: int
    partitions: tuple[Partition, ...]
    ranks: tuple[int, ...]
    owner: tuple[Name, ...]
    element_bytes: int
    sum_bytes: int
    bucket_elements: int
    overlaps: bool = False
    _buffers: int = field(default=0, init=False)
    _gradients: dict[Name, int] = field(default_factory=dict, init=False)
    _own_gradients: dict[int, int] = field(default_factory=dict, init=False)
    _kept: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._step = ZeroStep(
            stage=self.stage,
            partitions=self.partitions,
            bucket_elements=min(self.bucket_elements, self._elements),
            overlaps=self.overlaps,
            apart=self.ranks if self._is_compact else None,
        )

    def held(self) -> Mapping[Part, int]:
        if self.stage == 0:
            return {"parameters": self._elements * self.element_bytes, "optimizer": 2 * self._elements * FLOAT32}
        whole, own = (sum(getattr(one, name) for one in self.partitions) for name in ("whole", "own"))
        return {"parameters": whole * self.element_bytes, "optimizer": 3 * own * FLOAT32}

    def average(self) -> int:
        own = self._elements if self.stage == 0 else sum(partition.own for partition in self.partitions)
        return own * FLOAT32

    def begin(self) -> None:
        """Does nothing, since every rank has all parameters."""

    def moment(self, moment: Moment, size: int, _forward: bool, micro: Micro, /) -> Iterator[Growth]:
        if moment.kind != "gradient":
            return
        name = self.owner[moment.parameters[0]]
        yield Growth("gradients", size)
        if self.stage > 0 and not self._buffers:
            self._buffers = self._step.bucket_elements * self._bucket_element_bytes * (1 + self.overlaps)
            yield Growth("buffers", self._buffers)
        yield from self._add(name, size)
        yield from self._follow(self._step.gradient(name, last=micro.last))

    def after(self, micro: Micro, /) -> Iterator[Growth]:
        yield from self._follow(self._step.end(last=micro.last))
        if self.stage == 0 or (self.stage == 1 and not micro.last):
            return
        lingering = 0
        if self._in_float32 and not all(map(self._is_own, self.owner)):
            lingering = self._step.bucket_elements * FLOAT32  # sums of other ranks lie there until the optimiser's step
        yield Growth("gradients", -sum(self._gradients.values()))
        yield Growth("buffers", lingering - self._buffers)
        self._gradients.clear()
        self._buffers = lingering
        if self._is_compact:
            return
        if self._kept:  # added to those of the micro batches before
            yield Growth("gradients", -self._kept)
        self._kept = sum(self._own_gradients.values())
        self._own_gradients.clear()

    def update(self) -> Iterator[Growth]:
        if self.stage == 0:
            largest = max(self._gradients.values())
            yield Growth("buffers", largest)  # its squares, for the norm
            yield Growth("buffers", -largest)
            yield Growth("gradients", -sum(self._gradients.values()))
            self._gradients.clear()
            return
        pieces = [self._parts(index) for index in range(len(self.partitions))]
        largest = max((size for of_group in pieces for size in of_group), default=0) * FLOAT64
        yield Growth("buffers", largest)
        yield Growth("buffers", -largest)
        for index, partition in enumerate(self.partitions):
            is_last = index == len(self.partitions) - 1
            if is_last:
                yield Growth("buffers", -self._buffers)
                self._buffers = 0
            if self._is_compact:
                yield Growth("gradients", -self._own_gradients.pop(index, 0))
                continue
            copied = partition.own * self.element_bytes * (len(pieces[index]) > 1)
            yield Growth("gradients", copied)
            if self.element_bytes < FLOAT32:
                yield Growth("gradients", partition.own * FLOAT32)
                yield Growth("gradients", -copied)
                copied = partition.own * FLOAT32
            if is_last:
                yield Growth("gradients", -self._kept)
                self._kept = 0
            yield Growth("gradients", -copied)

    @property
    def _elements(self) -> int:
        return sum(sum(partition.group.sizes) for partition in self.partitions)

    @property
    def _is_compact(self) -> bool:
        """Whether a rank's sums of gradients are kept in float32, of its own elements alone."""
        return self.stage > 0 and self.element_bytes < self.sum_bytes

    @property
    def _in_float32(self) -> bool:
        """Whether gradients are added up in float32 before they are reduced."""
        return self._is_compact and self.stage == 1

    @property
    def _bucket_element_bytes(self) -> int:
        return FLOAT32 if self._in_float32 else self.element_bytes

    def _is_own(self, name: Name) -> bool:
        return self.ranks[name[0]] in self.partitions[name[0]].owners(name[1])

    def _add(self, name: Name, size: int) -> Iterator[Growth]:
        """Adds a gradient to the one that is there."""
        if self._in_float32:
            wide = self._step.size(name) * FLOAT32
            yield Growth("gradients", wide)
            yield Growth("gradients", -size)
            size = wide
        if name in self._gradients:
            yield Growth("gradients", -size)
        else:
            self._gradients[name] = size

    def _follow(self, events: Iterable[Name | Reduction]) -> Iterator[Growth]:
        """Follows copies of gradients: each that fits goes into the bucket, and this rank's part comes out of it."""
        for event in events:
            if not isinstance(event, Reduction):
                if event in self._gradients and self._step.size(event) <= self._step.bucket_elements:
                    yield Growth("gradients", -self._gradients.pop(event))
                continue
            own = [name for name in event.names if self._is_own(name)]
            if self._is_compact:
                yield from self._own_memory(own)
            for piece in event.pieces:
                copied = piece.elements * self._bucket_element_bytes * (piece.tensors > 1)
                wide = piece.elements * FLOAT32 * (self.stage > 0 and self._bucket_element_bytes < FLOAT32)
                yield Growth("buffers", copied)
                yield Growth("buffers", wide)
                yield Growth("buffers", -copied - wide)
            if not self._is_compact:
                yield from self._own_memory(own)
            for name in event.names if self.stage == 2 else own:
                yield Growth("gradients", -self._gradients.pop(name, 0))

    def _own_memory(self, own: Sequence[Name]) -> Iterator[Growth]:
        """Allocates this rank's gradients once: in float32 for its own elements alone, else for whole parameters."""
        if self._is_compact:
            for index in sorted({index for index, _ in own} - self._own_gradients.keys()):
                self._own_gradients[index] = self.partitions[index].own * FLOAT32
                yield Growth("gradients", self._own_gradients[index])
        elif own and not self._own_gradients:
            shares = zip(self.partitions, self.ranks, strict=True)
            elements = sum(one.group.sizes[place] for one, rank in shares for place in one.touched(rank))
            self._own_gradients[0] = elements * self.element_bytes
            yield Growth("gradients", self._own_gradients[0])

    def _parts(self, index: int) -> list[int]:
        """Returns the elements of each parameter of a group that lie in this rank's part, and those of the padding."""
        partition, rank = self.partitions[index], self.ranks[index]
        parts = [partition.overlap(place, rank) for place in partition.touched(rank)]
        filled = partition.own - sum(parts)
        return [*parts, filled] if filled else parts
