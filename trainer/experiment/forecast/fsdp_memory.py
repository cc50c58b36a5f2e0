"""What FSDP2 holds, whose ranks keep rows of every parameter.

Found by reading PyTorch 2.13, torch/distributed/fsdp/_fully_shard.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from trainer.experiment.forecast.engine_memory import Growth, Micro, Part
from trainer.experiment.forecast.recording import Moment

FLOAT32 = 4
Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Unit:
    """Parameters that are gathered together: those of a block, or those of none."""

    shapes: Shapes
    num_ranks: int

    @property
    def rows(self) -> int:
        """Elements of the rows of a rank, filled up to as many on every rank."""
        return sum(-(-shape[0] // self.num_ranks) * prod(shape[1:]) for shape in self.shapes)

    @property
    def whole(self) -> int:
        """Elements of all rows, filled up."""
        return self.rows * self.num_ranks


@dataclass(kw_only=True)
class FSDPMemory:
    """Blocks that are gathered and reduced one by one.

    Attributes:
        root: the parameters that belong to no block.
        element_bytes: of a gathered parameter and of its gradient before the ranks' are summed up.
        reshard_after_forward: whether blocks let go of their parameters after their forward pass.
        copies_input: whether a reduction makes a copy of what it sums up, as gloo does.
    """

    blocks: tuple[Unit, ...]
    root: Unit
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

    def held(self) -> Mapping[Part, int]:
        return {"parameters": self._rows * FLOAT32, "optimizer": 2 * self._rows * FLOAT32}

    def average(self) -> int:
        return self._rows * FLOAT32

    def snapshot(self) -> int:
        return 4 * self.average()

    def before(self, _micro: Micro, /) -> Iterator[Growth]:
        yield from ()

    def moment(self, moment: Moment, size: int, forward: bool, micro: Micro, /) -> Iterator[Growth]:
        unit = moment.place if isinstance(moment.place, int) else ROOT
        match moment.kind:
            case "gradient":
                yield from self._collect(moment, size)
            case _ if not moment.whole:
                return
            case "enter" if forward and unit not in self._gathered:
                yield from self._gather_forward(unit)
            case "leave" if forward and unit == ROOT:
                yield Growth("buffers", -self._forward_buffer)
                self._forward_buffer = 0
            case "leave" if forward and self.reshard_after_forward:
                yield from self._let_go(unit)
            case "enter" if not forward:
                yield from self._copy_out(unit)
                yield from self._prefetch((len(self.blocks) if unit == ROOT else unit) - 1)
            case "leave" if not forward and unit != ROOT:
                yield from self._finish(unit, micro)

    def after(self, micro: Micro, /) -> Iterator[Growth]:
        """What belongs to no block comes last."""
        for unit in [*self._block_gradients]:
            if unit != ROOT:
                yield from self._finish(unit, micro)
        yield from self._finish(ROOT, micro)
        yield Growth("buffers", -self._input)
        self._input = 0

    def update(self) -> Iterator[Growth]:
        largest = max(
            -(-shape[0] // self.root.num_ranks) * prod(shape[1:]) for unit in self._units for shape in unit.shapes
        )
        yield Growth("buffers", largest * FLOAT32)  # its squares, for the norm
        yield Growth("buffers", -largest * FLOAT32)
        yield Growth("gradients", -self._rows * FLOAT32)
        self._reduced.clear()

    def averaging(self) -> Iterator[Growth]:
        yield from ()

    @property
    def _units(self) -> tuple[Unit, ...]:
        return (*self.blocks, self.root)

    @property
    def _rows(self) -> int:
        return sum(unit.rows for unit in self._units)

    def _gather_forward(self, number: int) -> Iterator[Growth]:
        """Gathers while the buffer of the unit before is kept until this one's values are copied out of its own."""
        yield from self._start(number)
        yield Growth("buffers", -self._forward_buffer)
        self._forward_buffer = self._in_flight.pop(number, 0)
        yield from self._place(number)

    def _prefetch(self, number: int) -> Iterator[Growth]:
        if number >= 0 and number not in self._gathered and number not in self._in_flight:
            yield from self._start(number)

    def _copy_out(self, number: int) -> Iterator[Growth]:
        if number in self._gathered:
            return
        if number not in self._in_flight:
            yield from self._start(number)
        yield from self._place(number)
        yield Growth("buffers", -self._in_flight.pop(number, 0))

    def _start(self, number: int) -> Iterator[Growth]:
        """Begins to gather a unit; one rank alone has nothing to gather."""
        unit = self._units[number]
        if unit.num_ranks == 1:
            return
        rounded = unit.rows * self.element_bytes * (self.element_bytes < FLOAT32)
        yield Growth("buffers", rounded)
        self._in_flight[number] = unit.whole * self.element_bytes
        yield Growth("buffers", self._in_flight[number])
        yield Growth("buffers", -rounded)

    def _place(self, number: int) -> Iterator[Growth]:
        self._gathered[number] = self._units[number].whole * self.element_bytes
        yield Growth("buffers", self._gathered[number])

    def _let_go(self, number: int) -> Iterator[Growth]:
        yield Growth("buffers", -self._gathered.pop(number, 0))

    def _collect(self, moment: Moment, size: int) -> Iterator[Growth]:
        """A gradient stays with its unit until the unit is finished."""
        unit = moment.place if isinstance(moment.place, int) else ROOT
        (parameter,) = moment.parameters
        yield Growth("gradients", size)
        if self.element_bytes == FLOAT32 and parameter in self._unreduced:
            yield Growth("gradients", -size)  # added to the one that is there
            return
        self._block_gradients[unit] = self._block_gradients.get(unit, 0) + size
        if self.element_bytes == FLOAT32:
            self._unreduced[parameter] = size

    def _finish(self, number: int, micro: Micro) -> Iterator[Growth]:
        """Sums a unit's gradients up over the ranks, or keeps them in float32 until they all are there."""
        unit = self._units[number]
        if not micro.last:
            yield from self._let_go(number)
            if self.element_bytes < FLOAT32:
                if number not in self._unreduced:
                    self._unreduced[number] = sum(prod(shape) for shape in unit.shapes) * FLOAT32
                    yield Growth("gradients", self._unreduced[number])
                yield Growth("gradients", -self._block_gradients.pop(number, 0))
            return
        gradients = self._block_gradients.pop(number, 0)
        if self.element_bytes < FLOAT32 and number in self._unreduced:
            yield Growth("gradients", -gradients)
            gradients = self._unreduced.pop(number)
        if number in self._reduced:
            return
        self._reduced.add(number)
        yield from self._let_go(number)
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


ROOT = -1
"""What belongs to no block, as a number of a unit."""
