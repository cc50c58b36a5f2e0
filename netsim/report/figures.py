"""Two pictures of a comparison: how long each transport takes, and how evenly it loads the fabric."""

from typing import TYPE_CHECKING, Any

import numpy as np

from netsim.report.drawing import GRID, INK, STYLE, bars, colours, name_rows, new_figure, rounded, time_unit, to_svg
from netsim.report.summary import TransportSummary, extremes, summarise
from netsim.results import Results, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def completion_title(results: Results) -> str:
    """The finding of `completion_svg` in one line."""
    fastest, slowest = extremes(summarise(results))
    behind = 100 * (slowest.mean_us / fastest.mean_us - 1) if fastest.mean_us else 0.0
    if behind < 0.5:
        return "All transports take the same time, to half a percent"
    return f"{slowest.name} takes {behind:.{0 if behind >= 10 else 1}f} % longer than {fastest.name}"


def completion_svg(results: Results) -> str:
    """Completion time of each transport, and how far it lies above the lower bound; dots are seeds."""
    import matplotlib

    summaries = summarise(results)
    _, slowest = extremes(summaries)
    scale, unit = time_unit(slowest.mean_us)
    fill = colours(summaries)
    completions = [[us / scale for us in summary.completions_us] for summary in summaries]
    above = [_above_bound(summary) for summary in summaries]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10, 1.9 + 0.44 * len(summaries), completion_title(results))
        times, excess = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        bars(times, fill, completions, [f"{rounded(summary.mean_us / scale, 4)} {unit}" for summary in summaries])
        bars(excess, fill, above, [f"+{sum(values) / len(values):.1f} %" for values in above])
        _mark(times, max(summary.bound_us for summary in summaries) / scale, unit)
        name_rows(times, summaries)
        times.set_ylim(top=-1)
        times.set_xlim(0, 1.22 * max(map(max, completions)))
        excess.set_xlim(0, 1.25 * max(0.4, *map(max, above)))
        times.set_xlabel(f"completion time ({unit})")
        excess.set_xlabel("above the lower bound (%)")
        return to_svg(figure, "completion")


def links_title(results: Results) -> str:
    """The finding of `links_svg` in one line."""
    peaks = {run.transport: _peak(results, run) for run in _first_runs(results)}
    fastest, _ = extremes(summarise(results))
    worst = max(peaks, key=lambda name: peaks[name])
    if peaks[worst] < 0.005:
        return "Every transport loads the fabric evenly"
    finding = f"{worst} overloads its busiest fabric link by {100 * peaks[worst]:.0f} %"
    if worst == fastest.name:
        return finding
    rival = "evenly" if peaks[fastest.name] < 0.005 else f"to within {100 * peaks[fastest.name]:.0f} %"
    return f"{finding}; {fastest.name} loads all of them {rival}"


def links_svg(results: Results) -> str:
    """Load of every link between leaves and spines, over the mean of its leaf's links in that direction."""
    import matplotlib

    runs = _first_runs(results)
    loads = [_loads(results, run) for run in runs]
    reach = 100 * max(0.1, *(float(np.abs(load).max()) for load in loads))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10, 4.7, links_title(results))
        panels = figure.subplots(2, len(runs), sharex=True, sharey=True, squeeze=False)
        for column, (run, load) in enumerate(zip(runs, loads, strict=True)):
            for axes, direction in zip(panels[:, column], load, strict=True):
                image = axes.pcolormesh(
                    100 * direction, cmap=_diverging(), vmin=-reach, vmax=reach, edgecolor="white", linewidth=0.8
                )
                axes.set_box_aspect(1)
                axes.tick_params(length=0, labelsize=8)
                for axis, count in ((axes.xaxis, direction.shape[1]), (axes.yaxis, direction.shape[0])):
                    every = -(-count // 8)
                    axis.set_ticks([index + 0.5 for index in range(0, count, every)], range(0, count, every))
                for spine in axes.spines.values():
                    spine.set(visible=True, color=GRID)
            panels[0, column].set_title(f"{run.transport}\nbusiest {100 * _peak(results, run):+.0f} %", size=10)
            panels[1, column].set_xlabel("spine", size=9)
        panels[0, 0].invert_yaxis()
        for axes, direction in zip(panels[:, 0], ("leaf to spine", "spine to leaf"), strict=True):
            axes.set_ylabel(f"{direction}\nleaf", size=9)
        figure.colorbar(image, ax=panels, shrink=0.7, pad=0.015, label="load against an even share (%)")
        return to_svg(figure, "links")


def _mark(axes: "Axes", bound: float, unit: str) -> None:
    """The lower bound as a dashed line with its value."""
    axes.axvline(bound, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
    text = f"lower bound {bound:.4g} {unit}"
    axes.annotate(text, (bound, -0.72), (-5, 0), textcoords="offset points", ha="right", va="center", size=9)


def _above_bound(summary: TransportSummary) -> list[float]:
    return [100 * (us / summary.bound_us - 1) if summary.bound_us else 0.0 for us in summary.completions_us]


def _diverging() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("load", ["#08519c", "#6baed6", "#f7f7f5", "#fd8d3c", "#a63603"])


def _first_runs(results: Results) -> list[Run]:
    """The first seed of each transport."""
    first: dict[str, Run] = {}
    for run in results.runs:
        first.setdefault(run.transport, run)
    return list(first.values())


def _loads(results: Results, run: Run) -> np.ndarray:
    """[direction, leaf, spine] load over the mean of the leaf's links in that direction, less one; up, then down."""
    by_name = {link.name: size for link, size in zip(results.links, run.links["bytes"].tolist(), strict=True)}
    leaves, spines = range(results.scenario["topology"]["leaves"]), range(results.scenario["topology"]["spines"])
    up = [[by_name[f"leaf{leaf}-spine{spine}"] for spine in spines] for leaf in leaves]
    down = [[by_name[f"spine{spine}-leaf{leaf}"] for spine in spines] for leaf in leaves]
    load = np.array([up, down], dtype=float)
    even = load.mean(axis=2, keepdims=True)
    return load / np.where(even, even, 1) - (even > 0)


def _peak(results: Results, run: Run) -> float:
    return float(_loads(results, run).max())
