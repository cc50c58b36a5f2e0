"""Where DeepSpeed keeps the weights that the optimiser updates, and their moments, for each ZeRO stage.

Without ZeRO they are the network's own parameters. ZeRO 1 and 2 concatenate the parameters of an optimiser group and
give each rank one run of the elements, in float32; ZeRO 3 gives each rank its run of every parameter.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.distributed.engine.protocol import MOMENTS, STATE
from trainer.model.parallel.state import ExpertStack, NamedParameter, Region, Shard, StatePiece


@dataclass(frozen=True)
class _Held:
    """This rank's run of a parameter, or of one expert's row of it: `region` of the logical tensor `name`.

    Stored in `owner`, the tensor that the optimiser updates, from element `first`.
    """

    name: str
    region: Region
    owner: Tensor
    first: int
    count: int

    def view(self, like_owner: Tensor) -> Tensor:
        """The elements `first` to `first + count` of a tensor with the layout of the owner."""
        return like_owner.detach().view(-1).narrow(0, self.first, self.count)

    def values(self, states: Any, kinds: Collection[str] = STATE) -> dict[str, Tensor]:
        """The run of each kind in `kinds`, weight or moment, as a view of the optimiser's tensor."""
        if not {*kinds}.isdisjoint(MOMENTS):
            _with_moments(states, self.owner)
        return {kind: self.view(self.owner if kind == "weight" else states[self.owner][kind]) for kind in kinds}


def state_pieces(
    named: Iterable[NamedParameter], optimizer: Any, stage: int, kinds: Collection[str]
) -> list[StatePiece]:
    """This rank's weights and moments as rectangular views of DeepSpeed's memory; allocates only moments in `kinds`."""
    pieces = []
    states = _adam(optimizer, stage).state
    for held in _held(named, optimizer, stage):
        for kind, run in held.values(states, kinds).items():
            for offset, values in held.region.rectangles(run):
                pieces.append(StatePiece(held.name, kind, held.region.shape, offset, values))
    return pieces


def network_shards(named: Iterable[NamedParameter]) -> list[Shard]:
    """One shard for each dense parameter and each row of a stack of experts on this rank."""
    shards = []
    for one in named:
        stored: Any = getattr(one.parameter, "ds_tensor", one.parameter).data
        if one.stack is None:
            shards.append(Shard(one.name, stored, None, region_of(one)))
            continue
        region = Region.whole(tuple(stored.shape[1:]))
        for name, expert, row in zip(one.stack.names, one.stack.experts, stored, strict=True):
            shards.append(Shard(name, row, (one.stack.layer, expert), region))
    return shards


def set_expert_state(named: NamedParameter, name: str, state: Mapping[str, Tensor], optimizer: Any, stage: int) -> None:
    """Sets weight and moments of one row of a stack of experts, in optimiser and network; ZeRO stages 0 to 2 only."""
    assert named.stack is not None
    named.parameter.data[named.stack.names.index(name)].copy_(state["weight"])
    held = _held_of_row(named, name, optimizer, stage)
    if held is not None:
        for kind, run in held.values(_adam(optimizer, stage).state).items():
            run.copy_(state[kind].reshape(-1).narrow(0, held.region.start, held.count))


def updates_taken(optimizer: Any, stage: int) -> int:
    """Steps counted by AdamW; 0 before its first."""
    return max((int(state["step"]) for state in _adam(optimizer, stage).state.values() if state), default=0)


def go_on(optimizer: Any, stage: int, updates: int) -> None:
    """Makes the network use the weights that were written, and sets AdamW's step count to `updates`; collective."""
    for state in _adam(optimizer, stage).state.values():
        state["step"].fill_(updates)
    use_weights(optimizer, stage)


def use_weights(optimizer: Any, stage: int) -> None:
    """Makes the network use the float32 weights that were written; collective."""
    if stage in (1, 2):
        optimizer.update_lp_params()
    elif stage == 3:
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)


def region_of(named: NamedParameter) -> Region:
    """The range of a network's parameter that this rank keeps."""
    parameter: Any = named.parameter
    shape, start = tuple(parameter.shape), 0
    if hasattr(parameter, "ds_tensor"):
        shape = tuple(parameter.ds_shape)
        start = parameter.partition_numel() * dist.get_rank(parameter.ds_process_group)
    return Region.whole(shape, start) if named.part is None else Region.of_part(named.part, shape, start)


def _adam(optimizer: Any, stage: int) -> torch.optim.Optimizer:
    return optimizer if stage == 0 else optimizer.optimizer


def _with_moments(states: Any, owner: Tensor) -> None:
    """Gives a tensor the state that AdamW would create in its first step."""
    if not states[owner]:
        step = torch.zeros((), device=owner.device)
        states[owner] = {"step": step, **{kind: torch.zeros_like(owner, requires_grad=False) for kind in MOMENTS}}


def _held(named: Iterable[NamedParameter], optimizer: Any, stage: int) -> Iterator[_Held]:
    if stage == 3:
        yield from _held_by_parameter(named, optimizer)
        return
    for parameter in named:
        held = _held_of(parameter, optimizer, stage)
        if held is not None:
            yield from (held,) if parameter.stack is None else _rows(held, parameter.stack)


def _held_of(named: NamedParameter, optimizer: Any, stage: int) -> _Held | None:
    region = region_of(named)
    if stage == 0:
        return _Held(named.name, region, named.parameter, 0, named.parameter.numel())
    fragment: Any = vars(named.parameter)["_hp_mapping"]
    if fragment is None:  # this rank keeps no element
        return None
    owner = optimizer.single_partition_of_fp32_groups[fragment.param_group_index]
    source, target = fragment.lp_fragment_address, fragment.hp_fragment_address
    return _Held(named.name, replace(region, start=source.start), owner, target.start, target.numel)


def _held_of_row(named: NamedParameter, name: str, optimizer: Any, stage: int) -> _Held | None:
    held = _held_of(named, optimizer, stage)
    assert named.stack is not None
    rows = () if held is None else _rows(held, named.stack)
    return next((row for row in rows if row.name == name), None)


def _rows(held: _Held, stack: ExpertStack) -> Iterator[_Held]:
    """Splits a run of a stack at the borders of its rows."""
    start, shape = held.region.start, held.region.shape[1:]
    size = math.prod(shape)
    for row in range(start // size, -(-(start + held.count) // size)):
        begin, end = max(start, row * size), min(start + held.count, (row + 1) * size)
        region = Region.whole(shape, begin - row * size)
        yield _Held(stack.names[row], region, held.owner, held.first + begin - start, end - begin)


def _held_by_parameter(named: Iterable[NamedParameter], optimizer: Any) -> Iterator[_Held]:
    by_id = {id(parameter.parameter): parameter for parameter in named}
    for parameters, owner in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
        first = 0
        for parameter in parameters:
            count = parameter.partition_numel()
            held_of = by_id[id(parameter)]
            yield _Held(held_of.name, region_of(held_of), owner, first, count)
            first += count
