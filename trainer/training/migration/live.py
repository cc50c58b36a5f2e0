"""Live migration: when the traffic has drifted from where the experts are, they move, and the run goes on."""

import sys
import time
import zlib
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from moe.layer import PlacedMoELayer
from moe.migration import MigrationPlan, MigrationTrigger
from moe.placement.placement import objective_of
from moe.placement.topology import Topology
from moe.replica import Slots
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.distributed.engine.ema import MovingAverage
from trainer.distributed.engine.protocol import Engine
from trainer.model.build import expert_parameters
from trainer.training.migration.transfer import KINDS, transfer
from trainer.training.migration.window import WINDOWS


class LiveMigration:
    """Looks at the routers' choices now and then, and moves experts between the ranks that share them.

    Every rank comes to the same decision from the same counts; they check that before anything moves. Replicas, and
    experts that have some, stay where they are: what a move would save counts every expert on its home alone, which is
    true of the others.
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
        """Moves experts, if it is time and that pays, between two steps; collective then."""
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
        """What this rank must know to go on, for its checkpoint."""
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
        """Takes up what :meth:`state` gave; afresh if any rank has none, or the dispatch is another. Collective."""
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
        """Whether all ranks have the same plan."""
        digest = 0 if plan is None else 1 + zlib.crc32(plan.slot_to_expert.tobytes())
        extremes = torch.tensor([digest, -digest], device=self._device)
        dist.all_reduce(extremes, dist.ReduceOp.MAX)
        largest, smallest = extremes.tolist()
        return largest == -smallest

    def _say(self, step: int, line: str) -> None:
        if dist.get_rank() == 0:
            print(f"{self._folder}: step {step}: {line}", file=sys.stderr, flush=True)
