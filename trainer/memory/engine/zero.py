"""What DeepSpeed holds while every rank has all parameters: ZeRO 0, 1 and 2.

Found by reading DeepSpeed 0.19.8, runtime/zero/stage_1_and_2.py and runtime/engine.py.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from trainer.memory.engine.protocol import Growth, Micro, Part
from trainer.memory.recording import Moment
from trainer.trace.formula.reduction import ParameterGroup

FLOAT32, FLOAT64 = 4, 8
STAGE_0_ELEMENTS = 500_000_000
"""Gradients that are reduced together without ZeRO."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How the parameters of an optimiser group lie in a flat buffer that ranks share.

    Args:
        group: the parameters.
        num_ranks: that share the buffer.
    """

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
    """Gradients in buckets, and an optimiser on the elements of a rank; see the protocol's EngineMemory.

    Args:
        stage: 0, 1 or 2.
        partitions: of the optimiser's parameter groups; those of experts are over the ranks that hold copies.
        ranks: number of this rank among those that share each partition.
        owner: partition of each parameter of the network, and its index there.
        element_bytes: of a parameter.
        bucket_elements: DeepSpeed's reduce_bucket_size.
        clips: whether gradients are clipped.
    """

    stage: int
    partitions: tuple[Partition, ...]
    ranks: tuple[int, ...]
    owner: tuple[tuple[int, int], ...]
    element_bytes: int
    bucket_elements: int
    _bucket: list[tuple[int, int]] = field(default_factory=list, init=False)
    _bucket_held: bool = field(default=False, init=False)
    _own_gradients: int = field(default=0, init=False)
    _gradients: dict[tuple[int, int], int] = field(default_factory=dict, init=False)
    _kept: int = field(default=0, init=False)

    def held(self) -> Mapping[Part, int]:
        """See the protocol."""
        if self.stage == 0:
            whole = sum(sum(partition.group.sizes) for partition in self.partitions)
            return {"parameters": whole * self.element_bytes, "optimizer": 2 * whole * FLOAT32}
        whole = sum(partition.whole for partition in self.partitions)
        own = sum(partition.own for partition in self.partitions)
        return {"parameters": whole * self.element_bytes, "optimizer": 3 * own * FLOAT32}

    def average(self) -> int:
        """See the protocol."""
        whole = sum(sum(partition.group.sizes) for partition in self.partitions)
        return whole * FLOAT32

    def before(self, _micro: Micro, /) -> Iterator[Growth]:
        """See the protocol."""
        yield from ()

    def moment(self, moment: Moment, size: int, _forward: bool, micro: Micro, /) -> Iterator[Growth]:
        """See the protocol."""
        if moment.kind != "gradient":
            return
        (number,) = moment.parameters
        name = self.owner[number]
        yield Growth("gradients", size)
        if self.stage > 0 and not self._bucket_held:
            self._bucket_held = True
            yield Growth("buffers", self._bucket_bytes)
        if name in self._gradients:
            yield Growth("gradients", -size)  # added to the one that is there
        else:
            self._gradients[name] = size
        if self.stage == 2:
            yield from self._reduce(name)

    def after(self, micro: Micro, /) -> Iterator[Growth]:
        """See the protocol."""
        if self.stage == 0:
            if micro.last:
                yield from self._reduced_whole()
            return
        if self.stage == 1:
            if not micro.last:
                return
            for index, partition in enumerate(self.partitions):
                for place in range(len(partition.group.sizes)):
                    if (index, place) in self._gradients:
                        yield from self._reduce((index, place))
        yield from self._flush()
        yield Growth("gradients", -sum(self._gradients.values()))
        self._gradients.clear()
        yield Growth("buffers", -self._bucket_bytes)
        self._bucket_held = False
        if self._kept:  # added to those of the micro batches before
            yield Growth("gradients", -self._own_gradients)
        self._kept, self._own_gradients = self._own_gradients, 0

    def update(self) -> Iterator[Growth]:
        """See the protocol."""
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
        kept = self._kept
        for index, partition in enumerate(self.partitions):
            copied = partition.own * self.element_bytes * (len(pieces[index]) > 1)
            yield Growth("gradients", copied)
            if self.element_bytes < FLOAT32:
                yield Growth("gradients", partition.own * FLOAT32)
                yield Growth("gradients", -copied)
                copied = partition.own * FLOAT32
            if index == len(self.partitions) - 1:
                yield Growth("gradients", -kept)
            yield Growth("gradients", -copied)
        self._kept = 0

    def averaging(self) -> Iterator[Growth]:
        """See the protocol."""
        if self.element_bytes < FLOAT32:
            yield Growth("buffers", self.average())
            yield Growth("buffers", -self.average())

    @property
    def _bucket_bytes(self) -> int:
        return self.bucket_elements * self.element_bytes

    def _size(self, name: tuple[int, int]) -> int:
        index, place = name
        return self.partitions[index].group.sizes[place]

    def _is_own(self, name: tuple[int, int]) -> bool:
        index, place = name
        return self.ranks[index] in self.partitions[index].owners(place)

    def _reduce(self, name: tuple[int, int]) -> Iterator[Growth]:
        """A gradient goes into the bucket, which is reduced before where it has no room."""
        size = self._size(name)
        if sum(map(self._size, self._bucket)) + size > self.bucket_elements:
            yield from self._flush()
        self._bucket.append(name)
        if size <= self.bucket_elements:
            yield Growth("gradients", -self._gradients.pop(name))

    def _flush(self) -> Iterator[Growth]:
        """The bucket is reduced, and what belongs to this rank is copied out of it."""
        for elements, slices in self._reductions():
            copied = elements * self.element_bytes * (slices > 1)
            yield Growth("buffers", copied)
            yield Growth("buffers", -copied)
        for name in self._bucket:
            if self._is_own(name):
                if not self._own_gradients:
                    self._own_gradients = self._own_elements * self.element_bytes
                    yield Growth("gradients", self._own_gradients)
            elif self.stage == 1:
                continue
            yield Growth("gradients", -self._gradients.pop(name, 0))
        self._bucket.clear()

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
                if (partition.group.group, rank) == previous:
                    own[-1] += elements
                else:
                    own.append(elements)
                previous = partition.group.group, rank
        for of_group in slices.values():
            yield from _runs(of_group, self.bucket_elements)

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
