"""Pictures of how busy the links of the fabric are, and how evenly each transport spreads its work over them."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from netsim.report.drawing import FAINT, INK, STYLE, colours, name_rows, new_figure, time_unit, to_svg
from netsim.report.layout import Drawing, Stroke, drawings
from netsim.report.summary import extremes, summarise
from netsim.results import Results, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Usage(NamedTuple):
    """Part of the run in which each link of the fabric was busy; used links between switches, and their busy time."""

    shares: np.ndarray
    fabric: np.ndarray
    busy_us: np.ndarray

    @property
    def busiest(self) -> int | None:
        """The busiest link between switches; None if none carried anything."""
        return int(self.fabric[self.busy_us.argmax()]) if len(self.fabric) else None

    @property
    def most(self) -> float:
        """Share of the busiest of them."""
        return float(self.shares[self.fabric].max(initial=0))

    @property
    def mean(self) -> float:
        """Their mean share."""
        return float(self.shares[self.fabric].mean()) if len(self.fabric) else 0.0

    @property
    def mean_us(self) -> float:
        """Mean over the links between switches that carried something."""
        return float(self.busy_us.mean()) if len(self.fabric) else 0.0

    @property
    def overload(self) -> float:
        """Time of the busiest link over the mean, less one."""
        return float(self.busy_us.max()) / self.mean_us - 1 if self.mean_us else 0.0


def usage(results: Results, run: Run) -> Usage:
    """How busy the links of a run were."""
    busy_ps = run.links["busy_ps"]
    fabric = _fabric_links(results)
    used = fabric[run.links["bytes"][fabric] > 0]
    return Usage(busy_ps / max(1, run.completion_ps), used, busy_ps[used] / 1e6)


def _fabric_links(results: Results) -> np.ndarray:
    switches = {name for tier in results.scene.topology.tiers for name in tier}
    between: Sequence[int] = [n for n, link in enumerate(results.links) if {link.src, link.dst} <= switches]
    return np.array(between, dtype=np.int64)


_LEVELS = 20
_MOST_NUMBERED = 16
_MOST_VECTORS = 4000
"""Links that one drawing keeps as lines; more of them are painted as an image."""


def links_title(results: Results) -> str:
    """The finding of `links_svg` in one line."""
    (slow, slowest), (fast, fastest) = ((run.transport, usage(results, run)) for run in _ends(results))
    if slowest.busiest is None:
        return "No traffic crosses the fabric"
    finding = f"{slow}: busiest fabric link {_percent(slowest.most)} busy, mean {_percent(slowest.mean)}"
    return finding if slow == fast else f"{finding}; {fast}: {_percent(fastest.most)} and {_percent(fastest.mean)}"


def links_svg(results: Results) -> str:
    """Every link of the fabric on its drawing, by the part of the run in which it is busy; of the first seed."""
    import matplotlib

    panels = drawings(results.scene.topology)
    runs = list(dict.fromkeys(_ends(results)))
    rows, columns = (len(panels), len(runs)) if len(runs) > 1 else (1, len(panels))
    height = 0.5 + rows * (2.75 if panels[0].rows else 4.9)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10, height, links_title(results))
        figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.14)
        grid = figure.subplots(rows, columns, squeeze=False)
        uses = [usage(results, run) for run in runs]
        reach = _reach(max(float(used.shares.max(initial=0)) for used in uses))
        for column, (run, used) in enumerate(zip(runs, uses, strict=True)):
            for row, panel in enumerate(panels):
                axes = grid[row, column] if len(runs) > 1 else grid[0, row]
                _draw(axes, panel, used.shares / reach, reach == 1)
                _head(axes, panel, run.transport if row == 0 else "", results, used)
                if column == 0 and (row == 0 or len(runs) > 1):
                    _name_rows(axes, panel)
        _scale(figure, grid, reach)
        return to_svg(figure, "links")


def _ends(results: Results) -> tuple[Run, Run]:
    """The first seeds of the slowest and of the fastest transport."""
    fastest, slowest = extremes(summarise(results))
    first = {run.transport: run for run in results.first_runs()}
    return first[slowest.name], first[fastest.name]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0095 or not share else f"{100 * share:.1g} %"


def _head(axes: "Axes", panel: Drawing, name: str, results: Results, used: Usage) -> None:
    """The heading of a panel: transport, direction and busiest link."""
    here = {link for stroke in panel.between for link in stroke.links}
    inside = [link for link in used.fabric.tolist() if link in here]
    detail = "nothing crosses it"
    if inside:
        busiest = max(inside, key=lambda link: used.shares[link])
        mean = sum(used.shares[link] for link in inside) / len(inside)
        most = _percent(float(used.shares[busiest]))
        detail = f"busiest {results.links[busiest].name}, {most}; mean {_percent(float(mean))}"
    text = f"{panel.title}: {detail}" if panel.title else detail
    axes.set_title(text, loc="left", size=8, color=FAINT, pad=4)
    if name:
        axes.annotate(name, (0, 1), (0, 19), "axes fraction", "offset points", weight="bold", size=11)


def _reach(most: float) -> float:
    """The share that has the darkest colour, for the busiest link of all."""
    return next((reach for reach in (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if reach >= most), 1.0)


def _draw(axes: "Axes", panel: Drawing, shares: np.ndarray, full: bool) -> None:
    """Draws a panel. A share of 1 has the darkest colour, or the signal colour if shares are of the run."""
    count = max(1, len(panel.between))
    _strokes(axes, panel.hosts, shares, full, float(np.clip(90 / max(1, len(panel.hosts)), 0.45, 1.6)))
    _strokes(axes, panel.between, shares, full, float(np.clip(11 / count**0.5, 0.3, 1.9)))
    crowd = max((sum(y == height for _, y in panel.switches.values()) for _, height in panel.rows[1:]), default=0)
    size = float(np.clip(900 / max(crowd, len(panel.switches) / 2, 1), 16, 90))
    xs, ys = zip(*panel.switches.values(), strict=True)
    axes.scatter(xs, ys, s=size, marker="s", color="white", edgecolor=INK, linewidth=0.9, zorder=3)
    for name, place in panel.switches.items():
        if crowd <= _MOST_NUMBERED and panel.rows:
            digits = name[len(name.rstrip("0123456789")) :]
            axes.annotate(digits, place, ha="center", va="center_baseline", size=6, zorder=4)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.03, 1.08)
    if not panel.rows:
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")


def _strokes(axes: "Axes", strokes: Sequence[Stroke], shares: np.ndarray, full: bool, width: float) -> None:
    """Lines of one colour are one path; the busiest lie on top, and are wider."""
    from matplotlib.patches import PathPatch

    levels: dict[int, list[Stroke]] = {}
    for stroke in strokes:
        share = float(np.mean(shares[list(stroke.links)]))
        levels.setdefault(min(math.ceil(share * _LEVELS), _LEVELS), []).append(stroke)
    image = len(strokes) > _MOST_VECTORS
    for level, alike in sorted(levels.items()):
        look: dict[str, Any] = {"edgecolor": "#c3c9cf", "linewidth": 0.6 * width, "linestyle": (0, (1, 2.5))}
        if level:
            look = {"edgecolor": _colour(level, full), "linewidth": width * (0.6 + 0.7 * level / _LEVELS)}
        axes.add_patch(PathPatch(_path(alike), facecolor="none", zorder=1 + level / 100, rasterized=image, **look))


def _path(strokes: Iterable[Stroke]) -> Any:
    from matplotlib.path import Path

    codes = {2: (Path.MOVETO, Path.LINETO), 3: (Path.MOVETO, Path.CURVE3, Path.CURVE3)}
    vertices = [point for stroke in strokes for point in stroke.points]
    return Path(vertices, [code for stroke in strokes for code in codes[len(stroke.points)]])


def _name_rows(axes: "Axes", panel: Drawing) -> None:
    for name, height in panel.rows:
        axes.annotate(
            name, (0, height), (-8, 0), "data", "offset points", ha="right", va="center", size=8, annotation_clip=False
        )


def _scale(figure: "Figure", panels: Any, reach: float) -> None:
    """The colours beside the panels."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colours = ListedColormap([_colour(level, reach == 1) for level in range(1, _LEVELS + 1)])
    scale = ScalarMappable(Normalize(0, 100 * reach), colours)
    bar = figure.colorbar(scale, ax=panels, shrink=0.6, pad=0.01, aspect=24, label="busy (% of the run)")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)


def _colour(level: int, full: bool) -> Any:
    """From grey to dark blue, darker is busier; a link that is busy nearly all the time is orange."""
    from matplotlib.colors import LinearSegmentedColormap

    if full and level == _LEVELS:
        return "#d55e00"
    blues = LinearSegmentedColormap.from_list("busy", ["#e3e7ea", "#a9cbe3", "#4f94c9", "#14599b", "#062a54"])
    return blues(((level - 1) / (_LEVELS - 1)) ** 1.7)


_MOST_TICKS = 300


def has_loads(results: Results) -> bool:
    """Whether any first run used a link between switches."""
    return any(usage(results, run).busiest is not None for run in results.first_runs())


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
