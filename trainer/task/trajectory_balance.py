"""Trajectory balance, for policies that build objects in proportion to their rewards.

Shape suffixes: B objects, T actions of the longest walk, S integers of a state, F features, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from moe.seeds import derive_seed, fold_in
from trainer.config.run import RunConfig
from trainer.config.task.trajectory_balance import TrajectoryBalanceTaskConfig
from trainer.data import Batch
from trainer.flow.objective import LossTerms
from trainer.model.mlp import Policy
from trainer.task.objects import BuildingTask, DrawnObjects
from trainer.training.task import Builders, Networks


class TrajectoryBalanceTask(BuildingTask):
    """The loss (log Z + sum of log P_F - b log R - sum of log P_B)^2 of each path that the policy takes.

    Draws are functions of seed and object, not of ranks or micro batches; exploration never changes a log-probability.
    Malkin et al., 2022, equation 14; Jain et al., "Multi-Objective GFlowNets", 2023, section 4.1 (on preferences).
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._key = torch.tensor(derive_seed(config.run.seed, "trajectory balance"))
        self._reward_calls = self._network_calls = 0

    def draw_one(self, batch: Batch, generator: torch.Generator) -> DrawnObjects:  # noqa: ARG002
        return self.requested(fold_in(self._key, batch.x_1[:, 0].long()))

    def collect(
        self, drawn: Sequence[DrawnObjects], networks: Networks, ranks: dist.ProcessGroup | None = None
    ) -> list[DrawnObjects]:
        with networks.current() as model:
            collected = [self.walked(model, one, exploration=self.settings.exploration) for one in drawn]
        objects = sum(len(one.keys) for one in drawn) * (1 if ranks is None else ranks.size())
        self._reward_calls += objects if self._surrogate is None else 0
        self._network_calls += objects * (2 * self.environment.max_actions - 1)
        return collected

    def loss(self, model: Callable[..., Any], drawn: DrawnObjects) -> LossTerms:
        """The loss of each object, from one pass over all states of all walks."""
        assert drawn.walks is not None, "objects are learned from once they are collected"
        assert drawn.valued is not None
        states_BTS, actions_BT, taken_BT = drawn.walks
        features_BTF = self._of_states(self.environment.features, states_BTS)
        policy = Policy(*model(features_BTF, drawn.condition))
        allowed_BTA = self._of_states(self.environment.allowed, states_BTS)
        leading_BTA = self._of_states(self.environment.leading, states_BTS[:, 1:])
        forward_BT = _chosen(policy.forward, allowed_BTA, actions_BT)
        backward_BT = _chosen(policy.backward[:, 1:], leading_BTA, actions_BT[:, :-1])
        forward_B = forward_BT.masked_fill(~taken_BT, 0.0).sum(1)
        backward_B = backward_BT.masked_fill(~taken_BT[:, 1:], 0.0).sum(1)
        difference_B = policy.log_partition + forward_B - drawn.valued.log_reward - backward_B
        figures = {"log_partition": policy.log_partition, **drawn.valued.figures}
        terms = {name: values.detach().mean() for name, values in figures.items()}
        counts = {"reward_calls": self._reward_calls, "network_calls": self._network_calls}
        device = difference_B.device
        terms |= {name: torch.full((), count, dtype=torch.float64, device=device) for name, count in counts.items()}
        return LossTerms(difference_B.square(), terms)

    def examine(self, model: Callable[..., Any], drawn: DrawnObjects) -> Mapping[str, Tensor]:
        """The loss and rewards of walks without exploration."""
        walked = self.walked(model, drawn)
        assert walked.valued is not None
        figures = {f"held_out_{name}": values for name, values in walked.valued.figures.items()}
        return {"held_out_loss": self.loss(model, walked).per_example, **figures}

    def state(self) -> dict[str, Any]:
        return {"reward_calls": self._reward_calls, "network_calls": self._network_calls}

    def load(self, state: dict[str, Any] | None) -> None:
        state = state or {"reward_calls": 0, "network_calls": 0}
        self._reward_calls, self._network_calls = state["reward_calls"], state["network_calls"]

    def _of_states(self, function: Callable[[Tensor], Tensor], states_BTS: Tensor) -> Tensor:
        """Applies a function of rows to all states of the walks: [B, T, *]."""
        return function(states_BTS.flatten(0, 1)).unflatten(0, states_BTS.shape[:2])


def _chosen(logits_BTA: Tensor, possible_BTA: Tensor, actions_BT: Tensor) -> Tensor:
    """Log-probabilities [B, T] of actions among the possible ones; where none is possible, any finite number."""
    logits_BTA = logits_BTA.masked_fill(~possible_BTA, torch.finfo(logits_BTA.dtype).min)
    places_BT1 = actions_BT[..., None].clamp(max=logits_BTA.shape[-1] - 1)
    return logits_BTA.log_softmax(-1).gather(-1, places_BT1)[..., 0].double()


TASKS: Builders = {TrajectoryBalanceTaskConfig: TrajectoryBalanceTask}
