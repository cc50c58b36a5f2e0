"""FSDP2, whose ranks keep rows of every parameter: what a step sends, and what a rank holds.

As PyTorch 2.13 does it in torch/distributed/fsdp/_fully_shard.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from trainer.experiment.forecast.protocol import (
    DTYPES,
    ELEMENT_BYTES,
    FLOAT32,
    Act,
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

ROOT = -1
"""Number of the unit of parameters that belong to no block."""


@dataclass(frozen=True)
class Unit:
    """Parameters that are gathered together, by their shapes: those of one block, or those outside all blocks."""

    shapes: Sequence[tuple[int, ...]]
    num_ranks: int

    @property
    def rows(self) -> int:
        """Elements of a rank's rows, padded to the same number on every rank."""
        return sum(-(-shape[0] // self.num_ranks) * prod(shape[1:]) for shape in self.shapes)

    @property
    def whole(self) -> int:
        """Elements of the rows of all ranks, padding included."""
        return self.rows * self.num_ranks


class FSDPStep:
    """The acts of micro steps, in order.

    In the backward pass a block's parameters are gathered while the block behind it computes. Units without parameters,
    since these are frozen, send nothing.
    """

    def __init__(self, units: Sequence[Unit], *, reshard_after_forward: bool) -> None:
        """`units`: one for each block, then that of the parameters outside all blocks."""
        self._units, self._reshard = units, reshard_after_forward
        self._gathered: set[int] = set()
        self._in_flight: set[int] = set()

    def enter(self, unit: int, *, forward: bool) -> Iterator[Act]:
        """Yields the acts when a pass arrives at a unit."""
        if unit not in self._gathered:
            yield from self._gather(unit)
            self._in_flight.remove(unit)
            self._gathered.add(unit)
            yield Act("use", (unit,))
        if not forward and self._units[unit].rows:
            before = range(len(self._units) - 1 if unit == ROOT else unit)
            for other in [one for one in before if self._units[one].rows][-1:]:
                yield from self._gather(other)

    def leave(self, unit: int, *, forward: bool, last: bool) -> Iterator[Act]:
        """Yields the acts when a pass leaves a unit, in the last micro step or in an earlier one."""
        if not forward and last:
            yield Act("reduce", (unit,))
        if not forward or (self._reshard and unit != ROOT):
            self._gathered.discard(unit)
            yield Act("free", (unit,))

    def _gather(self, unit: int) -> Iterator[Act]:
        if unit not in self._gathered and unit not in self._in_flight:
            self._in_flight.add(unit)
            yield Act("gather", (unit,))


@dataclass(frozen=True, kw_only=True)
class FSDPTraffic:
    """An all-gather and a reduce-scatter of each block, and of the parameters outside; gradients in float32.

    Attributes:
        accumulation: micro steps of an optimiser step; the last one reduces the gradients.
        tensor_parallel: ranks that share the blocks, whose parts of the norm are added up.
    """

    units: Sequence[Unit]
    num_ranks: int
    precision: str
    reshard_after_forward: bool = True
    accumulation: int = 1
    tensor_parallel: int = 1

    def entering(self, phase: Phase, place: Place, _micro: int, /) -> Iterator[Collective]:
        yield from self._collectives["enter", phase, place]

    def leaving(self, phase: Phase, place: Place, micro: int, /) -> Iterator[Collective]:
        if micro == self.accumulation - 1:
            yield from self._collectives["leave", phase, place]

    def evaluating(self, calls: int, /) -> Iterator[Mapping[Place, Sequence[Collective]]]:
        """Yields the gathers of each pass; parameters outside blocks, and blocks not resharded, are gathered once."""
        first: dict[Place, Sequence[Collective]] = {
            place: sent for (_, phase, place), sent in self._collectives.items() if phase == "forward" and sent
        }
        later: dict[Place, Sequence[Collective]] = {
            place: sent for place, sent in first.items() if self.reshard_after_forward and place != "before"
        }
        yield from (later if number else first for number in range(calls))

    def update(self) -> Iterator[Collective]:
        """Yields the collectives of the norm of the gradient."""
        if self.tensor_parallel > 1:
            yield all_reduce("tensor", "float32", 4)
        yield all_reduce("data", "float32", 4)

    @cached_property
    def _collectives(self) -> dict[tuple[str, Phase, Place], list[Collective]]:
        """Collectives of the last micro step, by edge (enter or leave), phase and place of a pass."""
        step = FSDPStep(self.units, reshard_after_forward=self.reshard_after_forward)
        sent: dict[tuple[str, Phase, Place], list[Collective]] = defaultdict(list)
        blocks = range(len(self.units) - 1)
        sent["enter", "forward", "before"] = self._sent(step.enter(ROOT, forward=True))
        for block in blocks:
            sent["enter", "forward", block] = self._sent(step.enter(block, forward=True))
            sent["leave", "forward", block] = self._sent(step.leave(block, forward=True, last=True))
        sent["enter", "backward", "after"] = self._sent(step.enter(ROOT, forward=False))
        for block in reversed(blocks):
            sent["enter", "backward", block] = self._sent(step.enter(block, forward=False))
            sent["leave", "backward", block] = self._sent(step.leave(block, forward=False, last=True))
        sent["leave", "backward", "before"] = self._sent(step.leave(ROOT, forward=False, last=True))
        return sent

    def _sent(self, acts: Iterable[Act]) -> list[Collective]:
        """Returns the collectives of acts; one rank alone, or a unit without parameters, sends nothing."""
        sent: list[Collective] = []
        for kind, (unit,) in acts:
            rows = self.units[unit].rows
            if rows and self.num_ranks > 1 and kind == "gather":
                size = rows * ELEMENT_BYTES[self.precision]
                sent.append(all_gather("data", DTYPES[self.precision], size, self.num_ranks))
            if rows and self.num_ranks > 1 and kind == "reduce":
                sent.append(reduce_scatter("data", "float32", rows * FLOAT32, self.num_ranks))
        return sent


@dataclass(kw_only=True)
class FSDPMemory:
    """Blocks that are gathered and reduced one by one.

    Attributes:
        units: one for each block, then that of the parameters outside all blocks.
        element_bytes: of a gathered parameter and of its gradient before the ranks' are summed up.
        copies_input: whether a reduction makes a copy of what it sums up, as gloo does.
    """

    units: Sequence[Unit]
    element_bytes: int
    reshard_after_forward: bool = True
    copies_input: bool = False
    _gathered: dict[int, int] = field(default_factory=dict, init=False)
    _in_flight: dict[int, int] = field(default_factory=dict, init=False)
    _forward_buffer: int = field(default=0, init=False)
    _unreduced: dict[int, int] = field(default_factory=dict, init=False)
    _block_gradients: dict[int, int] = field(default_factory=dict, init=False)
    _reduced: set[int] = field(default_factory=set, init=False)
    _input: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._step = FSDPStep(self.units, reshard_after_forward=self.reshard_after_forward)

    def held(self) -> Mapping[Part, int]:
        return {"parameters": self._rows * FLOAT32, "optimizer": 2 * self._rows * FLOAT32}

    def average(self) -> int:
        return self._rows * FLOAT32

    def begin(self) -> None:
        """Does nothing, since between micro steps every rank holds only its shards."""

    def moment(self, moment: Moment, size: int, forward: bool, micro: Micro, /) -> Iterator[Growth]:
        unit = moment.place if isinstance(moment.place, int) else ROOT
        match moment.kind:
            case "gradient":
                yield from self._collect(moment, size)
            case _ if not moment.whole:
                return
            case "enter":
                yield from self._follow(self._step.enter(unit, forward=forward), forward, micro)
            case "leave" if forward and unit == ROOT:
                yield Growth("buffers", -self._forward_buffer)
                self._forward_buffer = 0
            case "leave" if forward or unit != ROOT:
                yield from self._follow(self._step.leave(unit, forward=forward, last=micro.last), forward, micro)

    def after(self, micro: Micro, /) -> Iterator[Growth]:
        """Leaves the units that still hold gradients; the unit outside the blocks comes last."""
        for unit in [*(one for one in self._block_gradients if one != ROOT), ROOT]:
            yield from self._follow(self._step.leave(unit, forward=False, last=micro.last), False, micro)
        yield Growth("buffers", -self._input)
        self._input = 0

    def update(self) -> Iterator[Growth]:
        largest = max(Unit([shape], one.num_ranks).rows for one in self.units for shape in one.shapes) * FLOAT32
        yield Growth("buffers", largest)  # its squares, for the norm
        yield Growth("buffers", -largest)
        yield Growth("gradients", -self._rows * FLOAT32)
        self._reduced.clear()

    @property
    def _rows(self) -> int:
        return sum(unit.rows for unit in self.units)

    def _follow(self, acts: Iterable[Act], forward: bool, micro: Micro) -> Iterator[Growth]:
        for kind, (unit,) in acts:
            match kind:
                case "gather":
                    yield from self._start(unit)
                case "use":
                    yield from self._place(unit, forward)
                case "free":
                    yield Growth("buffers", -self._gathered.pop(unit, 0))
                    if not forward and not micro.last:
                        yield from self._keep(unit)
                case "reduce":
                    yield from self._reduce(unit)

    def _start(self, number: int) -> Iterator[Growth]:
        """Begins to gather a unit; one rank alone has nothing to gather."""
        unit = self.units[number]
        if unit.num_ranks == 1:
            return
        rounded = unit.rows * self.element_bytes * (self.element_bytes < FLOAT32)
        yield Growth("buffers", rounded)
        self._in_flight[number] = unit.whole * self.element_bytes
        yield Growth("buffers", self._in_flight[number])
        yield Growth("buffers", -rounded)

    def _place(self, number: int, forward: bool) -> Iterator[Growth]:
        """Copies a unit's values out of its all-gather buffer, which a forward pass keeps until the next unit's."""
        if forward:
            yield Growth("buffers", -self._forward_buffer)
            self._forward_buffer = self._in_flight.pop(number, 0)
        self._gathered[number] = self.units[number].whole * self.element_bytes
        yield Growth("buffers", self._gathered[number])
        if not forward:
            yield Growth("buffers", -self._in_flight.pop(number, 0))

    def _collect(self, moment: Moment, size: int) -> Iterator[Growth]:
        """Adds a gradient, which its unit holds until the unit's backward pass ends."""
        unit = moment.place if isinstance(moment.place, int) else ROOT
        (parameter,) = moment.parameters
        yield Growth("gradients", size)
        if self.element_bytes == FLOAT32 and parameter in self._unreduced:
            yield Growth("gradients", -size)  # added to the one that is there
            return
        self._block_gradients[unit] = self._block_gradients.get(unit, 0) + size
        if self.element_bytes == FLOAT32:
            self._unreduced[parameter] = size

    def _keep(self, number: int) -> Iterator[Growth]:
        """Keeps a unit's gradients in float32 until those of all micro steps are there."""
        if self.element_bytes == FLOAT32:
            return
        if number not in self._unreduced:
            self._unreduced[number] = sum(prod(shape) for shape in self.units[number].shapes) * FLOAT32
            yield Growth("gradients", self._unreduced[number])
        yield Growth("gradients", -self._block_gradients.pop(number, 0))

    def _reduce(self, number: int) -> Iterator[Growth]:
        """Sums a unit's gradients up over the ranks."""
        unit = self.units[number]
        gradients = self._block_gradients.pop(number, 0)
        if self.element_bytes < FLOAT32 and number in self._unreduced:
            yield Growth("gradients", -gradients)
            gradients = self._unreduced.pop(number)
        if number in self._reduced:
            return
        self._reduced.add(number)
        yield Growth("buffers", -self._gathered.pop(number, 0))
        yield Growth("buffers", -self._input)
        self._input = unit.whole * FLOAT32
        yield Growth("buffers", self._input)
        yield Growth("gradients", -gradients)
        yield Growth("gradients", unit.rows * FLOAT32)
        copied = self._input * (self.copies_input and unit.num_ranks > 1)
        yield Growth("buffers", copied)
        yield Growth("buffers", -copied)
        if number == ROOT:
            self._unreduced.clear()
