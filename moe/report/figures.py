"""Pictures of the placement report as reproducible SVG, without global state of matplotlib."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

CONTIGUOUS, PLACED, BOUND, INK, FRAME = "#9aa5b1", "#0072b2", "#ffffff", "#1c2733", "#d55e00"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "flowfabric",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#8a949e",
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_FULL_WIDTH = 11.0
_LARGEST_SVG_BYTES = 300_000
_SHADES = 24  # few shades keep the pixels of many heat maps small


@dataclass(frozen=True, eq=False)
class BlockMap:
    """A matrix of tokens whose rows and columns belong to ranks.

    Attributes:
        tokens: Counts, [rows, columns].
        row_ranks: Rank of each row.
        column_ranks: Rank of each column.
    """

    tokens: NDArray[np.int64]
    row_ranks: NDArray[np.int64]
    column_ranks: NDArray[np.int64]

    @property
    def staying(self) -> float:
        """Share of the tokens whose row and column are on one rank."""
        on_rank = self.row_ranks[:, None] == self.column_ranks
        return float((self.tokens * on_rank).sum() / max(self.tokens.sum(), 1))

    def ordered_shares(self) -> NDArray[np.float64]:
        """Rows and columns in order of their ranks; every row as shares of its sum."""
        rows = np.argsort(self.row_ranks, kind="stable")
        columns = np.argsort(self.column_ranks, kind="stable")
        tokens = self.tokens[np.ix_(rows, columns)]
        return tokens / np.maximum(tokens.sum(axis=1, keepdims=True), 1)


def to_svg(figure: Figure) -> str:
    """Render a figure as SVG markup to stand inside a page.

    Args:
        figure: A matplotlib figure.

    Returns:
        Markup without date, the same bytes for the same figure.
    """
    stream = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = stream.getvalue()
    return text[text.index("<svg") :]


def to_image(figure: Figure) -> str | bytes:
    """Render a figure as SVG markup, or as PNG bytes where the markup would be heavy (over 300 KB).

    Args:
        figure: A matplotlib figure.

    Returns:
        The picture, the same bytes for the same figure.
    """
    markup = to_svg(figure)
    if len(markup) <= _LARGEST_SVG_BYTES:
        return markup
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def cost_by_layer(
    before: NDArray[np.float64],
    placed: NDArray[np.float64],
    unit: str,
    *,
    first_layer: int,
    name: str = "contiguous",
) -> str:
    """Draw the cost by layer, before and after.

    Args:
        before: Cost per token by layer under the placement in use.
        placed: The same under the new placement.
        unit: Unit of cost.
        first_layer: Layer of the first entry.
        name: Name of the placement in use.

    Returns:
        SVG markup.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        layers = first_layer + np.arange(len(placed))
        axes.plot(layers, before, "o--", color=CONTIGUOUS, markersize=4.5, label=name)
        axes.plot(layers, placed, "o-", color=PLACED, markersize=4.5, label="placed")
        axes.set_ylim(0, max(before.max(), placed.max(), 1e-9) * 1.25)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("MoE layer")
        axes.set_ylabel(f"cost per token [{unit}]")
        axes.legend(frameon=False, ncols=2, loc="upper right")
        return to_svg(figure)


def block_maps(
    titles: Sequence[str],
    before: Sequence[BlockMap],
    after: Sequence[BlockMap],
    row_name: str,
    column_name: str,
    *,
    name: str = "contiguous",
) -> str | bytes:
    """Draw a pair of heat maps for each title: rows and columns in rank order, the blocks of a rank framed.

    Args:
        titles: One title a pair, at least one.
        before: Matrices in the order of the placement in use.
        after: The same matrices in the placed order.
        row_name: Label of the rows.
        column_name: Label of the columns.
        name: Name of the placement in use.

    Returns:
        SVG markup, or a PNG where there are many.
    """
    shares = [[block_map.ordered_shares() for block_map in maps] for maps in (before, after)]
    blues = mpl.colormaps["Blues"].resampled(_SHADES)
    chance = 1 / shares[0][0].shape[1]  # below four times that, shades would make much of noise
    norm = PowerNorm(0.6, vmin=0, vmax=max(float(np.quantile(np.stack(shares[0]), 0.998)), min(4 * chance, 1)))
    per_row = min(3, len(titles))
    pair_width, pair_height, margin, gap = _FULL_WIDTH / 3, 2.42, 0.42, 0.12
    side = (pair_width - 0.22) / 2 - gap
    width = per_row * pair_width + margin + 0.75
    height = -(-len(titles) // per_row) * pair_height + margin
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height))

        def panel(x: float, y: float, w: float, h: float) -> Axes:
            return figure.add_axes((x / width, y / height, w / width, h / height))

        for index, title in enumerate(titles):
            left = margin + index % per_row * pair_width
            bottom = height - (index // per_row + 1) * pair_height + 0.1
            figure.text(left / width, (bottom + side + 0.28) / height, title, weight="bold", va="bottom")
            for half, (label, block_map) in enumerate(((name, before[index]), ("placed", after[index]))):
                axes = panel(left + half * (side + gap), bottom, side, side)
                axes.imshow(shares[half][index], cmap=blues, norm=norm, interpolation="none", aspect="auto")
                axes.set_title(f"{label}: {block_map.staying:.0%} stays", fontsize=9, loc="left", pad=4)
                _frame_blocks(axes, block_map)
        figure.text(0.12 / width, 0.5, f"{row_name}, by rank", rotation=90, va="center", ha="left")
        figure.text(margin / width, 0.12 / height, f"{column_name}, by rank", va="bottom")
        scale = panel(width - 0.62, height - pair_height + 0.1, 0.12, side)
        colours = figure.colorbar(ScalarMappable(norm, blues), cax=scale, format=PercentFormatter(1, decimals=0))
        colours.ax.tick_params(labelsize=8)
        scale.set_title("share\nof row", fontsize=8, loc="left")
        return to_image(figure)


def load_maps(before: NDArray[np.float64], placed: NDArray[np.float64], *, name: str = "contiguous") -> str:
    """Draw the load of every rank in every layer, relative to the mean of the layer, before and after.

    Args:
        before: Choices that each rank computes under the placement in use, [L, G].
        placed: The same under the new placement, [L, G].
        name: Name of the placement in use.

    Returns:
        SVG markup.
    """
    relative = [loads / np.maximum(loads.mean(axis=1, keepdims=True), 1e-9) for loads in (before, placed)]
    reach = max(max(float(np.abs(ratio - 1).max()) for ratio in relative), 0.25)
    num_layers, num_ranks = placed.shape
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_FULL_WIDTH, min(2.0 + 0.22 * num_layers, 9.0)), layout="constrained")
        for axes, ratio, label in zip(figure.subplots(1, 2), relative, (name, "placed"), strict=True):
            image = axes.imshow(
                ratio, cmap="RdBu_r", vmin=1 - reach, vmax=1 + reach, interpolation="none", aspect="auto"
            )
            axes.set_title(f"{label}: busiest rank at {ratio.max():.2f} of the mean", loc="left", fontsize=10)
            axes.set_xlabel("rank of the expert-parallel group")
            axes.set_ylabel("MoE layer")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if num_layers * num_ranks <= 128:
                for (layer, rank), value in np.ndenumerate(ratio):
                    shade = "white" if abs(value - 1) > 0.65 * reach else INK
                    axes.text(rank, layer, f"{value:.2f}", ha="center", va="center", fontsize=8, color=shade)
        figure.colorbar(image, ax=figure.axes, label="load / mean load of the layer", shrink=0.9)
        return to_svg(figure)


def _frame_blocks(axes: Axes, block_map: BlockMap) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    columns, rows = np.sort(block_map.column_ranks), np.sort(block_map.row_ranks)
    corners = []
    for rank in np.unique(rows):
        top, bottom = np.searchsorted(rows, [rank, rank + 1]) - 0.5
        left, right = np.searchsorted(columns, [rank, rank + 1]) - 0.5
        corners.append(Path([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]))
    width = 1.1 if len(corners) <= 8 else 0.6
    frames = Path.make_compound_path(*corners)
    axes.add_patch(PathPatch(frames, fill=False, edgecolor=FRAME, linewidth=width, clip_on=False))
