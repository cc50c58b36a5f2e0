"""What the parts of a run say about the collectives that they issue."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from moe.dispatch.messages import Exchange

Phase = Literal["forward", "backward"]
Place = int | Literal["before", "after"]
"""A block of the model by its index, or what a forward pass computes before the first or after the last one."""

ELEMENT_BYTES = {"fp32": 4, "bf16": 2}
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Collective:
    """A collective as every rank issues it; the sizes of an exchange of tokens depend on the rank.

    Attributes:
        group: meaning of its process group.
        op, dtype, bytes_in, bytes_out: as in a trace's record; unused with an exchange.
        exchange: tokens from each rank to each, or None.
    """

    group: str
    op: str = ""
    dtype: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    exchange: Exchange | None = None

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


@dataclass(frozen=True, slots=True)
class Operation:
    """A collective and where in a step it is issued.

    Attributes:
        micro: number of the micro step, from 0.
        phase: rollout, forward, backward or optimizer.
        layer: index of the block; None outside the blocks.
        flops: floating-point operations of a rank since its last collective; None if not computed.
        memory_bytes: bytes to and from its memory since then.
    """

    micro: int
    phase: str
    layer: int | None
    collective: Collective
    flops: int | None = None
    memory_bytes: int | None = None


class Program(Protocol):
    """What every rank does in one step of a trace."""

    def operations(self) -> Iterable[Operation]:
        """Its collectives in program order."""
        ...


class LayerTraffic(Protocol):
    """What layers send while they compute: tokens on the way to their experts, sums over pieces of a matrix."""

    def inside(self, phase: Phase, place: Place, /) -> Iterable[Collective]:
        """Collectives of one pass through a place, in order."""
        ...


class EngineTraffic(Protocol):
    """What an engine sends around the layers: parameters before they are used, gradients, the update."""

    def entering(self, phase: Phase, place: Place, micro: int, /) -> Iterable[Collective]:
        """Collectives before a pass computes in a place.

        Args:
            phase: forward or backward.
            place: where the pass arrives; a backward pass begins in "after" and ends in "before".
            micro: micro step, from 0.
        """
        ...

    def leaving(self, phase: Phase, place: Place, micro: int, /) -> Iterable[Collective]:
        """Collectives after a pass has computed in a place."""
        ...

    def evaluating(self, calls: int, /) -> Iterable[Mapping[Place, Sequence[Collective]]]:
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
    """Index of the block that a place is; None outside the blocks."""
    return place if isinstance(place, int) else None
