"""Pictures of the placement report beside the heat maps: cost, bytes by link, affinity and load by layer, moves."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from moe.report.figures import BOUND, CONTIGUOUS, INK, PLACED, STYLE, to_svg

_FULL_WIDTH = 11.0
_LINK_NAMES = {"same_rank": "stays on its rank", "same_node": "inside the node", "other_node": "between nodes"}
_LINK_COLOURS = {"same_rank": "#dde3e9", "same_node": "#7fb3d5", "other_node": "#d55e00"}
_MOST_NUMBERS = 24  # columns of a strip that still have room for numbers
_MOST_LABELS = 14  # and for the names of two layers


def cost_bars(costs: Mapping[str, float], unit: str) -> str:
    """Compare costs per token; a lower bound is hatched.

    Args:
        costs: Cost per token by name, from top to bottom; `placed` and `lower bound` have looks of their own.
        unit: Unit of cost.

    Returns:
        SVG markup.
    """
    looks = {"placed": PLACED, "lower bound": BOUND}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        values = list(costs.values())
        bars = axes.barh(list(costs), values, color=[looks.get(name, CONTIGUOUS) for name in costs], height=0.62)
        for bar, name in zip(bars, costs, strict=True):
            if name == "lower bound":
                bar.set(edgecolor=INK, hatch="///", linewidth=0.8)
        axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=5)
        axes.invert_yaxis()
        axes.set_xlim(0, max(*values, 1e-9) * 1.14)
        axes.set_xlabel(f"cost per token [{unit}]")
        axes.tick_params(axis="y", length=0)
        return to_svg(figure)


def link_bars(volumes: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Stack what stays, what goes inside a node and what goes between nodes.

    Args:
        volumes: For each placement, from top to bottom, the volume by class of link.
        unit: Name and unit of the volumes.

    Returns:
        SVG markup.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_FULL_WIDTH, 0.9 + 0.55 * len(volumes)), layout="constrained")
        axes = figure.add_subplot()
        names = list(volumes)
        reach = max(max(sum(volume.values()) for volume in volumes.values()), 1e-30)
        ends = np.zeros(len(names))
        for kind, label in _LINK_NAMES.items():
            widths = np.array([volumes[name][kind] for name in names])
            if not widths.any():
                continue
            bars = axes.barh(names, widths, left=ends, color=_LINK_COLOURS[kind], height=0.62, label=label)
            texts = [f"{width:.3g}" if width > 0.04 * reach else "" for width in widths]
            axes.bar_label(bars, texts, label_type="center", color="white" if kind == "other_node" else INK)
            ends += widths
        axes.invert_yaxis()
        axes.set_xlim(0, reach * 1.02)
        axes.set_xlabel(unit)
        axes.tick_params(axis="y", length=0)
        if ends.any():
            axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
        return to_svg(figure)


def affinity_strip(rows: Mapping[str, Sequence[float]], first_layer: int) -> str:
    """Draw shares by gap between layers as a strip: a row for each quantity, a column for each gap.

    Args:
        rows: Quantities between 0 and 1 by name, one value a gap.
        first_layer: Layer before the first gap.

    Returns:
        SVG markup.
    """
    shares = np.array(list(rows.values()))
    columns = shares.shape[1]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_FULL_WIDTH, 0.9 + 0.36 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="none")
        axes.set_yticks(range(len(rows)), list(rows))
        step = -(-columns // _MOST_LABELS)
        marked = range(0, columns, step)
        axes.set_xticks(marked, [f"{first_layer + gap}→{first_layer + gap + 1}" for gap in marked])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("MoE layer → next MoE layer")
        axes.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=3)
        axes.tick_params(which="minor", length=0)
        if columns <= _MOST_NUMBERS:
            for (row, gap), share in np.ndenumerate(shares):
                text = f"{share:.0%}" if columns > 12 else f"{share:.1%}"
                shade = "white" if share > 0.6 else INK
                axes.text(gap, row, text, ha="center", va="center", fontsize=8, color=shade)
        scale = figure.colorbar(image, ax=axes, format=PercentFormatter(1, decimals=0), pad=0.01, aspect=12)
        scale.outline.set_visible(False)
        scale.ax.tick_params(labelsize=8)
        return to_svg(figure)


def load_spread(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Show by layer how unevenly the load is spread: median, 90th and 99th percentile, maximum.

    Args:
        panels: For each title the percentiles by layer (p50, p90, p99, max), as multiples of the mean.

    Returns:
        SVG markup.
    """
    reach = max(max(spread["max"]) for spread in panels.values())
    floor = min(min(spread["p50"]) for spread in panels.values())
    margin = max(0.08 * (reach - floor), 0.01)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_FULL_WIDTH, 3.0), layout="constrained")
        for axes, (title, spread) in zip(
            np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels.items(), strict=True
        ):
            layers = np.arange(len(spread["max"]))
            low, middle, high, top = (np.array(spread[name]) for name in ("p50", "p90", "p99", "max"))
            width = 0.62
            axes.bar(layers, middle - low, bottom=low, width=width, color="#7fb3d5", label="median to p90")
            axes.bar(layers, high - middle, bottom=middle, width=width, color="#c6dcec", label="p90 to p99")
            axes.scatter(layers, top, marker="_", s=max(900 / len(layers), 20), color="#d55e00", label="busiest")
            axes.axhline(1, color=INK, linewidth=0.8, linestyle=":")
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel("MoE layer")
            axes.set_ylim(floor - margin if floor > margin else 0, reach + margin)
            axes.set_xlim(-0.6, len(layers) - 0.4)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        figure.axes[0].set_ylabel("load / mean of the layer")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, ncols=3, loc="outside upper right")
        return to_svg(figure)


def arrivals_by_layer(arrivals: NDArray[np.int64], experts: int) -> str:
    """Draw by layer the number of experts that move to a rank which does not hold them yet.

    Args:
        arrivals: Experts that move, by layer.
        experts: Experts of a layer, replicas included.

    Returns:
        SVG markup.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_FULL_WIDTH, 2.4), layout="constrained")
        axes = figure.add_subplot()
        layers = np.arange(len(arrivals))
        axes.bar(layers, np.full(len(arrivals), experts), width=0.7, color="#e9edf1", label="stay")
        bars = axes.bar(layers, arrivals, width=0.7, color=PLACED, label="move")
        if len(arrivals) <= 2 * _MOST_NUMBERS:
            axes.bar_label(bars, [str(count) for count in arrivals], padding=1, fontsize=8)
        axes.set_ylim(0, experts * 1.06)
        axes.set_xlim(-0.6, len(layers) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("MoE layer")
        axes.set_ylabel("experts")
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
        return to_svg(figure)
