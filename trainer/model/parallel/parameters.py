"""Names of parameters that do not depend on where an expert lives."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.model.parallel.division import HoldsParts, Part
from trainer.model.parallel.region import Region
from trainer.model.parallel.state import StatePiece


@runtime_checkable
class HoldsExperts(Protocol):
    """A layer with experts, such as :class:`moe.layer.PlacedMoELayer`, known without importing Megatron.

    Attributes:
        layer: index of its block.
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
        """Whether a slot serves a token of this rank in the last pass, bool [tokens, slots]; None without replicas."""
        ...

    def expert_stacks(self) -> dict[str, nn.Parameter]:
        """Parameters of the experts at home on this rank by name, [experts, ...]: one row for each."""
        ...


@dataclass(frozen=True)
class ExpertStack:
    """What the rows of a parameter of experts are. Outside the network only they have names: experts move.

    Attributes:
        layer: index of the MoE layer's block.
        experts: logical expert id of each row.
        names: logical name of each row, such as ``blocks.3.feed_forward.experts.17.linear_fc1.weight``.
    """

    layer: int
    experts: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class NamedParameter:
    """A parameter of this rank's network.

    Attributes:
        name: its name in the network.
        parameter: the parameter.
        stack: what its rows are, if it holds a matrix of several experts; None for the dense parameters.
        part: where it lies in the whole, None for a whole parameter.
    """

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
    """What a rank's network, divided by no engine, holds as rectangles of kind ``weight``; writing to them
    changes it.
    """
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
