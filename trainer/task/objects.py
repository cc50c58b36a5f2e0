"""Tasks whose policy builds objects, and these objects: lines of JSON, a picture, and measures over preferences.

Shape suffixes: N objects, S integers of a state, K objectives, C condition.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from moe.seeds import derive_seed, fold_in, uniform
from netsim.foundation.files import replacing
from trainer.config.run import RunConfig
from trainer.config.sample import ObjectSample
from trainer.config.task.trajectory_balance import ExponentRange, SingleConfig, TrajectoryBalanceTaskConfig
from trainer.evaluation.pareto import BEST, Exact, OfPreference, ParetoFigures, best_distinct, mean_pairwise
from trainer.evaluation.pareto_page import ParetoMeasurement
from trainer.model.mlp import Policy
from trainer.model.network import Network
from trainer.observe.measurement import Measurement, MeasurementSpec, Progress
from trainer.task.environment import Environment, HyperGrid, build
from trainer.task.environment.protocol import States, Walks, enumerated, rollout
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
from trainer.training.task import MicroBatchTask, Networks

PANEL_INCHES, TITLE_INCHES = 2.2, 0.6


class Built(NamedTuple):
    """Objects int64 [N, S] of one preference, rewards [N, K] by objective and [N] by the preference.

    `wanted` is the target probability of each cell where the environment is a grid in the plane.
    """

    weights: tuple[float, ...]
    exponent: float
    objects: Tensor
    rewards: Tensor
    reward: Tensor
    wanted: Tensor | None


def write_objects(environment: Environment, built: Sequence[Built], path: Path) -> None:
    """Writes a line of JSON for each object: preference, exponent, object, rewards."""
    names = environment.objectives
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for one in built:
            request = {"preference": dict(zip(names, one.weights, strict=True)), "exponent": one.exponent}
            rows = zip(environment.described(one.objects), one.rewards.tolist(), one.reward.tolist(), strict=True)
            for described, rewards, reward in rows:
                worth = {"reward": reward, "rewards": dict(zip(names, rewards, strict=True))}
                file.write(json.dumps({**request, "object": described, **worth}, allow_nan=False) + "\n")


def drawable(environment: Environment) -> bool:
    """Whether objects can be drawn: they lie on a grid in the plane, or have two rewards for axes."""
    return is_plane(environment) or len(environment.objectives) > 1


def draw_objects(environment: Environment, built: Sequence[Built], path: Path) -> None:
    """Draws target and actual frequencies of grid cells, or the first two rewards of objects, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 2 if is_plane(environment) else 1
    size = PANEL_INCHES * len(built), PANEL_INCHES * rows + TITLE_INCHES
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.reshape(figure.subplots(rows, len(built), squeeze=False), (rows, len(built)))
    for column, one in zip(panels.T, built, strict=True):
        weighed = zip(environment.objectives, one.weights, strict=True)
        column[0].set_title("\n".join(f"{weight:g} {name}" for name, weight in weighed), fontsize=8)
        if isinstance(environment, HyperGrid) and one.wanted is not None:
            side = environment.side
            wanted = one.wanted.reshape(side, side).numpy()
            cells = (one.objects[:, 0] * side + one.objects[:, 1]).numpy()
            shares = np.bincount(cells, minlength=side**2).reshape(side, side) / len(cells)
            for axes, shown in zip(column, (wanted, shares), strict=True):
                axes.imshow(shown.T, origin="lower", vmin=0, vmax=wanted.max(), cmap="viridis")
                axes.set(xticks=[], yticks=[])
        else:
            rewards = one.rewards.numpy()
            column[0].scatter(rewards[:, 0], rewards[:, 1], s=6, alpha=0.5, linewidths=0, color="#1f4e8c")
            column[0].set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), aspect="equal")
            column[0].set_xlabel(environment.objectives[0], fontsize=8)
    if rows == 2:
        panels[0, 0].set_ylabel("wanted", fontsize=8)
        panels[1, 0].set_ylabel("built", fontsize=8)
    else:
        panels[0, 0].set_ylabel(environment.objectives[1], fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def is_plane(environment: Environment) -> bool:
    """Whether objects are the cells of a grid in the plane."""
    return isinstance(environment, HyperGrid) and environment.dimensions == 2


_WALK, _WEIGHTS, _EXPONENT = range(3)


class DrawnObjects(NamedTuple):
    """Requested objects and, once collected, the walks to them and their rewards.

    All draws depend on `keys` int64 [B]; `condition` [B, C] encodes preference and exponent for the network.
    """

    log_weight: None
    keys: Tensor
    preferences: Preferences
    condition: Tensor
    walks: Walks | None = None
    valued: Valued | None = None


class BuildingTask(MicroBatchTask[DrawnObjects]):
    """A task whose policy builds objects in an environment; a subclass may replace `log_reward`."""

    log_reward: LogReward

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config.task, TrajectoryBalanceTaskConfig)
        self.config, self.settings = config, config.task
        self.environment = build(self.settings.environment)
        chosen = self.settings.log_reward
        self._surrogate = None if chosen is None else Surrogate(self.environment, chosen.read(), chosen.deviations)
        self.log_reward = ScalarisedReward(
            self.rewards, self.environment.objectives, self.settings.scalarisation, self.settings.least_reward
        )

    def show(self, networks: Networks, stem: Path, *, seed: int) -> None:
        """Writes objects of some preferences, as the section ``sample`` sets, and a picture of them."""
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
        """Measures objects of a lattice of preferences, and exact distributions where all states are known."""
        with networks.average() as model:
            return ParetoMeasurement(measured(self, model, spec, progress))

    def rewards(self, objects_BS: Tensor) -> Tensor:
        """Rewards by each objective, float64 [B, K], of the environment, or of the surrogate where the run has one."""
        return (self.environment if self._surrogate is None else self._surrogate).rewards(objects_BS)

    @property
    def rewards_are(self) -> str:
        """Describes the source of :meth:`rewards`; empty if it is the objectives themselves."""
        return "" if self._surrogate is None else str(self._surrogate)

    def preferences(self, divisions: int) -> Tensor:
        """The preferences float64 [N, K] to show: all in multiples of 1 / divisions, or the run's single one."""
        match self.settings.preferences:
            case SingleConfig(weights=single):
                return torch.tensor([single], dtype=torch.float64)
            case _:
                return lattice(len(self.environment.objectives), divisions)

    def built(
        self, model: Network, preferences: Tensor, num: int, *, exponent: float | None = None, seed: int = 0
    ) -> list[Built]:
        """Builds `num` objects of each preference [N, K]; they depend on model, preference and seed alone."""
        device = next(model.parameters()).device
        keys = fold_in(torch.tensor(derive_seed(seed, "objects")), torch.arange(num)).to(device)
        objects = []
        for weights in preferences.to(device):
            walked = self.walked(model, self.wanted(keys, weights.expand(num, -1), exponent))
            assert walked.walks is not None
            assert walked.valued is not None
            one = Preferences(weights[None], walked.preferences.exponent[:1])
            objects.append(
                Built(
                    weights=tuple(weights.tolist()),
                    exponent=float(one.exponent),
                    objects=walked.walks.objects.cpu(),
                    rewards=self.rewards(walked.walks.objects).cpu(),
                    reward=walked.valued.figures["reward"].cpu(),
                    wanted=self._wanted_cells(one),
                )
            )
        return objects

    def wanted(self, keys: Tensor, weights: Tensor, exponent: float | None = None) -> DrawnObjects:
        """Requests for objects of preferences [B, K]; `exponent` None: the largest that is learned."""
        exponent = self.settings.most_exponent if exponent is None else exponent
        exponents = torch.full(keys.shape, exponent, dtype=torch.float64, device=keys.device)
        return self._conditioned(keys, Preferences(weights.double(), exponents))

    def requested(self, keys: Tensor) -> DrawnObjects:
        """Requests for objects with a preference and an exponent drawn by each key, int64 [B]."""
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

    def walked(self, model: Callable[..., Any], drawn: DrawnObjects, *, exploration: float = 0.0) -> DrawnObjects:
        """Builds requested objects: adds the policy's walks and their rewards; the model is in evaluation mode."""

        def logits(features_BF: Tensor) -> Tensor:
            return Policy(*model(features_BF[:, None], drawn.condition)).forward[:, 0]

        with torch.no_grad():
            walks = rollout(self.environment, logits, fold_in(drawn.keys, _WALK), exploration=exploration)
            return drawn._replace(walks=walks, valued=self.log_reward(walks.objects, drawn.preferences))

    def _conditioned(self, keys: Tensor, preferences: Preferences) -> DrawnObjects:
        codes = [thermometer(preferences.weights, self.settings.bins).flatten(1)]
        if isinstance(self.settings.exponent, ExponentRange):
            codes.append(thermometer(preferences.exponent, self.settings.bins, self.settings.most_exponent))
        return DrawnObjects(None, keys, preferences, torch.cat(codes, dim=1))

    def _wanted_cells(self, preferences: Preferences) -> Tensor | None:
        """Target probability of each cell of a hypergrid of two dimensions; None for any other environment."""
        if not (isinstance(self.environment, HyperGrid) and self.environment.dimensions == 2):
            return None
        cells = self.environment.cells().to(preferences.weights.device)
        every = Preferences(preferences.weights.expand(len(cells), -1), preferences.exponent.expand(len(cells)))
        return self.log_reward(cells, every).log_reward.softmax(0).cpu()


MOST_PREFERENCES, MOST_DIVISIONS = 15, 10


def measured(task: BuildingTask, model: Network, spec: MeasurementSpec, progress: Progress) -> ParetoFigures:
    """Builds objects for each preference of a lattice and measures them."""
    sample, environment = task.config.sample, task.environment
    assert isinstance(sample, ObjectSample)
    exponent = task.settings.most_exponent if sample.exponent is None else sample.exponent
    preferences = task.preferences(divisions(len(environment.objectives)))
    states = enumerated(environment)
    known = None if states is None else _Known(task, model, states)
    even = even_objects(task, spec.num * len(preferences), spec.seed)
    even_rewards = task.rewards(even)
    fronts = []
    for number, weights in enumerate(preferences, start=1):
        progress(f"building {spec.num:,} objects of preference {number} of {len(preferences)}")
        (built,) = task.built(model, weights[None], spec.num, exponent=exponent, seed=spec.seed)
        every = Preferences(weights.expand(len(even), -1), torch.ones(len(even), dtype=torch.float64))
        figures = task.log_reward(even, every).figures["reward"]
        values, objects = built.reward.numpy(), built.objects.numpy()
        best = best_distinct(values, objects, BEST)
        fronts.append(
            OfPreference(
                weights=built.weights,
                rewards=built.rewards.double().numpy(),
                reward=float(values.mean()),
                best=float(values[best].mean()),
                diversity=mean_pairwise(environment.distances(built.objects[torch.from_numpy(best)]).numpy()),
                even=float(figures.mean()),
                exact=None if known is None else known.exact(weights, exponent),
            )
        )
    return ParetoFigures(
        names=tuple(environment.objectives),
        rewards_are=task.rewards_are,
        checkpoint=spec.checkpoint,
        num=spec.num,
        seed=spec.seed,
        exponent=exponent,
        preferences=fronts,
        even=even_rewards.double().numpy(),
        reachable=None if known is None else task.rewards(known.objects).double().numpy(),
        has_picture=is_plane(environment),
    )


def divisions(num: int) -> int:
    """Divisions of a weight that keep the number of preferences small: 10 for two objectives, 4 for three."""
    few = [parts for parts in range(1, MOST_DIVISIONS + 1) if comb(parts + num - 1, num - 1) <= MOST_PREFERENCES]
    return max(few, default=1)


def even_objects(task: BuildingTask, num: int, seed: int) -> Tensor:
    """Objects int64 [`num`, S] built by uniform choices among the possible actions."""
    environment = task.environment
    keys = fold_in(torch.tensor(derive_seed(seed, "even choices")), torch.arange(num))
    return rollout(environment, lambda features: torch.zeros(len(features), environment.num_actions), keys).objects


class _Known:
    """Exact figures of a task whose environment's states are all known."""

    def __init__(self, task: BuildingTask, model: Network, states: States) -> None:
        self._task, self._model, self._states = task, model, states
        self.objects = states.states[states.stops]

    def exact(self, weights: Tensor, exponent: float) -> Exact:
        """Exact distance of the policy's distribution from the target one for a preference [K]."""
        task, (states, _, allowed, _), stops = self._task, self._states, self._states.stops
        num = len(self.objects)
        every = Preferences(weights.expand(num, -1), torch.full((num,), exponent, dtype=torch.float64))
        valued = task.log_reward(self.objects, every)
        wanted = valued.log_reward.softmax(0)
        device = next(self._model.parameters()).device
        keys = torch.zeros(len(states), dtype=torch.int64, device=device)
        condition = task.wanted(keys, weights.to(device).expand(len(states), -1), exponent).condition
        features = task.environment.features(states).to(device)
        policy = Policy(*self._model(features[:, None], condition))
        logits = policy.forward[:, 0].double().cpu().masked_fill(~allowed, -torch.inf)
        built = self._states.terminating(logits.softmax(1))[stops]
        return Exact(
            wanted=float(wanted @ valued.figures["reward"]),
            wanted_rewards=tuple((wanted @ task.rewards(self.objects).double()).tolist()),
            total_variation=float((wanted - built).abs().sum()) / 2,
            log_partition_error=abs(float(policy.log_partition[0]) - float(valued.log_reward.logsumexp(0))),
        )
