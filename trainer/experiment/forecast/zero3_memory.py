"""What DeepSpeed holds while every rank has a part of each parameter: ZeRO 3.

Found by reading DeepSpeed 0.19.8, runtime/zero/stage3.py, partition_parameters.py and partitioned_param_coordinator.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from trainer.experiment.forecast.engine_memory import Growth, Micro, Part
from trainer.experiment.forecast.recording import Event, Moment
from trainer.experiment.forecast.walk import Use
from trainer.experiment.forecast.zero3 import GatheredParameters

FLOAT32, FLOAT64 = 4, 8
SUB_GROUP_ELEMENTS = 1_000_000_000
"""Elements of a rank that the optimiser updates together."""


@dataclass
class _Gathering:
    """Parameters that arrive in one buffer; `waiting`: their module has not started; `arrived`: copied out."""

    numbers: list[int]
    size: int
    waiting: set[int]
    arrived: bool = False


@dataclass(kw_only=True)
class Zero3Memory:
    """Parameters that are gathered before modules compute, and gradients in a bucket.

    Attributes:
        sizes: elements of each parameter in the order of the network.
        events: of a pass forward and back, which the order of the modules is taken from.
        element_bytes: of a parameter and its gradient.
        sum_bytes: of an element of the gradients of several micro batches.
        bucket_elements: of one gradient reduction, in float32, and of one gathering ahead.
        copies_input: whether a reduction makes a copy of what it sums up, as gloo does.
    """

    sizes: tuple[int, ...]
    events: Sequence[Event]
    num_ranks: int
    element_bytes: int
    sum_bytes: int
    bucket_elements: int
    copies_input: bool = False
    _gatherings: dict[int, _Gathering] = field(default_factory=dict, init=False)
    _whole: dict[int, int] = field(default_factory=dict, init=False)
    _bucket: list[int] = field(default_factory=list, init=False)
    _large: dict[int, int] = field(default_factory=dict, init=False)

    def held(self) -> Mapping[Part, int]:
        """Gradients and their bucket are there all the time."""
        return {
            "parameters": self._own * self.element_bytes,
            "gradients": self._own * self.sum_bytes,
            "optimizer": 3 * self._own * FLOAT32,
            "buffers": self._bucket_size * FLOAT32,
        }

    def average(self) -> int:
        return self._own * FLOAT32

    def snapshot(self) -> int:
        return 4 * self.average()

    def before(self, _micro: Micro, /) -> Iterator[Growth]:
        uses = [Use("enter", moment.place, moment.parameters) for moment in _starts(self.events)]
        self._near = GatheredParameters(self.sizes, self.bucket_elements, uses)
        yield from ()

    def moment(self, moment: Moment, size: int, _forward: bool, _micro: Micro, /) -> Iterator[Growth]:
        match moment.kind:
            case "gradient":
                yield from self._collect(moment.parameters[0], size)
            case "enter" if self.num_ranks > 1:
                needed = set(moment.parameters)
                fetched = list(self._near.fetch(moment.parameters))
                own = [numbers for numbers in fetched if set(numbers) <= needed]
                for numbers in own:
                    yield from self._gather(numbers)
                for number in moment.parameters:
                    yield from self._wait(number)
                for numbers in fetched[len(own) :]:
                    yield from self._gather(numbers)
            case "leave" if self.num_ranks > 1:
                before = set(self._near.whole)
                self._near.release(moment.parameters)
                for number in before - self._near.whole:
                    yield Growth("buffers", -self._whole.pop(number, 0))

    def after(self, _micro: Micro, /) -> Iterator[Growth]:
        yield from self._reduce()

    def update(self) -> Iterator[Growth]:
        for gathering in {id(one): one for one in self._gatherings.values()}.values():
            yield Growth("buffers", -gathering.size)
        self._gatherings.clear()
        yield Growth("buffers", -sum(self._whole.values()))
        self._whole.clear()
        largest = max(map(self._part, range(len(self.sizes)))) * FLOAT64
        yield Growth("buffers", largest)
        yield Growth("buffers", -largest)
        for parts in self._sub_groups():
            flat = sum(parts)
            copied = flat * self.sum_bytes * (len(parts) > 1)
            yield Growth("gradients", copied)
            if self.sum_bytes < FLOAT32:
                yield Growth("gradients", flat * FLOAT32)
                yield Growth("gradients", -copied)
                copied = flat * FLOAT32
            yield Growth("gradients", -copied)

    def averaging(self) -> Iterator[Growth]:
        yield from ()

    @property
    def _own(self) -> int:
        return sum(map(self._part, range(len(self.sizes))))

    def _part(self, number: int) -> int:
        """Elements of a rank's part of a parameter, filled up."""
        return -(-self.sizes[number] // self.num_ranks)

    def _sub_groups(self) -> Iterator[list[int]]:
        parts: list[int] = []
        for number in range(len(self.sizes)):
            parts.append(self._part(number))
            if sum(parts) >= SUB_GROUP_ELEMENTS:
                yield parts
                parts = []
        if parts:
            yield parts

    def _gather(self, numbers: list[int]) -> Iterator[Growth]:
        size = sum(map(self._part, numbers)) * self.num_ranks * self.element_bytes
        gathering = _Gathering(numbers, size, set(numbers))
        for number in numbers:
            self._gatherings[number] = gathering
        yield Growth("buffers", size)

    def _wait(self, number: int) -> Iterator[Growth]:
        """A module that needs a parameter copies all that came with it; one that came alone stays where it is."""
        gathering = self._gatherings.pop(number, None)
        if gathering is None:
            return
        alone = len(gathering.numbers) == 1
        if not gathering.arrived:
            gathering.arrived = True
            for other in gathering.numbers:
                self._whole[other] = gathering.size if alone else self.sizes[other] * self.element_bytes
                if not alone:
                    yield Growth("buffers", self._whole[other])
        gathering.waiting.discard(number)
        if not gathering.waiting and not alone:
            yield Growth("buffers", -gathering.size)

    def _collect(self, number: int, size: int) -> Iterator[Growth]:
        yield Growth("gradients", size)
        if self._bucket and self._filled + self.sizes[number] > self._bucket_size:
            yield from self._reduce()
        if self._filled + self.sizes[number] <= self._bucket_size:
            yield Growth("gradients", -size)  # copied into the bucket
        else:
            self._large[number] = size
        self._bucket.append(number)

    @property
    def _filled(self) -> int:
        return sum(self.sizes[number] for number in self._bucket)

    def _reduce(self) -> Iterator[Growth]:
        parts = sum(map(self._part, self._bucket))
        wide = sum(self.sizes[number] for number in self._large) * FLOAT32 * (self.element_bytes < FLOAT32)
        joined = parts * self.num_ranks * FLOAT32
        if len(self._bucket) == 1 and self.sizes[self._bucket[0]] % self.num_ranks == 0:
            joined = 0
        rounded = parts * self.sum_bytes * (self.sum_bytes < FLOAT32)
        copied = parts * self.num_ranks * FLOAT32 * self.copies_input
        yield Growth("buffers", wide + joined)
        yield Growth("buffers", copied)
        yield Growth("buffers", -copied)
        yield Growth("buffers", rounded)
        yield Growth("buffers", -wide - joined - rounded)
        yield Growth("gradients", -sum(self._large.values()))
        self._large.clear()
        self._bucket.clear()

    @property
    def _bucket_size(self) -> int:
        return min(self.bucket_elements, sum(self.sizes))


def _starts(events: Sequence[Event]) -> Iterator[Moment]:
    return (event for event in events if isinstance(event, Moment) and event.kind == "enter")
