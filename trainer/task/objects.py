"""Objects that were built, as lines of JSON and as a picture.

Shape suffixes: N objects, S integers of a state, K objectives.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from netsim.foundation.files import replacing
from trainer.task.environment import Environment, HyperGrid

PANEL_INCHES, TITLE_INCHES = 2.2, 0.6


class Built(NamedTuple):
    """Objects int64 [N, S] of one preference, their rewards [N, K] by objective, and the rewards by the preference [N].

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
