"""Names of parameters that do not depend on where an expert lives."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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
    router: nn.Module
    experts: nn.Module
    ep_group: dist.ProcessGroup

    @property
    def slot_to_expert(self) -> NDArray[np.int64]:
        """Logical expert of each physical slot of those ranks, [slots]; an expert with replicas is in several."""
        ...

    @property
    def served(self) -> Tensor | None:
        """Whether a slot serves a token of this rank in the last pass, bool [tokens, slots]; None without replicas."""
        ...

    def expert_parameters(self) -> dict[int, dict[str, nn.Parameter]]:
        """Parameters of the experts at home on this rank by logical id and name."""
        ...


@dataclass(frozen=True)
class NamedParameter:
    """A parameter of this rank's network.

    Attributes:
        name: its name; an expert's carries the logical expert id in place of Megatron's slot.
        parameter: the parameter.
        expert: (MoE layer, logical expert id), None for the dense parameters.
        part: where it lies in the whole, None for a whole parameter.
    """

    name: str
    parameter: nn.Parameter
    expert: tuple[int, int] | None
    part: Part | None


def named_parameters(model: nn.Module) -> list[NamedParameter]:
    """Lists a network's parameters by their logical names.

    Args:
        model: a network whose MoE layers are :class:`moe.layer.PlacedMoELayer`.

    Returns:
        Every parameter once, in the order of ``model.named_parameters()``.
    """
    experts: dict[int, tuple[str, tuple[int, int]]] = {}
    parts: dict[int, Part] = {}
    for path, module in model.named_modules():
        if isinstance(module, HoldsParts):
            parts |= {id(module.get_parameter(name)): part for name, part in module.parts.items()}
        if isinstance(module, HoldsExperts):
            for expert, parameters in module.expert_parameters().items():
                for name, parameter in parameters.items():
                    experts[id(parameter)] = f"{path}.experts.{expert}.{name}", (module.layer, expert)
    listed = []
    for name, parameter in model.named_parameters():
        logical, expert = experts.get(id(parameter), (name, None))
        listed.append(NamedParameter(logical, parameter, expert, parts.get(id(parameter))))
    return listed


def held_pieces(model: nn.Module) -> list[StatePiece]:
    """What a rank's network holds of each parameter, as rectangles of the whole, of kind ``weight``.

    Args:
        model: a network whose parameters no engine has divided; writing to a rectangle changes them.
    """
    pieces = []
    for named in named_parameters(model):
        shape = tuple(named.parameter.shape)
        region = Region.whole(shape) if named.part is None else Region.of_part(named.part, shape)
        for offset, values in region.rectangles(named.parameter.detach()):
            pieces.append(StatePiece(named.name, "weight", region.shape, offset, values))
    return pieces
