"""A pass through the layers of a model, of which every program is made."""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.trace.formula.protocol import Collective, LayerTraffic, Phase, Place


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
