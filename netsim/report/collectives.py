"""Pictures of the time of each operation, and of each phase of steps that begin with rollouts."""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from netsim.report.drawing import (
    FAINT,
    GRID,
    INK,
    STYLE,
    bars,
    colours,
    name_rows,
    new_figure,
    rounded,
    time_unit,
    to_svg,
)
from netsim.report.summary import CollectivesSummary, extremes, operations, summarise
from netsim.results import Results, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_PANELS_A_ROW = 3
_SIZE_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1, "B"))


def operations_title(results: Results) -> str:
    """The finding of `operations_svg`: where the slowest transport loses most, or else what takes longest."""
    panels = operations(results)
    fastest, slowest = (summary.name for summary in extremes(summarise(results)))
    worst = max(panels, key=lambda panel: panel.mean_us(slowest) - panel.mean_us(fastest))
    behind = 100 * worst.above(slowest, fastest)
    if behind < 0.5:
        share = panels[0].mean_us(fastest) / (sum(panel.mean_us(fastest) for panel in panels) or 1)
        return f"{panels[0].name} takes {100 * share:.0f} % of the time of all operations"
    finding = f"{slowest} spends {behind:.0f} % longer in {worst.name} than {fastest}"
    rest = [panel for panel in panels if panel is not worst]
    least = sum(panel.mean_us(fastest) for panel in rest)
    if not least:
        return finding
    beyond = 100 * (sum(panel.mean_us(slowest) for panel in rest) / least - 1)
    return f"{finding}, {abs(beyond):.0f} % {'longer' if beyond >= 0 else 'shorter'} in all else"


def operations_svg(results: Results) -> str:
    """Time of all collectives of each operation, by transport; dots are seeds. Needs several collectives."""
    import matplotlib

    summaries, panels = summarise(results), operations(results)
    fastest = extremes(summaries)[0].name
    longest = max(max(values) for panel in panels for values in panel.times_us.values())
    scale, unit = time_unit(longest)
    columns = min(_PANELS_A_ROW, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10, 0.6 + rows * (1.1 + 0.4 * len(summaries)), operations_title(results))
        figure.set_layout_engine("constrained", h_pad=0.1)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
        for axes, panel in zip(grid, panels, strict=False):
            times = [[us / scale for us in panel.times_us[summary.name]] for summary in summaries]
            bars(axes, colours(summaries), times, [_label(panel, s.name, fastest, scale) for s in summaries])
            axes.set_title(panel.name, loc="left", weight="bold", size=10, pad=19)
            axes.annotate(_amount(panel), (0, 1), (0, 5), "axes fraction", "offset points", color=FAINT, size=9)
            axes.set_xlabel(f"time ({unit})")
            axes.xaxis.set_tick_params(labelbottom=True)
            axes.locator_params(axis="x", nbins=4)
        for unused in figure.axes[len(panels) :]:
            unused.remove()
        name_rows(figure.axes[0], summaries)
        figure.axes[0].set_xlim(0, 1.75 * max(longest, 1) / scale)
        return to_svg(figure, "operations")


def _label(panel: CollectivesSummary, name: str, fastest: str, scale: float) -> str:
    mean, above = rounded(panel.mean_us(name) / scale, 3), panel.above(name, fastest)
    if name == fastest:
        return mean
    return f"{mean}  ×{rounded(1 + above, 2)}" if above >= 2 else f"{mean}  {100 * above:+.1f} %".replace("-", "−")


def _amount(panel: CollectivesSummary) -> str:
    scale, unit = next((scale, unit) for scale, unit in _SIZE_UNITS if panel.payload_bytes >= scale or scale == 1)
    plural = "s" if panel.collectives > 1 else ""
    return f"{panel.collectives} collective{plural}, {panel.payload_bytes / scale:.3g} {unit}"


ROLLOUT = "rollout"
_FILLS = {ROLLOUT: "#d55e00", "forward": "#0072b2", "backward": "#8fb8d6", "optimizer": "#c9ccd1"}
_OTHER = "#7a7f85"
_LABELLED = 0.07
"""Least share of a bar that a label fits in."""


@lru_cache(maxsize=1)
def phases(results: Results) -> tuple[CollectivesSummary, ...]:
    """One summary a phase, in the order of a step; none unless some collective belongs to rollouts.

    The time is that in which nothing but collectives of this phase ended, each from the end of the one before it, so
    that computation between them counts, too. The times of all phases add up to the run.
    """
    if all(span.phase != ROLLOUT for span in results.spans):
        return ()
    counts: dict[str, int] = defaultdict(int)
    payloads: dict[str, int] = defaultdict(int)
    for span in results.spans:
        counts[_phase(span.phase)] += 1
        payloads[_phase(span.phase)] += span.bytes
    times: dict[str, dict[str, list[float]]] = {phase: defaultdict(list) for phase in counts}
    for run in results.runs:
        of_phase = _times_ps(results, run)
        for phase in counts:
            times[phase][run.transport].append(of_phase[phase] / 1e6)
    order = [*_FILLS, *sorted(counts.keys() - _FILLS.keys())]
    return tuple(
        CollectivesSummary(phase, counts[phase], payloads[phase], times[phase]) for phase in order if phase in counts
    )


def rollout_sentence(results: Results) -> str:
    """The shares of rollouts in one sentence, with the transport that completes first; empty without rollouts."""
    if not phases(results):
        return ""
    shares = f"{100 * time_share(results):.1f} % of the time and {100 * _payload_share(results):.1f} % of the bytes"
    return f"rollouts take {shares} of the steps under {extremes(summarise(results))[0].name}"


def time_share(results: Results) -> float:
    """Share of rollouts in the time of the transport that completes first, 0 to 1."""
    fastest = extremes(summarise(results))[0].name
    whole = sum(one.mean_us(fastest) for one in phases(results))
    return _rollouts(results).mean_us(fastest) / whole if whole else 0.0


def rows(results: Results) -> list[tuple[str, ...]]:
    """A row of text a phase: its collectives, its bytes, and its time with each transport, with their shares."""
    found = phases(results)
    payload = sum(one.payload_bytes for one in found) or 1
    names = [summary.name for summary in summarise(results)]
    wholes = {name: sum(one.mean_us(name) for one in found) or 1 for name in names}
    return [
        (
            one.name,
            f"{one.collectives:,}",
            f"{one.payload_bytes / 1e6:,.1f} ({100 * one.payload_bytes / payload:.1f} %)",
            *(f"{one.mean_us(name):,.1f} ({100 * one.mean_us(name) / wholes[name]:.1f} %)" for name in names),
        )
        for one in found
    ]


def heads(results: Results) -> tuple[str, ...]:
    """What stands above the columns of `rows`."""
    return "phase", "collectives", "payload, MB", *(f"{summary.name}, µs" for summary in summarise(results))


def phases_svg(results: Results) -> str:
    """A bar for the time of each transport and one for the payload, cut into phases. Needs rollouts."""
    import matplotlib
    from matplotlib.patches import Patch

    found, summaries = phases(results), summarise(results)
    scale, unit = time_unit(max(summary.mean_us for summary in summaries))
    title = (
        f"Rollouts take {100 * time_share(results):.0f} % of the time and "
        f"{100 * _payload_share(results):.0f} % of the bytes of a step"
    )
    with matplotlib.rc_context(STYLE):
        height = 1.9 + 0.45 * (len(summaries) + 1)
        figure = new_figure(10, height, title)
        upper, lower = figure.subplots(2, 1, gridspec_kw={"height_ratios": [len(summaries) + 0.3, 1.3]})
        for row, summary in enumerate(summaries):
            _bar(upper, row, [(one.name, one.mean_us(summary.name) / scale) for one in found])
        name_rows(upper, summaries)
        upper.set_xlabel(f"time ({unit})")
        _bar(lower, 0, [(one.name, one.payload_bytes / 1e6) for one in found])
        lower.set_yticks([0], ["payload"])
        lower.set_ylim(0.5, -0.5)
        lower.set_xlabel("payload of all messages (MB)")
        for axes in (upper, lower):
            axes.margins(x=0.01)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="x", color=GRID, linewidth=0.8)
        handles = [Patch(color=_FILLS.get(one.name, _OTHER), label=one.name) for one in found]
        figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=9)
        return to_svg(figure, "phases")


def _bar(axes: "Axes", row: int, parts: Sequence[tuple[str, float]]) -> None:
    """A bar cut into phases; those that are wide enough say their share."""
    whole, begin = sum(size for _, size in parts) or 1, 0.0
    for phase, size in parts:
        axes.barh(row, size, left=begin, color=_FILLS.get(phase, _OTHER), height=0.62)
        if size / whole >= _LABELLED:
            ink = "white" if phase in (ROLLOUT, "forward") else INK
            text = f"{phase} {rounded(100 * size / whole, 2)} %"
            axes.annotate(text, (begin + size / 2, row), ha="center", va="center", color=ink, size=9, weight="bold")
        begin += size


def _times_ps(results: Results, run: Run) -> dict[str, int]:
    """Time of each phase in a run; what a collective adds to the run's time counts for its phase."""
    times: dict[str, int] = defaultdict(int)
    ended = 0
    for end, index in sorted((times_of.end_ps, index) for index, times_of in enumerate(run.collectives)):
        times[_phase(results.spans[index].phase)] += end - ended
        ended = end
    return times


def _phase(name: str | None) -> str:
    return name or "other"


def _rollouts(results: Results) -> CollectivesSummary:
    return next(one for one in phases(results) if one.name == ROLLOUT)


def _payload_share(results: Results) -> float:
    whole = sum(one.payload_bytes for one in phases(results))
    return _rollouts(results).payload_bytes / whole if whole else 0.0
