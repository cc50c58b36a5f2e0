"""DeepSpeed while every rank has a part of each parameter, ZeRO 3: what a step sends, and what a rank holds.

As DeepSpeed 0.19.8 does it in runtime/zero/stage3.py, partition_parameters.py and partitioned_param_coordinator.py.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from trainer.experiment.forecast.gathered import GatheredParameters
from trainer.experiment.forecast.protocol import (
    DTYPES,
    ELEMENT_BYTES,
    FLOAT32,
    FLOAT64,
    Act,
    Awaited,
    Collective,
    Growth,
    Micro,
    Moment,
    Part,
    Phase,
    Place,
    all_gather,
    all_reduce,
    reduce_scatter,
)

_SUB_GROUP_ELEMENTS = 1_000_000_000
"""Elements of a rank that the optimiser updates together."""


class Zero3Step:
    """The acts of passes over a network, in order.

    A module's parameters are gathered together when it starts, followed by those of the next modules until these fill a
    bucket. A module's parameters are given up when it ends, unless one of the next modules within a bucket's size, or
    what was fetched ahead, uses them again. Holds from the third step after a start, when DeepSpeed knows the order.

    Gradients fill a bucket in the order in which autograd delivers them, whatever module they belong to. Before one
    that would exceed the bucket's size, the bucket is reduced and emptied; a gradient larger than a bucket fills one
    alone.
    """

    def __init__(self, sizes: tuple[int, ...], bucket_elements: int, num_ranks: int, moments: Sequence[Moment]) -> None:
        """`moments` of a forward and a backward pass; one rank alone gathers nothing."""
        self._sizes, self._bucket_elements, self._num_ranks = sizes, bucket_elements, num_ranks
        self._parameters = GatheredParameters(sizes, bucket_elements, moments)
        self._bucket: list[int] = []

    def begin(self) -> None:
        """Begins another pass; parameters that the last one left whole are not gathered again."""
        self._parameters.begin()

    def moment(self, moment: Moment) -> Iterator[Act]:
        match moment.kind:
            case "enter" if self._num_ranks > 1:
                fetched = list(self._parameters.fetch(moment.parameters))
                own = [numbers for numbers in fetched if set(numbers) <= set(moment.parameters)]
                yield from (Act("gather", numbers) for numbers in own)
                yield Act("use", moment.parameters)
                yield from (Act("gather", numbers) for numbers in fetched[len(own) :])
            case "leave" if self._num_ranks > 1:
                yield Act("free", self._parameters.release(moment.parameters))
            case "sum" | "sum gradients":
                yield Act(moment.kind)
            case "gradient":
                (number,) = moment.parameters
                if self._bucket and sum(self._sizes[n] for n in [*self._bucket, number]) > self._bucket_elements:
                    yield self._reduced()
                self._bucket.append(number)
                yield Act("put", moment.parameters)

    def end(self) -> Iterator[Act]:
        """Yields the acts at the end of a backward pass."""
        yield self._reduced()

    def _reduced(self) -> Act:
        numbers, self._bucket = self._bucket, []
        return Act("reduce", numbers)


@dataclass(frozen=True, kw_only=True)
class Zero3Traffic:
    """Gathers before modules compute and reductions of gradients in buckets.

    Attributes:
        sizes: elements of each parameter in the order of the network.
        forward, backward: moments of a pass.
        summed: the sum over the parts of a divided layer's result; None if no layer is divided. It comes within a
            block, between the gathers of its layers.
        groups: of parameters in the optimiser, whose norms are added up one by one.
    """

    sizes: tuple[int, ...]
    forward: tuple[Moment, ...]
    backward: tuple[Moment, ...]
    num_ranks: int
    precision: str
    bucket_elements: int
    summed: Collective | None = None
    groups: int = 1

    def entering(self, phase: Phase, place: Place, _micro: int, /) -> Iterator[Collective | Awaited]:
        yield from self._collectives["enter", phase, place]

    def leaving(self, phase: Phase, place: Place, _micro: int, /) -> Iterator[Collective | Awaited]:
        yield from self._collectives["leave", phase, place]

    def evaluating(self, calls: int, /) -> Iterator[Mapping[Place, Sequence[Collective | Awaited]]]:
        """Yields the gathers of each pass; parameters that a pass leaves whole are not gathered again by the next."""
        step, in_flight = self._step(), _InFlight()
        for _ in range(calls):
            step.begin()
            sent: dict[Place, list[Collective | Awaited]] = defaultdict(list)
            for moment in self.forward:
                sent[moment.place].extend(self._sent(step.moment(moment), in_flight))
            if unused := in_flight.arrived(range(len(self.sizes))):
                sent["after"].append(Awaited(unused))  # fetched ahead for a backward pass, which does not follow
            yield sent

    def update(self) -> Iterator[Collective]:
        """Yields the collectives of the gradient's norm; parameters are gathered when they are used."""
        for _ in range(self.groups):
            yield all_reduce("data", "float64", 8)
            if self.summed is not None:
                yield all_reduce(self.summed.group, "float64", 8)

    @cached_property
    def _collectives(self) -> dict[tuple[str, Phase, Place], list[Collective | Awaited]]:
        """Collectives of a micro step by edge, phase and place: gathers before a block, reductions behind it."""
        step, in_flight = self._step(), _InFlight()
        sent: dict[tuple[str, Phase, Place], list[Collective | Awaited]] = defaultdict(list)
        passes: tuple[tuple[Phase, tuple[Moment, ...]], ...] = (("forward", self.forward), ("backward", self.backward))
        for phase, moments in passes:
            computed: set[Place] = set()
            for moment in moments:
                if moment.kind in ("gradient", "sum", "sum gradients"):
                    computed.add(moment.place)
                edge = "leave" if moment.place in computed else "enter"
                sent[edge, phase, moment.place].extend(self._sent(step.moment(moment), in_flight))
        sent["leave", "backward", "before"].extend(self._sent(step.end(), in_flight))
        return sent

    def _step(self) -> Zero3Step:
        return Zero3Step(self.sizes, self.bucket_elements, self.num_ranks, [*self.forward, *self.backward])

    def _sent(self, acts: Iterable[Act], in_flight: "_InFlight") -> Iterator[Collective | Awaited]:
        """Yields the collectives of acts; a gather is awaited when a module uses the first of its parameters."""
        for act in acts:
            match act.kind:
                case "gather":
                    size = self._part_elements(act.numbers) * ELEMENT_BYTES[self.precision]
                    gathering = all_gather("data", DTYPES[self.precision], size, self.num_ranks)
                    yield replace(gathering, handle=in_flight.sent(act.numbers))
                case "use":
                    if arrived := in_flight.arrived(act.numbers):
                        yield Awaited(arrived)
                case "reduce":
                    size = self._part_elements(act.numbers) * FLOAT32
                    yield reduce_scatter("data", "float32", size, self.num_ranks)
                case "sum" | "sum gradients":
                    assert self.summed is not None
                    yield replace(self.summed, until_next=act.kind == "sum gradients")

    def _part_elements(self, numbers: Sequence[int]) -> int:
        """Elements of a rank's parts of some parameters, each cut evenly and the last part filled up."""
        return sum(-(-self.sizes[number] // self.num_ranks) for number in numbers)


class _InFlight:
    """Gatherings under way, by the parameters that they bring."""

    def __init__(self) -> None:
        self._handles: dict[int, int] = {}
        self._sent = 0

    def sent(self, numbers: Sequence[int]) -> int:
        """Returns the handle of a new gather of these parameters."""
        self._sent += 1
        self._handles |= dict.fromkeys(numbers, self._sent)
        return self._sent

    def arrived(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Handles of the gatherings that end, since some of their parameters are needed."""
        ended = {self._handles[number] for number in numbers if number in self._handles}
        self._handles = {number: handle for number, handle in self._handles.items() if handle not in ended}
        return tuple(sorted(ended))


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
        moments: of a pass forward and back.
        element_bytes: of a parameter and its gradient.
        sum_bytes: of an element of the gradients of several micro batches.
        bucket_elements: of one gradient reduction, in float32, and of one gathering ahead.
        copies_input: whether a reduction makes a copy of what it sums up, as gloo does.
    """

    sizes: tuple[int, ...]
    moments: Sequence[Moment]
    num_ranks: int
    element_bytes: int
    sum_bytes: int
    bucket_elements: int
    copies_input: bool = False
    _gatherings: dict[int, _Gathering] = field(default_factory=dict, init=False)
    _whole: dict[int, int] = field(default_factory=dict, init=False)
    _large: dict[int, int] = field(default_factory=dict, init=False)

    def held(self) -> Mapping[Part, int]:
        """Bytes by part that are held between steps; gradients and their bucket are never freed."""
        return {
            "parameters": self._own * self.element_bytes,
            "gradients": self._own * self.sum_bytes,
            "optimizer": 3 * self._own * FLOAT32,
            "buffers": self._bucket_size * FLOAT32,
        }

    def average(self) -> int:
        return self._own * FLOAT32

    def begin(self) -> None:
        self._step = Zero3Step(self.sizes, self.bucket_elements, self.num_ranks, self.moments)

    def moment(self, moment: Moment, size: int, _forward: bool, _micro: Micro, /) -> Iterator[Growth]:
        if moment.kind == "gradient":
            yield Growth("gradients", size)
        yield from self._follow(self._step.moment(moment), size)

    def after(self, _micro: Micro, /) -> Iterator[Growth]:
        yield from self._follow(self._step.end(), 0)

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
            if sum(parts) >= _SUB_GROUP_ELEMENTS:
                yield parts
                parts = []
        if parts:
            yield parts

    def _follow(self, acts: Iterable[Act], size: int) -> Iterator[Growth]:
        """Yields the growth by the acts of a moment; `size` is the bytes of the gradient that is put, if any."""
        for act in acts:
            match act.kind:
                case "gather":
                    yield from self._gather(list(act.numbers))
                case "use":
                    for number in act.numbers:
                        yield from self._wait(number)
                case "free":
                    yield from (Growth("buffers", -self._whole.pop(number, 0)) for number in act.numbers)
                case "put":
                    (number,) = act.numbers
                    if self.sizes[number] <= self._bucket_size:
                        yield Growth("gradients", -size)  # copied into the bucket
                    else:
                        self._large[number] = size
                case "reduce":
                    yield from self._reduce(act.numbers)

    def _gather(self, numbers: list[int]) -> Iterator[Growth]:
        size = sum(map(self._part, numbers)) * self.num_ranks * self.element_bytes
        gathering = _Gathering(numbers, size, set(numbers))
        for number in numbers:
            self._gatherings[number] = gathering
        yield Growth("buffers", size)

    def _wait(self, number: int) -> Iterator[Growth]:
        """Copies all parameters of a gather when a module needs one; a parameter gathered alone stays in its buffer."""
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

    def _reduce(self, bucket: Sequence[int]) -> Iterator[Growth]:
        parts = sum(map(self._part, bucket))
        wide = sum(self.sizes[number] for number in self._large) * FLOAT32 * (self.element_bytes < FLOAT32)
        joined = parts * self.num_ranks * FLOAT32
        if len(bucket) == 1 and self.sizes[bucket[0]] % self.num_ranks == 0:
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

    @property
    def _bucket_size(self) -> int:
        return min(self.bucket_elements, sum(self.sizes))
