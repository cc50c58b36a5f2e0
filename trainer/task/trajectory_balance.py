"""Trajectory balance, for policies that build objects as often as they are worth it.

Shape suffixes: B objects, T actions of the longest way, S integers of a state, F features, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from moe.seeds import derive_seed, fold_in, uniform
from trainer.config.run import RunConfig
from trainer.config.sample import ObjectSample
from trainer.config.task.trajectory_balance import ExponentRange, SingleConfig, TrajectoryBalanceTaskConfig
from trainer.data import Batch
from trainer.evaluation.pareto.measurement import ParetoMeasurement
from trainer.flow.objective import LossTerms
from trainer.model.mlp import Policy
from trainer.model.network import Network
from trainer.observe.measurement import Measurement, MeasurementSpec, Progress
from trainer.task import environment
from trainer.task.environment import HyperGrid
from trainer.task.environment.protocol import Walks, rollout
from trainer.task.objects import Built, draw_objects, drawable, measured, write_objects
from trainer.task.rewards import (
    LogReward,
    Preferences,
    ScalarisedReward,
    Surrogate,
    Valued,
    dirichlet,
    lattice,
    thermometer,
)
from trainer.training.task import Builders, Networks, Task

_WALK, _WEIGHTS, _EXPONENT = range(3)


class DrawnObjects(NamedTuple):
    """Requested objects and, once collected, the walks to them and their rewards.

    `keys` are int64 [B] of all draws, `condition` [B, C] codes preference and exponent for the network.
    """

    log_weight: None
    keys: Tensor
    preferences: Preferences
    condition: Tensor
    walks: Walks | None = None
    valued: Valued | None = None


class TrajectoryBalanceTask(Task[DrawnObjects]):
    """(log Z + sum of log P_F - b log R - sum of log P_B)^2 over each path that the policy itself takes.

    Draws are a function of the run's seed and of the number of the object, so that they depend on neither ranks nor
    micro batches. Exploration changes what is drawn, never a log-probability. A subclass may replace `log_reward`.

    Source: Malkin et al., "Trajectory Balance", 2022, equation 14; Jain et al., "Multi-Objective GFlowNets", 2023,
    section 4.1 (conditional on preferences).
    """

    log_reward: LogReward

    def __init__(self, config: RunConfig) -> None:
        """Builds the environment of the run."""
        assert isinstance(config.task, TrajectoryBalanceTaskConfig)
        self.config, self.settings = config, config.task
        self.environment = environment.build(self.settings.environment)
        chosen = self.settings.log_reward
        self._surrogate = None if chosen is None else Surrogate(self.environment, chosen.read(), chosen.deviations)
        self.log_reward = ScalarisedReward(
            self.rewards, self.environment.objectives, self.settings.scalarisation, self.settings.least_reward
        )
        self._key = torch.tensor(derive_seed(config.run.seed, "trajectory balance"))
        self._reward_calls = self._network_calls = 0

    def draw(
        self,
        batches: Sequence[Batch],
        generators: Sequence[torch.Generator],  # noqa: ARG002
        ranks: dist.ProcessGroup | None = None,  # noqa: ARG002
    ) -> list[DrawnObjects]:
        """A preference and an exponent for each object."""
        return [self._preferences_of(fold_in(self._key, batch.x_1[:, 0].long())) for batch in batches]

    def collect(
        self, drawn: Sequence[DrawnObjects], networks: Networks, ranks: dist.ProcessGroup | None = None
    ) -> list[DrawnObjects]:
        """The ways that the policy takes, and what they lead to."""
        with networks.current() as model:
            collected = [self.walked(model, one, exploration=self.settings.exploration) for one in drawn]
        objects = sum(len(one.keys) for one in drawn) * (1 if ranks is None else ranks.size())
        self._reward_calls += objects if self._surrogate is None else 0
        self._network_calls += objects * (2 * self.environment.max_actions - 1)
        return collected

    def loss(self, model: Callable[..., Any], drawn: DrawnObjects) -> LossTerms:
        """One pass over all states of all ways."""
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
        """Of ways without exploration."""
        walked = self.walked(model, drawn)
        assert walked.valued is not None
        figures = {f"held_out_{name}": values for name, values in walked.valued.figures.items()}
        return {"held_out_loss": self.loss(model, walked).per_example, **figures}

    def show(self, networks: Networks, stem: Path, *, seed: int) -> None:
        """Objects of some preferences, as the section ``sample`` says, and a picture of them."""
        sample = self.config.sample
        assert isinstance(sample, ObjectSample)
        preferences = self.preferences(sample.divisions)
        with networks.average() as model:
            built = self.built(model, preferences, sample.num, exponent=sample.exponent, seed=seed)
        if dist.get_rank() == 0:
            write_objects(self.environment, built, stem.with_suffix(".jsonl"))
            if drawable(self.environment):
                draw_objects(self.environment, built, stem.with_suffix(".png"))

    def measure(self, networks: Networks, spec: MeasurementSpec, progress: Progress) -> Measurement:
        """Objects of a lattice of preferences, and exact distributions where all are known."""
        with networks.average() as model:
            return ParetoMeasurement(measured(self, model, spec, progress))

    def rewards(self, objects_BS: Tensor) -> Tensor:
        """Rewards by each objective, float64 [B, K], of the environment, or of the surrogate where the run has one."""
        return (self.environment if self._surrogate is None else self._surrogate).rewards(objects_BS)

    @property
    def rewards_are(self) -> str:
        """What :meth:`rewards` gives, if not the objectives themselves; empty: they are."""
        return "" if self._surrogate is None else str(self._surrogate)

    def preferences(self, divisions: int) -> Tensor:
        """The preferences that are shown, float64 [N, K]: all multiples of 1 / divisions, or the only one there is."""
        match self.settings.preferences:
            case SingleConfig(weights=single):
                return torch.tensor([single], dtype=torch.float64)
            case _:
                return lattice(len(self.environment.objectives), divisions)

    def built(
        self, model: Network, preferences: Tensor, num: int, *, exponent: float | None = None, seed: int = 0
    ) -> list[Built]:
        """Builds `num` objects of each preference [N, K]; equal for equal weights and seed, whatever is beside it."""
        device = next(model.parameters()).device
        keys = fold_in(torch.tensor(derive_seed(seed, "objects")), torch.arange(num)).to(device)
        found = []
        for weights in preferences.to(device):
            walked = self.walked(model, self.wanted(keys, weights.expand(num, -1), exponent))
            assert walked.walks is not None
            assert walked.valued is not None
            one = Preferences(weights[None], walked.preferences.exponent[:1])
            found.append(
                Built(
                    weights=tuple(weights.tolist()),
                    exponent=float(one.exponent),
                    objects=walked.walks.objects.cpu(),
                    rewards=self.rewards(walked.walks.objects).cpu(),
                    reward=walked.valued.figures["reward"].cpu(),
                    wanted=self._wanted_cells(one),
                )
            )
        return found

    def state(self) -> dict[str, Any]:
        """What has been spent."""
        return {"reward_calls": self._reward_calls, "network_calls": self._network_calls}

    def load(self, state: dict[str, Any] | None) -> None:
        state = state or {"reward_calls": 0, "network_calls": 0}
        self._reward_calls, self._network_calls = state["reward_calls"], state["network_calls"]

    def wanted(self, keys: Tensor, weights: Tensor, exponent: float | None = None) -> DrawnObjects:
        """Objects of chosen preferences [B, K]; the exponent is the largest that is learned if none is given."""
        exponent = self.settings.most_exponent if exponent is None else exponent
        exponents = torch.full(keys.shape, exponent, dtype=torch.float64, device=keys.device)
        return self._conditioned(keys, Preferences(weights.double(), exponents))

    def walked(self, model: Callable[..., Any], drawn: DrawnObjects, *, exploration: float = 0.0) -> DrawnObjects:
        """The same objects with the policy's walks to them and their rewards; the model is in evaluation mode."""

        def logits(features_BF: Tensor) -> Tensor:
            return Policy(*model(features_BF[:, None], drawn.condition)).forward[:, 0]

        with torch.no_grad():
            walks = rollout(self.environment, logits, fold_in(drawn.keys, _WALK), exploration=exploration)
            return drawn._replace(walks=walks, valued=self.log_reward(walks.objects, drawn.preferences))

    def _preferences_of(self, keys: Tensor) -> DrawnObjects:
        settings, num = self.settings, len(self.environment.objectives)
        match settings.preferences:
            case SingleConfig(weights=single):
                columns = [torch.full(keys.shape, one, dtype=torch.float64, device=keys.device) for one in single]
                weights = torch.stack(columns, dim=1)
            case preferences:
                weights = dirichlet(fold_in(keys, _WEIGHTS), num, preferences.concentration)
        match settings.exponent:
            case ExponentRange(least=least, most=most):
                exponent = least + (most - least) * uniform(fold_in(keys, _EXPONENT))
            case fixed:
                exponent = torch.full(keys.shape, fixed, dtype=torch.float64, device=keys.device)
        return self._conditioned(keys, Preferences(weights, exponent))

    def _conditioned(self, keys: Tensor, preferences: Preferences) -> DrawnObjects:
        codes = [thermometer(preferences.weights, self.settings.bins).flatten(1)]
        if isinstance(self.settings.exponent, ExponentRange):
            codes.append(thermometer(preferences.exponent, self.settings.bins, self.settings.most_exponent))
        return DrawnObjects(None, keys, preferences, torch.cat(codes, dim=1))

    def _wanted_cells(self, preferences: Preferences) -> Tensor | None:
        """The probability of each cell of a grid in the plane; None: it is none."""
        if not (isinstance(self.environment, HyperGrid) and self.environment.dimensions == 2):
            return None
        cells = self.environment.cells().to(preferences.weights.device)
        every = Preferences(preferences.weights.expand(len(cells), -1), preferences.exponent.expand(len(cells)))
        return self.log_reward(cells, every).log_reward.softmax(0).cpu()

    def _of_states(self, function: Callable[[Tensor], Tensor], states_BTS: Tensor) -> Tensor:
        """What a function of rows says of all states on the ways, [B, T, *]."""
        return function(states_BTS.flatten(0, 1)).unflatten(0, states_BTS.shape[:2])


def _chosen(logits_BTA: Tensor, possible_BTA: Tensor, actions_BT: Tensor) -> Tensor:
    """Log-probabilities [B, T] of actions among those that are possible; of any number where none is, but finite."""
    logits_BTA = logits_BTA.masked_fill(~possible_BTA, torch.finfo(logits_BTA.dtype).min)
    places_BT1 = actions_BT[..., None].clamp(max=logits_BTA.shape[-1] - 1)
    return logits_BTA.log_softmax(-1).gather(-1, places_BT1)[..., 0].double()


TASKS: Builders = {TrajectoryBalanceTaskConfig: TrajectoryBalanceTask}
