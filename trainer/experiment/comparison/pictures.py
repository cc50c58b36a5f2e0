"""What the networks of a comparison draw, side by side."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moe.report.figures import STYLE, to_svg
from trainer.experiment.comparison.charts import style
from trainer.experiment.comparison.measurement import PER_CLASS, TRAJECTORIES, drawn
from trainer.experiment.comparison.results import Entry

ABREAST = 5
"""Networks that share a row of the page at most."""
DATA, NOISE, INK = "#c3cad1", "#8a949e", "#1c2733"


def pictures(entries: Sequence[Entry], real: NDArray[np.floating]) -> list[str]:
    """Draws samples of few and of many evaluations, in several pictures, and of points in the plane trajectories."""
    rows = -(-len(entries) // ABREAST)
    abreast = -(-len(entries) // rows)
    numbered = list(enumerate(entries))
    return [_row(numbered[first : first + abreast], real, max(4, abreast)) for first in range(0, len(entries), abreast)]


def _row(entries: Sequence[tuple[int, Entry]], real: NDArray[np.floating], abreast: int) -> str:
    sets = [drawn(Path(entry.outcomes[0].run_dir)) for _, entry in entries]
    planes = real.ndim == 2
    rows = 3 if planes and all(TRAJECTORIES in one for one in sets) else 2
    with mpl.rc_context(STYLE):
        side, title = 10.4 / abreast, 0.5
        tall = side if planes else side * PER_CLASS**2 / len(sets[0]["few"]) * real.shape[-2] / real.shape[-1]
        figure = Figure(figsize=(11.0, rows * (tall + 0.28) + title), dpi=150, layout="constrained")
        grid = figure.subplots(rows, abreast, squeeze=False)
        for column in range(abreast):
            if column >= len(entries):
                for axes in grid[:, column]:
                    axes.axis("off")
                continue
            (number, entry), one = entries[column], sets[column]
            colour = style(number)[0]
            for row, name in enumerate(("few", "many")):
                axes, evaluations = grid[row, column], int(one["evaluations"][row])
                if planes:
                    _cloud(axes, one[name], real, colour)
                else:
                    _images(axes, one[name])
                _bare(axes, f"{evaluations} evaluation{'s' * (evaluations > 1)}")
            if rows == 3:
                _trajectories(grid[2, column], one[TRAJECTORIES], real, colour)
                _bare(grid[2, column], f"paths, {int(one['evaluations'][1])} evaluations")
            size = min(11.0, 230 / len(entry.name))
            grid[0, column].set_title(entry.name, color=colour, weight="bold", fontsize=size, pad=8)
        return to_svg(figure)


def _reach(real: NDArray[np.floating]) -> float:
    return 1.25 * float(np.quantile(np.abs(real), 0.999))


def _cloud(axes: Axes, points: NDArray[np.floating], real: NDArray[np.floating], colour: str) -> None:
    axes.scatter(real[:, 0], real[:, 1], s=3, color=DATA, linewidths=0, rasterized=True)
    axes.scatter(points[:, 0], points[:, 1], s=4, color=colour, alpha=0.65, linewidths=0, rasterized=True)
    reach = _reach(real)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def _trajectories(axes: Axes, trajectories: NDArray[np.floating], real: NDArray[np.floating], colour: str) -> None:
    axes.scatter(real[:, 0], real[:, 1], s=3, color=DATA, linewidths=0, rasterized=True)
    axes.plot(trajectories[:, :, 0], trajectories[:, :, 1], color=colour, linewidth=0.7, alpha=0.75, rasterized=True)
    axes.scatter(
        trajectories[0, :, 0], trajectories[0, :, 1], s=5, color=NOISE, linewidths=0, zorder=3, rasterized=True
    )
    axes.scatter(
        trajectories[-1, :, 0], trajectories[-1, :, 1], s=6, color=INK, linewidths=0, zorder=3, rasterized=True
    )
    reach = max(_reach(real), 1.02 * float(np.abs(trajectories[0]).max()))
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def _images(axes: Axes, images: NDArray[np.floating]) -> None:
    cells = np.clip((images + 1) / 2, 0, 1)
    columns = len(cells) // PER_CLASS
    cells = np.pad(cells, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=1.0)
    lines = [np.concatenate(list(line), axis=-1) for line in cells.reshape(PER_CLASS, columns, *cells.shape[1:])]
    canvas = np.concatenate(lines, axis=-2).transpose(1, 2, 0)
    colours = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0} if canvas.shape[-1] == 1 else {}
    axes.imshow(canvas.squeeze(-1) if colours else canvas, interpolation="nearest", **colours)


def _bare(axes: Axes, text: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(text, fontsize=9, labelpad=3)
