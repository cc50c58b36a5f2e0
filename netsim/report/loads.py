"""How evenly each transport spreads its work over the links between switches."""

import numpy as np

from netsim.report.drawing import FAINT, INK, STYLE, colours, name_rows, new_figure, time_unit, to_svg
from netsim.report.summary import extremes, summarise
from netsim.report.usage import usage
from netsim.results import Results

_MOST_TICKS = 300


def loads_title(results: Results) -> str:
    """The finding of `loads_svg` in one line."""
    overloads = {run.transport: usage(results, run).overload for run in results.first_runs()}
    fastest, _ = extremes(summarise(results))
    worst = max(overloads, key=lambda name: overloads[name])
    if overloads[worst] < 0.005:
        return "Every transport loads the fabric evenly"
    finding = f"{worst} overloads its busiest fabric link by {100 * overloads[worst]:.0f} %"
    if worst == fastest.name:
        return finding
    rival = "evenly" if overloads[fastest.name] < 0.005 else f"to within {100 * overloads[fastest.name]:.0f} %"
    return f"{finding}; {fastest.name} loads all of them {rival}"


def loads_svg(results: Results) -> str:
    """A row a transport: when each link between switches has done its work if it never waits; of the first seed."""
    import matplotlib
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    summaries = summarise(results)
    runs = results.first_runs()
    uses = [usage(results, run) for run in runs]
    longest = max((float(used.busy_us.max()) for used in uses if len(used.fabric)), default=0.0) or 1.0
    ends = [run.completion_ps / 1e6 for run in runs]
    scale, unit = time_unit(longest)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10, 1.25 + 0.42 * len(runs), loads_title(results))
        axes = figure.subplots()
        for row, (used, end, colour) in enumerate(zip(uses, ends, colours(summaries), strict=True)):
            if not len(used.fabric):
                continue
            ticks = _thinned(used.busy_us) / scale
            vertices = [(x, row + side) for x in ticks for side in (-0.3, 0.3)]
            path = Path(vertices, [Path.MOVETO, Path.LINETO] * len(ticks))
            axes.add_patch(PathPatch(path, edgecolor=colour, facecolor="none", linewidth=1.1, alpha=0.75))
            mean, most = used.mean_us / scale, float(used.busy_us.max()) / scale
            axes.plot(mean, row - 0.38, "v", markersize=5.5, color=INK)
            if end <= 1.8 * longest:
                axes.plot(end / scale, row, "|", markersize=17, color=INK, markeredgewidth=2)
                most = max(most, end / scale)
            label = f"+{100 * used.overload:.0f} %" if used.overload >= 0.005 else "even"
            axes.annotate(label, (most, row), (7, 0), textcoords="offset points", va="center", weight="bold")
        name_rows(axes, summaries)
        shown = [end for end in ends if end <= 1.8 * longest]
        axes.set_xlim(0, 1.12 * max(longest, *shown, 0.0) / scale)
        axes.set_xlabel(f"time that a link between switches is busy ({unit})")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="#e4e7eb", linewidth=0.8)
        axes.plot([], [], "v", markersize=5.5, color=INK, label="mean link")
        if shown:
            axes.plot([], [], "|", markersize=11, color=INK, markeredgewidth=2, label="completion")
        legend = figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9)
        for text in legend.get_texts():
            text.set_color(FAINT)
        return to_svg(figure, "loads")


def _thinned(values: np.ndarray) -> np.ndarray:
    """So many of them at most, the smallest and the largest included."""
    ordered = np.sort(values)
    places = np.linspace(0, len(ordered) - 1, min(_MOST_TICKS, len(ordered))).round().astype(np.int64)
    return ordered[places]
