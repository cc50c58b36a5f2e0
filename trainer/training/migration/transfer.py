"""Moving experts between the ranks of an expert-parallel group: all of them whole, or none.

An expert travels as one message: weight, both moments and moving average of each of its parameters, in float32, and
a checksum of these bytes that the sender made. Messages wait in spare buffers until every rank has found its own
intact. Only then are parameters and moments overwritten and the map switched, which needs no further communication.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from moe.migration import Move, moves_between
from moe.replica import home_slots
from trainer.distributed.engine.ema import MovingAverage
from trainer.distributed.engine.protocol import Engine
from trainer.model.parallel.state import Shard, StatePiece

KINDS = ("weight", "exp_avg", "exp_avg_sq", "average")
"""What travels of each parameter, in the order of the message."""
_CHECKSUM_WORDS = 2


def transfer(
    engine: Engine, average: MovingAverage, slot_to_expert: NDArray[np.int64], group: dist.ProcessGroup
) -> str | None:
    """Moves experts so that each is in its slot, between two optimiser steps; collective over all ranks.

    Only homes have anything to move: replicas appear and vanish with the map, [MoE layers, slots] of logical experts,
    equal everywhere. None, or why nothing moved, and the run may continue as it was; ValueError if the slots hold an
    expert nowhere or twice on a rank, or allow no choice of homes.
    """
    own = _Shards(engine, average, group)
    moves = list(moves_between(own.slots, home_slots(slot_to_expert, own.num_experts, group.size())))
    try:
        spare = {move: own.buffer(move) for move in moves if own.holds(move.target)}
    except RuntimeError:
        spare = None
    if not _everywhere(spare is not None, own.device) or spare is None:
        return "a rank has no memory for the spare buffers"
    for _, of_layer in groupby(moves, key=lambda move: move.layer):
        _exchange(list(of_layer), spare, own, group)
    intact = all(torch.equal(message[-_CHECKSUM_WORDS:], checksum(_words(message))) for message in spare.values())
    if not _everywhere(intact, own.device):
        return "an expert's checksum changed on the way"
    for move, message in spare.items():
        own.overwrite(move, message)
    engine.place(slot_to_expert)
    return None


def checksum(words: Tensor) -> Tensor:
    """Sums int32 words, each times the odd number of its place, modulo 2^64, as int32 [2]: no single change goes
    unnoticed.
    """
    places = torch.arange(1, 2 * len(words), 2, device=words.device)
    return (words.long() * places).sum(dim=0, keepdim=True).view(torch.int32)


class _Shards:
    """The experts at home on this rank, as messages; `slots` has the logical expert of each home, [MoE layers,
    experts].
    """

    def __init__(self, engine: Engine, average: MovingAverage, group: dist.ProcessGroup) -> None:
        self._engine, slots = engine, engine.slot_to_expert()
        self.num_experts = int(slots.max()) + 1
        self.slots = home_slots(slots, self.num_experts, group.size())
        self._rank, self._slots_per_rank = group.rank(), self.num_experts // group.size()
        self._shards: dict[tuple[int, int], list[Shard]] = defaultdict(list)
        for shard in engine.shards():
            if shard.expert is not None:
                self._shards[shard.expert].append(shard)
        self._averages: dict[str, list[StatePiece]] = defaultdict(list)
        for piece in average.state():
            self._averages[piece.name].append(piece)
        self.device = next(iter(self._shards.values()))[0].tensor.device

    def rank_of(self, slot: int) -> int:
        """Rank of the group that has a slot."""
        return slot // self._slots_per_rank

    def holds(self, slot: int) -> bool:
        """Whether a slot is on this rank."""
        return self.rank_of(slot) == self._rank

    def buffer(self, move: Move) -> Tensor:
        """Room for the expert that a move brings."""
        words = len(KINDS) * sum(shard.tensor.numel() for shard in self._at(move.layer, move.target))
        return torch.empty(words + _CHECKSUM_WORDS, dtype=torch.int32, device=self.device)

    def message(self, move: Move) -> Tensor:
        """The expert that a move takes away; collective over the ranks that hold a copy."""
        values = []
        for shard in self._at(move.layer, move.source):
            gathered = self._engine.gathered(shard, self._averages[shard.name])
            state = {**self._engine.expert_state(shard), "average": gathered}
            values += [state[kind].float().flatten() for kind in KINDS]
        words = torch.cat(values).view(torch.int32)
        return torch.cat([words, checksum(words)])

    def overwrite(self, move: Move, message: Tensor) -> None:
        """Puts an expert in the place of the one that was there."""
        shards = self._at(move.layer, move.target)
        sizes = [shard.tensor.numel() for shard in shards for _ in KINDS]
        values = iter(_words(message).view(torch.float32).split(sizes))
        for shard in shards:
            state = {kind: next(values).view(shard.tensor.shape) for kind in KINDS}
            whole = state.pop("average")
            for piece in self._averages[shard.name]:
                piece.tensor.copy_(piece.of(whole))
            self._engine.set_expert_state(shard, state)

    def _at(self, layer: int, slot: int) -> Sequence[Shard]:
        return self._shards[layer, int(self.slots[layer, slot])]


def _exchange(moves: list[Move], spare: dict[Move, Tensor], own: _Shards, group: dist.ProcessGroup) -> None:
    """Fills the spare buffers of one layer's moves."""
    operations = []
    for move in moves:
        if own.holds(move.source):
            message = own.message(move)
            if own.holds(move.target):
                spare[move].copy_(message)
            else:
                peer = dist.get_global_rank(group, own.rank_of(move.target))
                operations.append(dist.P2POp(dist.isend, message, peer, group))
        elif own.holds(move.target):
            peer = dist.get_global_rank(group, own.rank_of(move.source))
            operations.append(dist.P2POp(dist.irecv, spare[move], peer, group))
    for work in dist.batch_isend_irecv(operations) if operations else ():
        work.wait()


def _words(message: Tensor) -> Tensor:
    return message[:-_CHECKSUM_WORDS]


def _everywhere(well: bool, device: torch.device) -> bool:
    """Whether all ranks of the run are well."""
    flag = torch.tensor(int(well), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag)
