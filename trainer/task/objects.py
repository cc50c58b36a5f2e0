"""Objects that a policy built: lines of JSON, a picture, and measures over preferences.

Shape suffixes: N objects, S integers of a state, K objectives, C condition.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from moe.seeds import derive_seed, fold_in
from netsim.foundation.files import replacing
from trainer.config.run import RunConfig
from trainer.config.sample import ObjectSample
from trainer.config.task import TrajectoryBalanceTaskConfig
from trainer.evaluation.pareto.figures import BEST, Exact, OfPreference, ParetoFigures, best_distinct, mean_pairwise
from trainer.model.mlp import Policy
from trainer.model.network import Network
from trainer.observe.measurement import MeasurementSpec, Progress
from trainer.task.environment import Environment, HyperGrid
from trainer.task.environment.protocol import States, enumerated, rollout
from trainer.task.rewards import LogReward, Preferences

PANEL_INCHES, TITLE_INCHES = 2.2, 0.6


class Built(NamedTuple):
    """Objects int64 [N, S] of one preference, rewards [N, K] by objective and [N] by the preference.

    `wanted` is the probability of each cell where the environment is a grid.
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
            asked = {"preference": dict(zip(names, one.weights, strict=True)), "exponent": one.exponent}
            rows = zip(environment.described(one.objects), one.rewards.tolist(), one.reward.tolist(), strict=True)
            for described, rewards, reward in rows:
                worth = {"reward": reward, "rewards": dict(zip(names, rewards, strict=True))}
                file.write(json.dumps({**asked, "object": described, **worth}, allow_nan=False) + "\n")


def drawable(environment: Environment) -> bool:
    """Whether objects make a picture: they lie on a grid in the plane, or have two rewards to be plotted by."""
    return is_plane(environment) or len(environment.objectives) > 1


def draw_objects(environment: Environment, built: Sequence[Built], path: Path) -> None:
    """Draws how often each cell of a grid was wanted and built, or the first two rewards of objects, as a PNG."""
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


MOST_PREFERENCES, MOST_DIVISIONS = 15, 10


class Conditioned(Protocol):
    """Objects that are asked for."""

    @property
    def condition(self) -> Tensor:
        """[B, C] what the network reads of them."""
        ...


class BuildingTask(Protocol):
    """What is asked here of a task whose policy builds objects."""

    config: RunConfig
    settings: TrajectoryBalanceTaskConfig
    environment: Environment
    log_reward: LogReward

    @property
    def rewards_are(self) -> str:
        """What the rewards are, if not the objectives of the environment; empty: they are."""
        ...

    def rewards(self, objects_BS: Tensor) -> Tensor:
        """What objects are worth by each objective, float64 [B, K]."""
        ...

    def preferences(self, divisions: int) -> Tensor:
        """The preferences that are shown, float64 [N, K]."""
        ...

    def built(
        self, model: Network, preferences: Tensor, num: int, *, exponent: float | None = None, seed: int = 0
    ) -> list[Built]:
        """Builds objects of each preference."""
        ...

    def wanted(self, keys: Tensor, weights: Tensor, exponent: float | None = None) -> Conditioned:
        """Objects of chosen preferences."""
        ...


def measured(task: BuildingTask, model: Network, spec: MeasurementSpec, progress: Progress) -> ParetoFigures:
    """Builds objects for each preference of a lattice and measures them."""
    sample, environment = task.config.sample, task.environment
    assert isinstance(sample, ObjectSample)
    exponent = task.settings.most_exponent if sample.exponent is None else sample.exponent
    preferences = task.preferences(divisions(len(environment.objectives)))
    known = _Known.of(task, model)
    even = even_objects(task, spec.num * len(preferences), spec.seed)
    even_rewards = task.rewards(even)
    found = []
    for number, weights in enumerate(preferences, start=1):
        progress(f"building {spec.num:,} objects of preference {number} of {len(preferences)}")
        (built,) = task.built(model, weights[None], spec.num, exponent=exponent, seed=spec.seed)
        every = Preferences(weights.expand(len(even), -1), torch.ones(len(even), dtype=torch.float64))
        figures = task.log_reward(even, every).figures["reward"]
        values, objects = built.reward.numpy(), built.objects.numpy()
        best = best_distinct(values, objects, BEST)
        found.append(
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
        preferences=found,
        even=even_rewards.double().numpy(),
        reachable=None if known is None else task.rewards(known.objects).double().numpy(),
        has_picture=is_plane(environment),
    )


def divisions(num: int) -> int:
    """Parts that a weight is divided into so that preferences are few: 10 for two objectives, 4 for three."""
    few = [parts for parts in range(1, MOST_DIVISIONS + 1) if comb(parts + num - 1, num - 1) <= MOST_PREFERENCES]
    return max(few, default=1)


def even_objects(task: BuildingTask, num: int, seed: int) -> Tensor:
    """Objects that even choices among the possible actions lead to, int64 [`num`, S]."""
    environment = task.environment
    keys = fold_in(torch.tensor(derive_seed(seed, "even choices")), torch.arange(num))
    return rollout(environment, lambda features: torch.zeros(len(features), environment.num_actions), keys).objects


class _Known:
    """An environment all of whose states are known."""

    def __init__(self, task: BuildingTask, model: Network, states: States) -> None:
        self._task, self._model, self._states = task, model, states
        self.objects = states.states[states.stops]

    @classmethod
    def of(cls, task: BuildingTask, model: Network) -> _Known | None:
        """Finds the states; None: there are too many."""
        states = enumerated(task.environment)
        return None if states is None else cls(task, model, states)

    def exact(self, weights: Tensor, exponent: float) -> Exact:
        """How far the policy is from what is wanted for a preference [K]."""
        task, (states, _, allowed, _), stops = self._task, self._states, self._states.stops
        num = len(self.objects)
        asked = Preferences(weights.expand(num, -1), torch.full((num,), exponent, dtype=torch.float64))
        valued = task.log_reward(self.objects, asked)
        wanted = valued.log_reward.softmax(0)
        device = next(self._model.parameters()).device
        keys = torch.zeros(len(states), dtype=torch.int64, device=device)
        condition = task.wanted(keys, weights.to(device).expand(len(states), -1), exponent).condition
        features = task.environment.features(states).to(device)
        said = Policy(*self._model(features[:, None], condition))
        logits = said.forward[:, 0].double().cpu().masked_fill(~allowed, -torch.inf)
        built = self._states.terminating(logits.softmax(1))[stops]
        return Exact(
            wanted=float(wanted @ valued.figures["reward"]),
            wanted_rewards=tuple((wanted @ task.rewards(self.objects).double()).tolist()),
            total_variation=float((wanted - built).abs().sum()) / 2,
            log_partition_error=abs(float(said.log_partition[0]) - float(valued.log_reward.logsumexp(0))),
        )
