"""Protocols between the parts of a run and a forecast: collectives that they issue, and memory that they hold."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

from moe.dispatch.messages import Exchange

Phase = Literal["forward", "backward"]
Place = int | Literal["before", "after"]
"""A block of the model by its index, or what a forward pass computes before the first or after the last one."""
Products = tuple[tuple[str, int, int], ...]
"""Products that are alike: their kind (gemm or attention), the operations of one, and their number."""

FLOAT32, FLOAT64 = 4, 8
ELEMENT_BYTES = {"fp32": FLOAT32, "bf16": 2}
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Moment:
    """An event of a pass that engines act upon.

    Attributes:
        kind: a module starts ("enter") or ends ("leave") its part of a pass, ranks add up their outputs ("sum") or the
            gradients of their input ("sum gradients") in a divided layer, or the gradient of a parameter is there
            ("gradient").
        place: block that the module belongs to.
        parameters: numbers of the module's own parameters in the order of the network, or of the one with a gradient.
        storage: of that gradient, where memory is followed; 0 otherwise.
        whole: whether the module is a whole block, or the network.
    """

    kind: Literal["enter", "leave", "sum", "sum gradients", "gradient"]
    place: Place
    parameters: tuple[int, ...]
    storage: int = 0
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Collective:
    """A collective as every rank issues it; the sizes of an exchange of tokens depend on the rank.

    Attributes:
        group: meaning of its process group.
        op, dtype, bytes_in, bytes_out: as in a trace's record; unused with an exchange.
        exchange: tokens from each rank to each, or None.
        handle: number by which an `Awaited` of the same pass refers to it; None: a rank waits for its end at once.
        until_next: whether a rank computes on until its next collective, for which it waits.
    """

    group: str
    op: str = ""
    dtype: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    exchange: Exchange | None = None
    handle: int | None = None
    until_next: bool = False

    def fields(self, rank: int, ranks: tuple[int, ...]) -> dict[str, Any]:
        """Operation, type and sizes in the record of a rank, given the ranks of its group."""
        if self.exchange is not None:
            return self.exchange.fields(rank % len(self.exchange.volume))  # consecutive ranks share experts
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("op", "dtype", "bytes_in", "bytes_out")}
        if self.op == "broadcast":
            fields |= {"root": ranks[0], "bytes_in": self.bytes_in if rank == ranks[0] else 0}
        return fields


def all_reduce(group: str, dtype: str, size: int) -> Collective:
    """An all-reduce of `size` bytes."""
    return Collective(group, "all_reduce", dtype, size, size)


def all_gather(group: str, dtype: str, size: int, num_ranks: int) -> Collective:
    """An all-gather to which each of `num_ranks` ranks contributes `size` bytes."""
    return Collective(group, "all_gather", dtype, size, size * num_ranks)


def broadcast(group: str, dtype: str, size: int) -> Collective:
    """A broadcast of `size` bytes by the first rank of each group."""
    return Collective(group, "broadcast", dtype, size, size)


def reduce_scatter(group: str, dtype: str, size: int, num_ranks: int) -> Collective:
    """A reduce-scatter of which each of `num_ranks` ranks receives `size` bytes."""
    return Collective(group, "reduce_scatter", dtype, size * num_ranks, size)


class Act(NamedTuple):
    """An action of an engine in a step, on parameters, or on units of them, by their numbers.

    Parameters are gathered, used by a module, given up, or their gradients put into a bucket and reduced; or ranks
    add up their parts of a divided layer's result.
    """

    kind: Literal["gather", "use", "free", "put", "reduce", "sum", "sum gradients"]
    numbers: Sequence[int] = ()


class Awaited(NamedTuple):
    """A point from which on a rank needs the results of the collectives with these handles."""

    handles: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """A collective and where in a step it is issued.

    Attributes:
        micro: number of the micro step, from 0.
        phase: rollout, forward, backward or optimizer.
        layer: index of the block; None outside the blocks.
        flops: floating-point operations of a rank since its last collective; None if not computed.
        memory_bytes: bytes to and from its memory since then.
        products: the products that make those operations.
        awaited: number of the operation in the step before which a rank waits for it; None: it waits at once.
    """

    micro: int
    phase: str
    layer: int | None
    collective: Collective
    flops: int | None = None
    memory_bytes: int | None = None
    products: Products | None = None
    awaited: int | None = None


class Program(Protocol):
    """Collectives of every rank in one step of a trace."""

    def operations(self) -> Iterable[Operation]:
        """Its collectives in program order."""
        ...


class LayerTraffic(Protocol):
    """Collectives of layers while they compute: exchanges of tokens with experts, sums over parts of a matrix."""

    def inside(self, phase: Phase, place: Place, /) -> Iterable[Collective]:
        """Collectives of one pass through a place, in order."""
        ...


class EngineTraffic(Protocol):
    """Collectives of an engine around the layers: parameters before they are used, gradients, the update."""

    def entering(self, phase: Phase, place: Place, micro: int, /) -> Iterable[Collective | Awaited]:
        """Collectives before a pass computes in a place.

        Args:
            phase: forward or backward.
            place: where the pass arrives; a backward pass begins in "after" and ends in "before".
            micro: micro step, from 0.
        """
        ...

    def leaving(self, phase: Phase, place: Place, micro: int, /) -> Iterable[Collective | Awaited]:
        """Collectives after a pass has computed in a place."""
        ...

    def evaluating(self, calls: int, /) -> Iterable[Mapping[Place, Sequence[Collective | Awaited]]]:
        """Collectives of forward passes in evaluation mode between two steps, without gradient.

        Args:
            calls: passes from taking the network to giving it back.

        Returns:
            For each pass, what comes before it computes in a place; places before which nothing comes may be missing.
        """
        ...

    def update(self) -> Iterable[Collective]:
        """Collectives of the optimiser's step."""
        ...


@dataclass(frozen=True, slots=True)
class Passage:
    """Traffic of the layers of a model while a pass computes in them, in the order of a block."""

    num_blocks: int
    layers: tuple[LayerTraffic, ...] = ()

    @property
    def places(self) -> list[Place]:
        """The places that a forward pass goes through, in order; a backward pass takes them from the last one."""
        return ["before", *range(self.num_blocks), "after"]

    def inside(self, phase: Phase, place: Place) -> Iterator[Collective]:
        """Collectives of one pass through a place, in order."""
        return (collective for part in self.layers for collective in part.inside(phase, place))

    def forward(self) -> Iterator[tuple[int | None, Collective]]:
        """Collectives of a forward pass in order, each with its block."""
        for place in self.places:
            yield from ((layer_of(place), collective) for collective in self.inside("forward", place))


def layer_of(place: Place) -> int | None:
    """Returns the index of the block at a place; None outside the blocks."""
    return place if isinstance(place, int) else None


Part = Literal["parameters", "frozen", "gradients", "optimizer", "average", "activations", "dispatch", "buffers"]
PARTS: tuple[Part, ...] = get_args(Part)
"""Parts of the memory of a rank: the weights that a network computes with and learns, and those that are frozen;
gradients; AdamW's moments and float32 weights; the moving average; what a pass keeps and works with; tokens on the way
to their experts; and what engines gather, reduce and copy."""


class Growth(NamedTuple):
    """A part of the memory grows by so many bytes; below zero where they are given back."""

    part: Part
    size: int


class Micro(NamedTuple):
    """Place of a micro batch in an optimiser step; the backward pass of the last one averages the gradients."""

    first: bool
    last: bool


class EngineMemory(Protocol):
    """Memory of an engine around the layers while a step is taken, on the rank that holds most."""

    def held(self) -> Mapping[Part, int]:
        """Bytes by part that are held between steps, the moving average left out."""
        ...

    def begin(self) -> None:
        """A micro step begins."""
        ...

    def moment(self, moment: Moment, size: int, forward: bool, micro: Micro, /) -> Iterable[Growth]:
        """Changes at a moment of a pass.

        Args:
            moment: of the pass.
            size: bytes of the gradient that is there; it belongs to the engine from now on.
            forward: whether it is the forward pass.
            micro: micro batch of the pass.
        """
        ...

    def after(self, micro: Micro, /) -> Iterable[Growth]:
        """Changes at the end of a backward pass."""
        ...

    def update(self) -> Iterable[Growth]:
        """Changes in the optimiser's step; afterwards no more is held than :meth:`held` says."""
        ...

    def average(self) -> int:
        """Bytes of the moving average, in float32."""
        ...
