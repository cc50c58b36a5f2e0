"""Parts of parameters and of their training state."""

from dataclasses import dataclass

from torch import Tensor

from trainer.model.parallel.region import Region


@dataclass(frozen=True)
class Shard:
    """What this rank stores of one parameter.

    Attributes:
        name: logical name; an expert's carries its logical id, wherever it lives.
        tensor: the stored values, shared with the engine; the whole parameter, or this rank's part of it, flat.
        expert: (MoE layer, logical expert id), None for the dense parameters.
        region: where these values lie in the whole parameter.
    """

    name: str
    tensor: Tensor
    expert: tuple[int, int] | None
    region: Region

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole parameter."""
        return self.region.shape

    def rectangles(self, values: Tensor) -> list[tuple[tuple[int, ...], Tensor]]:
        """Offsets in the whole parameter, and views, of the rectangles of values shaped like ``tensor``."""
        return self.region.rectangles(values)


@dataclass(frozen=True)
class StatePiece:
    """A rectangle of one tensor of the training state.

    Attributes:
        name: logical name of the parameter; an expert's carries its logical id, wherever it lives.
        kind: ``weight`` (the master copy), ``exp_avg`` or ``exp_avg_sq`` from an engine; ``ema`` from the moving
            average.
        shape: of the whole tensor.
        offset: of the rectangle in it.
        tensor: float32, a view of its owner's memory: writing to it changes the state.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    tensor: Tensor

    def of(self, whole: Tensor) -> Tensor:
        """The piece's rectangle of a tensor of the whole shape, a view."""
        return whole[tuple(slice(o, o + n) for o, n in zip(self.offset, self.tensor.shape, strict=True))]
