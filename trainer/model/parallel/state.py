"""Parts of parameters and of their training state: names, and positions of stored values in the whole.

Names do not depend on where an expert lives.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.model.parallel.division import HoldsParts, Part


@dataclass(frozen=True)
class Region:
    """A consecutive run of elements, from `start` on, of a box at `offset` in a tensor or in a rank's `part` of it.

    Elements are counted row by row; `shape` is that of the whole tensor.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]
    sizes: tuple[int, ...]
    start: int = 0
    part: Part | None = None

    @classmethod
    def whole(cls, shape: tuple[int, ...], start: int = 0) -> "Region":
        """The region of an undivided tensor from element `start` on."""
        return cls(shape, (0,) * len(shape), shape, start)

    @classmethod
    def of_part(cls, part: Part, sizes: tuple[int, ...], start: int = 0) -> "Region":
        """The region of a rank's part of a tensor from element `start` on."""
        return cls(part.shape, (0,) * len(sizes), sizes, start, part)

    def rectangles(self, values: Tensor) -> list[tuple[tuple[int, ...], Tensor]]:
        """Cuts contiguous values, padded behind the box, into rectangles of the whole: at most 3, and one a stretch."""
        flat = values.view(-1)
        stop = min(self.start + len(flat), math.prod(self.sizes))
        cut, taken = [], 0
        for offset, sizes in _rectangles(self.sizes, self.start, stop):
            place = tuple(inside + corner for inside, corner in zip(offset, self.offset, strict=True))
            rectangle = flat.narrow(0, taken, math.prod(sizes)).view(sizes)
            cut += [(place, rectangle)] if self.part is None else self.part.place(place, rectangle)
            taken += math.prod(sizes)
        return cut


def _rectangles(sizes: tuple[int, ...], start: int, stop: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offset and sizes of the rectangles that make up the elements from `start` to before `stop` of a box."""
    if start >= stop:
        return []
    if len(sizes) <= 1:
        return [((start,), (stop - start,))] if sizes else [((), ())]
    row = math.prod(sizes[1:])
    first, last = -(-start // row), stop // row
    if first > last:
        return _in_row(sizes, first - 1, start, stop)
    whole = ((first, *(0 for _ in sizes[1:])), (last - first, *sizes[1:]))
    return [
        *_in_row(sizes, first - 1, start, first * row),
        *([whole] if first < last else []),
        *_in_row(sizes, last, last * row, stop),
    ]


def _in_row(sizes: tuple[int, ...], index: int, start: int, stop: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The rectangles inside the sub-box at one index of the first dimension."""
    before = index * math.prod(sizes[1:])
    inside = _rectangles(sizes[1:], start - before, stop - before)
    return [((index, *offset), (1, *shape)) for offset, shape in inside]


@dataclass(frozen=True)
class Shard:
    """This rank's stored values of one parameter, shared with the engine; an expert's name has its logical id.

    `expert`: (MoE layer, logical expert id), None for the dense parameters.
    """

    name: str
    tensor: Tensor
    expert: tuple[int, int] | None
    region: Region

    @property
    def shape(self) -> tuple[int, ...]:
        return self.region.shape


@dataclass(frozen=True)
class StatePiece:
    """A rectangle at `offset` of one tensor of the training state: writing to its float32 view changes the state.

    Of kind ``weight`` (the master copy), ``exp_avg`` or ``exp_avg_sq`` from an engine, ``ema`` from the moving average.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    tensor: Tensor

    def of(self, whole: Tensor) -> Tensor:
        return whole[tuple(slice(o, o + n) for o, n in zip(self.offset, self.tensor.shape, strict=True))]


@runtime_checkable
class HoldsExperts(Protocol):
    """A layer with experts, such as :class:`moe.layer.PlacedMoELayer`, known without importing Megatron.

    Attributes:
        router: decides which experts a token visits.
        experts: computes the rows that arrive here; its second argument is their number by slot.
        ep_group: the ranks that share the experts.
    """

    layer: int
    ep_group: dist.ProcessGroup
    if TYPE_CHECKING:  # torch keeps submodules where isinstance does not look from Python 3.12 on
        router: nn.Module
        experts: nn.Module

    @property
    def slot_to_expert(self) -> NDArray[np.int64]:
        """Logical expert of each physical slot of those ranks, [slots]; an expert with replicas is in several."""
        ...

    @property
    def local_experts(self) -> list[int]:
        """Logical experts at home on this rank, in the order of the rows of its parameters."""
        ...

    @property
    def served(self) -> Tensor | None:
        """Which slots served each token of this rank in the last pass, bool [tokens, slots]; None without replicas."""
        ...

    def expert_stacks(self) -> dict[str, nn.Parameter]:
        """Parameters of the experts at home on this rank by name, [experts, ...]: one row for each."""
        ...


@dataclass(frozen=True)
class ExpertStack:
    """Logical ids and names (``blocks.3.feed_forward.experts.17.linear_fc1.weight``) of the rows of a parameter."""

    layer: int
    experts: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class NamedParameter:
    """A parameter of this rank's network; `stack` is None for dense ones, `part` None for undivided ones."""

    name: str
    parameter: nn.Parameter
    stack: ExpertStack | None
    part: Part | None


def named_parameters(model: nn.Module) -> list[NamedParameter]:
    """Every parameter of a network once, in the order of ``model.named_parameters()``."""
    stacks: dict[int, ExpertStack] = {}
    parts: dict[int, Part] = {}
    for path, module in model.named_modules():
        if isinstance(module, HoldsParts):
            parts |= {id(module.get_parameter(name)): part for name, part in module.parts.items()}
        if isinstance(module, HoldsExperts):
            experts = tuple(module.local_experts)
            for name, parameter in module.expert_stacks().items():
                names = tuple(f"{path}.experts.{expert}.{name}" for expert in experts)
                stacks[id(parameter)] = ExpertStack(module.layer, experts, names)
    return [
        NamedParameter(name, parameter, stacks.get(id(parameter)), parts.get(id(parameter)))
        for name, parameter in model.named_parameters()
    ]


def held_pieces(model: nn.Module) -> list[StatePiece]:
    """Rectangles of kind ``weight`` of a network that no engine has divided; writing to them changes it."""
    pieces = []
    for named in named_parameters(model):
        values = named.parameter.detach()
        if named.stack is not None:
            for name, row in zip(named.stack.names, values, strict=True):
                pieces.append(StatePiece(name, "weight", tuple(row.shape), (0,) * row.ndim, row))
            continue
        shape = tuple(values.shape)
        region = Region.whole(shape) if named.part is None else Region.of_part(named.part, shape)
        for offset, rectangle in region.rectangles(values):
            pieces.append(StatePiece(named.name, "weight", region.shape, offset, rectangle))
    return pieces
