"""Where DeepSpeed keeps the weights that the optimiser updates, and their moments, for each ZeRO stage.

Without ZeRO they are the network's own parameters. ZeRO 1 and 2 lay the parameters of an optimiser group end to end
and give each rank one run of the elements, in float32; ZeRO 3 gives each rank its run of every parameter.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.model.parallel.parameters import NamedParameter
from trainer.model.parallel.region import Region
from trainer.model.parallel.state import StatePiece

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class _Held:
    """This rank's run of one parameter.

    Attributes:
        parameter: whose.
        region: where the run lies in it.
        owner: the tensor that the optimiser updates.
        first: number of the run's first element in the owner.
        count: its elements.
    """

    parameter: NamedParameter
    region: Region
    owner: Tensor
    first: int
    count: int

    def view(self, like_owner: Tensor) -> Tensor:
        """The run's part of a tensor that is laid out like the owner."""
        return like_owner.detach().view(-1).narrow(0, self.first, self.count)


def state_pieces(named: Iterable[NamedParameter], optimizer: Any, stage: int) -> list[StatePiece]:
    """Weights and moments of this rank as rectangles, views of DeepSpeed's memory.

    Args:
        named: parameters of the network.
        optimizer: what DeepSpeed made of it.
        stage: of ZeRO.
    """
    pieces = []
    states = _adam(optimizer, stage).state
    for held in _held(named, optimizer, stage):
        _with_moments(states, held.owner)
        tensors = {"weight": held.owner, **{kind: states[held.owner][kind] for kind in MOMENTS}}
        for kind, tensor in tensors.items():
            for offset, values in held.region.rectangles(held.view(tensor)):
                pieces.append(StatePiece(held.parameter.name, kind, held.region.shape, offset, values))
    return pieces


def master_pieces(named: Iterable[NamedParameter], optimizer: Any, stage: int) -> list[StatePiece]:
    """The float32 weights of this rank as rectangles, views of DeepSpeed's memory; see :func:`state_pieces`.

    Without ZeRO there are none besides those that the network computes with.
    """
    return [
        StatePiece(held.parameter.name, "weight", held.region.shape, offset, values)
        for held in (_held(named, optimizer, stage) if stage > 0 else ())
        for offset, values in held.region.rectangles(held.view(held.owner))
    ]


def updates_taken(optimizer: Any, stage: int) -> int:
    """Steps that AdamW has counted; 0 before its first."""
    return max((int(state["step"]) for state in _adam(optimizer, stage).state.values() if state), default=0)


def go_on(optimizer: Any, stage: int, updates: int) -> None:
    """Makes the network compute with the weights that were written, and AdamW count on; collective.

    Args:
        optimizer: what DeepSpeed made of it.
        stage: of ZeRO.
        updates: steps that AdamW had counted.
    """
    for state in _adam(optimizer, stage).state.values():
        state["step"].fill_(updates)
    if stage in (1, 2):
        optimizer.update_lp_params()
    elif stage == 3:
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)


def region_of(named: NamedParameter) -> Region:
    """Where what this rank keeps of a network's parameter lies in it."""
    parameter: Any = named.parameter
    shape, start = tuple(parameter.shape), 0
    if hasattr(parameter, "ds_tensor"):
        shape = tuple(parameter.ds_shape)
        start = parameter.partition_numel() * dist.get_rank(parameter.ds_process_group)
    return Region.whole(shape, start) if named.part is None else Region.of_part(named.part, shape, start)


def _adam(optimizer: Any, stage: int) -> torch.optim.Optimizer:
    return optimizer if stage == 0 else optimizer.optimizer


def _with_moments(states: Any, owner: Tensor) -> None:
    """Gives a tensor the state that AdamW makes in its first step."""
    if not states[owner]:
        step = torch.zeros((), device=owner.device)
        states[owner] = {"step": step, **{kind: torch.zeros_like(owner, requires_grad=False) for kind in MOMENTS}}


def _held(named: Iterable[NamedParameter], optimizer: Any, stage: int) -> Iterator[_Held]:
    if stage == 3:
        yield from _held_by_parameter(named, optimizer)
        return
    for parameter in named:
        region = region_of(parameter)
        if stage == 0:
            yield _Held(parameter, region, parameter.parameter, 0, parameter.parameter.numel())
            continue
        fragment: Any = vars(parameter.parameter)["_hp_mapping"]
        if fragment is not None:  # it lies in this rank's run, wholly or in part
            owner = optimizer.single_partition_of_fp32_groups[fragment.param_group_index]
            source, target = fragment.lp_fragment_address, fragment.hp_fragment_address
            yield _Held(parameter, replace(region, start=source.start), owner, target.start, target.numel)


def _held_by_parameter(named: Iterable[NamedParameter], optimizer: Any) -> Iterator[_Held]:
    by_id = {id(parameter.parameter): parameter for parameter in named}
    for parameters, owner in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
        first = 0
        for parameter in parameters:
            count = parameter.partition_numel()
            held_of = by_id[id(parameter)]
            yield _Held(held_of, region_of(held_of), owner, first, count)
            first += count
