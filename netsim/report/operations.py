"""The picture of the time of each operation under each transport."""

from netsim.report.drawing import FAINT, STYLE, bars, colours, name_rows, new_figure, rounded, time_unit, to_svg
from netsim.report.summary import CollectivesSummary, extremes, operations, summarise
from netsim.results import Results

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
