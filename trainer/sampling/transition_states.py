"""Transition states that a run draws, as extended XYZ and as a picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from netsim.foundation.files import replacing
from trainer.config.run import RunConfig
from trainer.data.reaction_files import Reactions, write_reactions
from trainer.sampling.conditioning import Conditioning

MOST_SHOWN = 16
"""Reactions of a picture."""
PANEL_INCHES = 2.2
COLOURS = {"reactant": "#0072b2", "drawn": "#d55e00", "product": "#009e73"}


def reactions_of(drawn: Tensor, context: Tensor, species: tuple[int, ...]) -> Reactions:
    """Triples of transition states [M, 3, 1, N] and the ends in their contexts [M, 7 + S, 1, N]."""
    flat = context[:, :, 0].transpose(1, 2).double().cpu().numpy()
    states = drawn[:, :, 0].transpose(1, 2).double().cpu().numpy()
    one_hot = flat[..., 6:-1]
    numbers = np.where(one_hot.any(-1), np.array(species)[one_hot.argmax(-1)], 0)
    positions = np.stack([flat[..., :3], states, flat[..., 3:6]], axis=1)
    return Reactions(positions.astype(np.float32), numbers, flat[..., -1] > 0)


def show_reactions(config: RunConfig, drawn: Tensor, conditioning: Conditioning, path: Path) -> None:
    """Writes transition states [N, 3, 1, A] as extended XYZ beside `path`, which gets a picture of the first ones."""
    context = conditioning.condition.context
    assert context is not None
    found = reactions_of(drawn, context, config.species)
    write_reactions(path.with_suffix(".xyz"), found)
    _picture(found, path)


def _picture(found: Reactions, path: Path) -> None:
    """Free atoms in reactant, drawn state and product in the plane in which they move most, others grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    number = min(len(found.positions), MOST_SHOWN)
    across = math.isqrt(number - 1) + 1
    down = -(-number // across)
    figure = Figure(figsize=(PANEL_INCHES * across, PANEL_INCHES * down + 0.3), dpi=110)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    for place, axes in enumerate(figure.subplots(down, across, squeeze=False).flat):
        axes.set_axis_off()
        if place >= number:
            continue
        positions, free = found.positions[place], found.free[place]
        still = positions[0, ~free & (found.numbers[place] > 0)] @ _plane(positions[:, free])
        axes.scatter(*still.T, s=60, color="#d5d8db", linewidths=0)
        flat = positions[:, free] @ _plane(positions[:, free])
        axes.plot(*flat.transpose(2, 0, 1), color="#9aa3ab", linewidth=0.8)
        for (name, colour), points in zip(COLOURS.items(), flat, strict=True):
            axes.scatter(*points.T, s=26, color=colour, label=name if place == 0 else None, linewidths=0)
        axes.set_aspect("equal")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _plane(positions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Two directions [3, 2] along which atoms [3 places, F, 3] move most."""
    moves = (positions - positions[:1]).reshape(-1, 3)
    return np.linalg.svd(moves, full_matrices=True)[2][:2].T
