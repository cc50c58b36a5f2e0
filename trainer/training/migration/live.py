"""Live migration: experts move between ranks during a run when the token traffic has drifted from their placement.

An expert travels as one message: weight, both moments and moving average of each of its parameters, in float32, and
a checksum of these bytes that the sender made. Messages wait in spare buffers until every rank has found its own
intact. Only then are parameters and moments overwritten and the map switched, which needs no further communication.
"""

import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from moe.layer import PlacedMoELayer
from moe.migration import MigrationPlan, MigrationTrigger, Move, moves_between
from moe.placement.placement import objective_of
from moe.placement.topology import Topology
from moe.replica import Slots, home_slots
from trainer.config.derived import expert_parameters
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.distributed.engine.ema import MovingAverage
from trainer.distributed.engine.protocol import Engine
from trainer.model.parallel.state import Shard, StatePiece
from trainer.training.migration.window import WINDOWS

KINDS = ("weight", "exp_avg", "exp_avg_sq", "average")
"""State that is sent for each parameter, in the order of the message."""
_CHECKSUM_WORDS = 2


def transfer(
    engine: Engine, average: MovingAverage, slot_to_expert: NDArray[np.int64], group: dist.ProcessGroup
) -> str | None:
    """Moves experts to the slots of `slot_to_expert`, between two optimiser steps; collective over all ranks.

    The map, [MoE layers, slots] of logical experts, is equal on all ranks. Only homes move; replicas appear and vanish
    with the map. Returns None, or the reason why nothing moved; the run may then continue. Raises ValueError if the
    slots hold an expert nowhere or twice on a rank, or allow no choice of homes.
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
    """Sums int32 words, each times an odd number by its place, modulo 2^64, as int32 [2]; changes with any one word."""
    places = torch.arange(1, 2 * len(words), 2, device=words.device)
    return (words.long() * places).sum(dim=0, keepdim=True).view(torch.int32)


class _Shards:
    """The experts at home on this rank, as messages; `slots`: logical expert of each home [MoE layers, experts]."""

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
        """An empty buffer for the message of a move to this rank."""
        words = len(KINDS) * sum(shard.tensor.numel() for shard in self._at(move.layer, move.target))
        return torch.empty(words + _CHECKSUM_WORDS, dtype=torch.int32, device=self.device)

    def message(self, move: Move) -> Tensor:
        """The message of the expert that a move takes from this rank; collective over the ranks with a copy."""
        values = []
        for shard in self._at(move.layer, move.source):
            gathered = self._engine.gathered(shard, self._averages[shard.name])
            state = {**self._engine.expert_state(shard), "average": gathered}
            values += [state[kind].float().flatten() for kind in KINDS]
        words = torch.cat(values).view(torch.int32)
        return torch.cat([words, checksum(words)])

    def overwrite(self, move: Move, message: Tensor) -> None:
        """Writes a message's expert over the one at the move's target."""
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
    """Whether `well` is true on all ranks of the run; collective."""
    flag = torch.tensor(int(well), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag)


class LiveMigration:
    """Examines the routers' choices at intervals, and moves experts between the ranks that share them.

    Every rank comes to the same decision from the same counts; they check that before anything moves. Replicas, and
    experts with replicas, do not move: the estimated saving counts each expert at its home alone, which is right only
    for experts without replicas.
    """

    def __init__(self, config: RunConfig, layout: Layout, engine: Engine, average: MovingAverage) -> None:
        from megatron.core import parallel_state

        assert config.moe is not None
        assert config.moe.migration is not None
        assert layout.placement is not None
        self._config, self._engine, self._average = config.moe.migration, engine, average
        self._folder, self._dispatch = config.run.dir, objective_of(config.moe.dispatch)
        group = parallel_state.get_expert_model_parallel_group()
        assert isinstance(group, dist.ProcessGroup)
        self._group, self._num_experts = group, config.moe.num_experts
        layers = [module for module in engine.module.modules() if isinstance(module, PlacedMoELayer)]
        self._device = next(layers[0].parameters()).device
        self._window = WINDOWS[self._dispatch](layers, group)
        placement = layout.placement
        cost = np.array(placement.cost_matrix)
        element_bytes = 2 if config.engine.precision == "bf16" else 4
        self._expert_bytes = len(KINDS) * 4 * expert_parameters(config)
        self._trigger = MigrationTrigger(
            self._config,
            Topology(placement.num_nodes, placement.ranks_per_node, cost, unit="units of the cost matrix"),
            self._dispatch,
            token_bytes=2 * config.model.hidden * element_bytes,  # once forward, once backward
            expert_bytes=layout.expert_data_parallel * self._expert_bytes,
        )
        self.version = self._moved = 0
        self._placed_at: float | None = None

    def after(self, step: int) -> None:
        """Moves experts between two steps, if it is due and saves time; collective then."""
        self._window.steps += 1
        if step % self._config.every:
            return
        if step >= self._config.first:
            self._look(step)
        self._window.clear()

    def figures(self) -> dict[str, float]:
        """``migration_regret`` of the last look, ``migration_moved_experts`` and ``migration_version`` over the run.

        ``time.placement_success_s`` is the Unix time at which this process last moved experts.
        """
        figures = {"migration_moved_experts": float(self._moved), "migration_version": float(self.version)}
        if self._trigger.regret is not None:
            figures["migration_regret"] = self._trigger.regret
        if self._placed_at is not None:
            figures["time.placement_success_s"] = self._placed_at
        return figures

    def state(self) -> dict[str, Any]:
        """This rank's state for its checkpoint."""
        planned = self._trigger.planned
        return {
            "dispatch": self._dispatch,
            "version": self.version,
            "moved": self._moved,
            "regret": self._trigger.regret,
            "promised": self._trigger.promised,
            "planned": None if planned is None else torch.as_tensor(planned),
            "window": self._window.state(),
        }

    def load(self, state: dict[str, Any] | None) -> None:
        """Restores a result of :meth:`state`; starts afresh if any rank has none or another dispatch. Collective."""
        known = torch.tensor(int(state is not None and state["dispatch"] == self._dispatch), device=self._device)
        dist.all_reduce(known, dist.ReduceOp.MIN)
        if state is None or not known:
            return
        self.version, self._moved = state["version"], state["moved"]
        self._trigger.regret, self._trigger.promised = state["regret"], state["promised"]
        self._trigger.planned = None if state["planned"] is None else state["planned"].numpy()
        self._window.load(state["window"])

    def _look(self, step: int) -> None:
        layers = [Slots.of(slots, self._num_experts, self._group.size()) for slots in self._engine.slot_to_expert()]
        homes = np.stack([slots.homes.reshape(-1) for slots in layers])
        replicated = np.stack([slots.holders.sum(axis=1) > 1 for slots in layers])
        plan = self._trigger.look(*self._window.reduced(), homes, replicated)
        if not self._agreed(plan):
            self._trigger.planned = None
            self._say(step, "no expert moved: the ranks disagree on the plan")
            return
        if plan is None:
            return
        slots = [of_layer.with_homes(own) for of_layer, own in zip(layers, plan.slot_to_expert, strict=True)]
        refusal = transfer(self._engine, self._average, np.stack(slots), self._group)
        if refusal is not None:
            self._say(step, f"no expert moved: {refusal}")
            return
        self.version += 1
        self._moved += len(plan.moves)
        self._placed_at = time.time()
        moved_mb = len(plan.moves) * self._expert_bytes / 1e6
        self._say(
            step,
            f"{len(plan.moves)} experts moved ({moved_mb:.3g} MB a copy), since the traffic cost "
            f"{self._trigger.regret:.1%} more than it would under the new placement; placement version {self.version}",
        )

    def _agreed(self, plan: MigrationPlan | None) -> bool:
        """Whether all ranks have the same plan; collective."""
        digest = 0 if plan is None else 1 + zlib.crc32(plan.slot_to_expert.tobytes())
        extremes = torch.tensor([digest, -digest], device=self._device)
        dist.all_reduce(extremes, dist.ReduceOp.MAX)
        largest, smallest = extremes.tolist()
        return largest == -smallest

    def _say(self, step: int, line: str) -> None:
        if dist.get_rank() == 0:
            print(f"{self._folder}: step {step}: {line}", file=sys.stderr, flush=True)
