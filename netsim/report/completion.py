"""How long each transport takes, and how far that is above the lower bound."""

from typing import TYPE_CHECKING

from netsim.report.drawing import INK, STYLE, bars, behind, colours, name_rows, new_figure, rounded, time_unit, to_svg
from netsim.report.summary import TransportSummary, differ, extremes, summarise
from netsim.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def completion_title(results: Results) -> str:
    """The finding of `completion_svg` in one line."""
    summaries = summarise(results)
    fastest, slowest = extremes(summaries)
    if len(summaries) == 1:
        scale, unit = time_unit(fastest.mean_us)
        above = f"{100 * fastest.above_bound:.1f} % above the lower bound"
        return (
            f"{fastest.name} takes {rounded(fastest.mean_us / scale, 4)} {unit}, {above}"
            if fastest.mean_us
            else "Nothing to do"
        )
    if not differ(summaries):
        return "All transports take the same time, to half a percent"
    return f"{slowest.name} takes {behind(slowest.mean_us, fastest.mean_us)} {fastest.name}"


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
        bars(excess, fill, above, [f"{sum(values) / len(values):+.1f} %".replace("-0.0", "+0.0") for values in above])
        _mark(times, max(summary.bound_us for summary in summaries) / scale, unit)
        name_rows(times, summaries)
        times.set_ylim(top=-1)
        times.set_xlim(0, 1.22 * max(map(max, completions)) or 1)
        excess.set_xlim(0, 1.25 * max(0.4, *map(max, above)))
        times.set_xlabel(f"completion time ({unit})")
        excess.set_xlabel("above the lower bound (%)")
        return to_svg(figure, "completion")


def _mark(axes: "Axes", bound: float, unit: str) -> None:
    """The lower bound as a dashed line with its value."""
    axes.axvline(bound, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
    text = f"lower bound {bound:.4g} {unit}"
    axes.annotate(text, (bound, -0.72), (-5, 0), textcoords="offset points", ha="right", va="center", size=9)


def _above_bound(summary: TransportSummary) -> list[float]:
    return [100 * (us / summary.bound_us - 1) if summary.bound_us else 0.0 for us in summary.completions_us]
