"""What DeepSpeed holds while every rank has all parameters: ZeRO 0, 1 and 2.

Found by reading DeepSpeed 0.19.8, runtime/zero/stage_1_and_2.py and runtime/engine.py.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from trainer.experiment.forecast.engine_memory import Growth, Micro, Part
from trainer.experiment.forecast.recording import Moment
from trainer.experiment.forecast.zero import ParameterGroup

_Name = tuple[int, int]
"""Number of a partition, and of a parameter in it."""

FLOAT32, FLOAT64 = 4, 8
STAGE_0_ELEMENTS = 500_000_000
"""Gradients that are reduced together without ZeRO."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Places of the parameters of an optimiser group in a flat buffer that ranks share."""

    group: ParameterGroup
    num_ranks: int

    @cached_property
    def ends(self) -> list[int]:
        """Where each parameter ends in the buffer."""
        return list(accumulate(self.group.sizes))

    @cached_property
    def whole(self) -> int:
        """Elements of the buffer."""
        return self.group.padded_elements(self.num_ranks)

    @property
    def own(self) -> int:
        """Elements of a rank's part of it."""
        return self.whole // self.num_ranks

    def touched(self, rank: int) -> range:
        """Numbers of the parameters in the group that lie in the part of a rank, wholly or not."""
        first = bisect_right(self.ends, rank * self.own)
        starts_before = bisect_left(self.ends, (rank + 1) * self.own) + 1
        return range(first, min(starts_before, len(self.ends)))

    def owners(self, index: int) -> range:
        """The ranks in whose part a parameter lies, wholly or not."""
        end = self.ends[index]
        return range((end - self.group.sizes[index]) // self.own, -(-end // self.own))


@dataclass(kw_only=True)
class ZeroMemory:
    """Gradients in buckets, and an optimiser on the elements of a rank.

    Attributes:
        stage: 0, 1 or 2.
        partitions: of the optimiser's parameter groups; those of experts are over the ranks that hold copies.
        ranks: number of this rank among those that share each partition.
        owner: partition of each parameter of the network, and its index there.
        element_bytes: of a parameter and its gradient.
        sum_bytes: of an element of the gradients of several micro batches.
        bucket_elements: of one gradient reduction, in float32.
        overlaps: whether gradients are reduced during the backward pass in stage 1, too.
    """

    stage: int
    partitions: tuple[Partition, ...]
    ranks: tuple[int, ...]
    owner: tuple[tuple[int, int], ...]
    element_bytes: int
    sum_bytes: int
    bucket_elements: int
    overlaps: bool = False
    _bucket: list[_Name] = field(default_factory=list, init=False)
    _buffers: int = field(default=0, init=False)
    _gradients: dict[_Name, int] = field(default_factory=dict, init=False)
    _own_gradients: dict[int, int] = field(default_factory=dict, init=False)
    _kept: int = field(default=0, init=False)

    def held(self) -> Mapping[Part, int]:
        whole = sum(partition.whole for partition in self.partitions)
        if self.stage == 0:
            return {"parameters": self._elements * self.element_bytes, "optimizer": 2 * self._elements * FLOAT32}
        own = sum(partition.own for partition in self.partitions)
        return {"parameters": whole * self.element_bytes, "optimizer": 3 * own * FLOAT32}

    def average(self) -> int:
        own = self._elements if self.stage == 0 else sum(partition.own for partition in self.partitions)
        return own * FLOAT32

    def snapshot(self) -> int:
        return 4 * self.average()

    def before(self, _micro: Micro, /) -> Iterator[Growth]:
        yield from ()

    def moment(self, moment: Moment, size: int, _forward: bool, micro: Micro, /) -> Iterator[Growth]:
        if moment.kind != "gradient":
            return
        name = self.owner[moment.parameters[0]]
        yield Growth("gradients", size)
        if self.stage > 0 and not self._buffers:
            self._buffers = self._bucket_bytes * (2 if self.overlaps else 1)
            yield Growth("buffers", self._buffers)
        yield from self._add(name, size)
        if self.stage == 2 or (self.overlaps and micro.last):
            yield from self._reduce(name)

    def after(self, micro: Micro, /) -> Iterator[Growth]:
        if self.stage == 0 and micro.last:
            yield from self._reduced_whole()
        if self.stage == 0 or (self.stage == 1 and not micro.last):
            return
        if not self.overlaps and self.stage == 1:
            for name in self.owner:
                if name in self._gradients:
                    yield from self._reduce(name)
        yield from self._flush()
        lingering = 0
        if self._in_float32 and not all(map(self._is_own, self.owner)):
            lingering = self._bucket_bytes  # sums that belong to other ranks lie there until the optimiser's step
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
        pieces = [self._pieces(index) for index in range(len(self.partitions))]
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

    def averaging(self) -> Iterator[Growth]:
        """The average is updated in place."""
        yield from ()

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

    @property
    def _bucket_bytes(self) -> int:
        return self._bucket_size * self._bucket_element_bytes

    @property
    def _bucket_size(self) -> int:
        return min(self.bucket_elements, self._elements)

    def _size(self, name: _Name) -> int:
        index, place = name
        return self.partitions[index].group.sizes[place]

    def _is_own(self, name: _Name) -> bool:
        index, place = name
        return self.ranks[index] in self.partitions[index].owners(place)

    def _add(self, name: _Name, size: int) -> Iterator[Growth]:
        """Adds a gradient to the one that is there."""
        if self._in_float32:
            wide = self._size(name) * FLOAT32
            yield Growth("gradients", wide)
            yield Growth("gradients", -size)
            size = wide
        if name in self._gradients:
            yield Growth("gradients", -size)
        else:
            self._gradients[name] = size

    def _reduce(self, name: _Name) -> Iterator[Growth]:
        """A gradient goes into the bucket, which is reduced before where it has no room."""
        size = self._size(name)
        if sum(map(self._size, self._bucket)) + size > self._bucket_size:
            yield from self._flush()
        self._bucket.append(name)
        if size <= self._bucket_size:
            yield Growth("gradients", -self._gradients.pop(name))

    def _flush(self) -> Iterator[Growth]:
        """The bucket is reduced, and what belongs to this rank is copied out of it."""
        own = [name for name in self._bucket if self._is_own(name)]
        if self._is_compact:
            yield from self._own_memory(own)
        for elements, slices in self._reductions():
            copied = elements * self._bucket_element_bytes * (slices > 1)
            wide = elements * FLOAT32 * (self._bucket_element_bytes < FLOAT32)
            yield Growth("buffers", copied)
            yield Growth("buffers", wide)
            yield Growth("buffers", -copied - wide)
        if not self._is_compact:
            yield from self._own_memory(own)
        for name in self._bucket if self.stage == 2 else own:
            yield Growth("gradients", -self._gradients.pop(name, 0))
        self._bucket.clear()

    def _own_memory(self, own: Sequence[_Name]) -> Iterator[Growth]:
        """Where this rank's gradients are kept; in float32 exactly its elements, else its parameters whole."""
        if self._is_compact:
            for index in sorted({index for index, _ in own} - self._own_gradients.keys()):
                self._own_gradients[index] = self.partitions[index].own * FLOAT32
                yield Growth("gradients", self._own_gradients[index])
        elif own and not self._own_gradients:
            self._own_gradients[0] = self._own_elements * self.element_bytes
            yield Growth("gradients", self._own_gradients[0])

    @property
    def _own_elements(self) -> int:
        """Of the parameters that lie in this rank's parts, wholly or not."""
        return sum(
            partition.group.sizes[place]
            for partition, rank in zip(self.partitions, self.ranks, strict=True)
            for place in partition.touched(rank)
        )

    def _reductions(self) -> Iterator[tuple[int, int]]:
        """Elements and slices of what is reduced together: those of one process group, until they exceed the bucket."""
        slices: dict[str, list[int]] = {}
        previous = None
        for index, place in self._bucket:
            partition = self.partitions[index]
            end = partition.ends[place]
            start = end - partition.group.sizes[place]
            own = slices.setdefault(partition.group.group, [])
            for rank in partition.owners(place):
                elements = min(end, (rank + 1) * partition.own) - max(start, rank * partition.own)
                apart = self._is_compact and rank == self.ranks[index]
                if (partition.group.group, rank) == previous and not apart:
                    own[-1] += elements
                else:
                    own.append(elements)
                previous = partition.group.group, rank
        for of_group in slices.values():
            yield from _runs(of_group, self._bucket_size)

    def _reduced_whole(self) -> Iterator[Growth]:
        for group in ("data", "expert_data"):
            sizes = [
                size
                for partition in self.partitions
                if partition.group.group == group
                for size in partition.group.sizes
            ]
            for elements, tensors in _runs(sizes, STAGE_0_ELEMENTS):
                copied = elements * self.element_bytes * (tensors > 1)
                yield Growth("buffers", copied)
                yield Growth("buffers", -copied)

    def _pieces(self, index: int) -> list[int]:
        """Elements of each parameter of a group that lie in this rank's part, and of what fills it up."""
        partition, rank = self.partitions[index], self.ranks[index]
        low, high = rank * partition.own, (rank + 1) * partition.own
        pieces = []
        for place in partition.touched(rank):
            end = partition.ends[place]
            pieces.append(min(end, high) - max(end - partition.group.sizes[place], low))
        filled = partition.own - sum(pieces)
        return [*pieces, filled] if filled else pieces


def _runs(sizes: Iterable[int], limit: int) -> Iterator[tuple[int, int]]:
    """Sum and number of sizes that go together, until one takes them above the limit."""
    total = count = 0
    for size in sizes:
        total, count = total + size, count + 1
        if total > limit:
            yield total, count
            total = count = 0
    if count:
        yield total, count
