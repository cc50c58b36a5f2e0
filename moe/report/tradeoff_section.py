"""The section of the report about the price of balance: traffic against the load of the busiest rank."""

from collections.abc import Mapping, Sequence

from moe.placement.cost.evaluation import TradeoffPoint
from moe.report.drawing import ALARM, BEFORE, FULL_WIDTH, INK, PLACED, SOFT, Drawing, Panel, Scale, text_width
from moe.report.page import Figure, Section


def tradeoff_section(
    points: Sequence[TradeoffPoint], chosen: TradeoffPoint, compared: Mapping[str, TradeoffPoint], unit: str
) -> Section:
    """The curve of placements under several caps (maybe none) beside the chosen and other ones, in words too."""
    curve = tradeoff_curve(points, chosen, compared, unit)
    caption = (
        "To the left ranks are more even, further down less travels. Loads are those of the worst layer, and loads and "
        "costs those of the tokens that the placement was made from."
    )
    if points:
        caption = f"Each dot on the line is the placement found under one cap on the busiest rank. {caption}"
    title = "The price of balance" if points else "Traffic and balance"
    return Section(title, (Figure(curve, caption),), price_of_balance(points, chosen, compared, unit))


def price_of_balance(
    points: Sequence[TradeoffPoint], chosen: TradeoffPoint, compared: Mapping[str, TradeoffPoint], unit: str
) -> str:
    """Say what the chosen balance costs in traffic, and name the other placements."""
    cheapest = min((*points, chosen), key=lambda point: point.cost)
    extra = chosen.cost / cheapest.cost - 1 if cheapest.cost else 0.0
    if extra >= 0.0005:
        text = (
            f"Holding the busiest rank at {chosen.busiest:.2f} instead of {cheapest.busiest:.2f} times the mean costs "
            f"{extra:.1%} more traffic ({chosen.cost:.3g} instead of {cheapest.cost:.3g} {unit} a token)."
        )
    else:
        text = (
            f"The placement costs {chosen.cost:.3g} {unit} a token with the busiest rank at {chosen.busiest:.2f} times "
            f"the mean{'; no cap that was tried costs less' if points else ''}."
        )
    others = [f"{name} {point.cost:.3g} {unit} at {point.busiest:.2f}" for name, point in compared.items()]
    return f"{text} For comparison: {', '.join(others)}." if others else text


def tradeoff_curve(
    points: Sequence[TradeoffPoint], chosen: TradeoffPoint, compared: Mapping[str, TradeoffPoint], unit: str
) -> str:
    """Draw cost against the load of the busiest rank, the chosen placement marked."""
    drawing = Drawing(FULL_WIDTH, 400)
    every = [*points, chosen, *compared.values()]
    costs, loads = [point.cost for point in every], [point.busiest for point in every]
    least, most = _padded(loads, 0.02)
    panel = Panel(drawing, Scale(max(least, 1.0), most, 60, FULL_WIDTH - 30), Scale(*_padded(costs, 1e-9), 350, 34))
    panel.mark_y(f"cost per token [{unit}]")
    panel.mark_x("busiest rank of the worst layer / mean load of a rank")
    curve = sorted(points, key=lambda point: point.busiest)
    places = [(panel.x(point.busiest), panel.y(point.cost)) for point in curve]
    if places:
        drawing.line(places, PLACED, width=1.6)
    taken = [(panel.x(point.busiest), panel.y(point.cost)) for point in (chosen, *compared.values())]
    for point, (x, y) in zip(curve, places, strict=True):
        drawing.dot(x, y, 4.5, PLACED, title=_told(point, unit))
        if all(abs(x - other[0]) + abs(y - other[1]) > 60 for other in taken):
            taken.append((x, y))
            drawing.text(x + 7, y - 8, _cap(point), size=12, colour=SOFT)
    marks = {"placed": (chosen, ALARM)} | {name: (point, BEFORE) for name, point in compared.items()}
    for name, (point, colour) in marks.items():
        x, y = panel.x(point.busiest), panel.y(point.cost)
        drawing.dot(x, y, 7, colour, stroke=INK, title=f"{name}: {_told(point, unit)}")
        left = x + 12 + text_width(name) > FULL_WIDTH
        drawing.text(x + (-9 if left else 9), y - 9, name, anchor="end" if left else "start", bold=True)
    return drawing.markup()


def _padded(values: Sequence[float], least: float) -> tuple[float, float]:
    margin = max(0.08 * (max(values) - min(values)), 0.02 * abs(max(values)), least)
    return max(min(values) - margin, 0.0), max(values) + margin


def _cap(point: TradeoffPoint) -> str:
    return "no cap" if point.max_load is None else f"cap {point.max_load:.4g}"


def _told(point: TradeoffPoint, unit: str) -> str:
    return (
        f"{_cap(point)}: {point.cost:.4g} {unit} and {point.cross_rank:.4g} moves to other ranks a token, busiest rank "
        f"{point.busiest:.3f}"
    )
