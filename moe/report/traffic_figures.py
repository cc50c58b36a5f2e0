"""Bars of the placement report: cost, volume by class of link, experts that move."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from moe.report.drawing import ALARM, BEFORE, FULL_WIDTH, HATCH, INK, PLACED, RULE, SOFT, Drawing, text_width
from moe.report.plot import Panel, Scale, name_column

LINK_NAMES = {"same_rank": "stays on its rank", "same_node": "inside the node", "other_node": "between nodes"}
_LINK_COLOURS = {"same_rank": RULE, "same_node": "#7fb3d5", "other_node": ALARM}
_BAR, _PITCH = 26, 40
_MOST_NUMBERS = 64


def cost_bars(costs: Mapping[str, float], unit: str) -> str:
    """Compare costs per token; a lower bound is hatched.

    Args:
        costs: Cost per token by name, from top to bottom; `placed` and `lower bound` have looks of their own.
        unit: Unit of cost.

    Returns:
        SVG markup.
    """
    looks = {"placed": PLACED, "lower bound": HATCH}
    height = 14 + _PITCH * len(costs)
    drawing = Drawing(FULL_WIDTH, height + 46)
    left = name_column(list(costs))
    panel = Panel(drawing, Scale(0, max(*costs.values(), 1e-9), left, FULL_WIDTH - 70), Scale(0, 1, height, 0))
    for row, (name, cost) in enumerate(costs.items()):
        top = 8 + row * _PITCH
        drawing.text(left - 10, top + 18, name, anchor="end")
        stroke = INK if name == "lower bound" else ""
        drawing.rect(left, top, panel.x(cost) - left, _BAR, looks.get(name, BEFORE), stroke=stroke)
        drawing.text(panel.x(cost) + 7, top + 18, f"{cost:.3g}", bold=True)
    panel.mark_x(f"cost per token [{unit}]")
    return drawing.markup()


def link_bars(volumes: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Stack what stays, what goes inside a node and what goes between nodes.

    Args:
        volumes: For each placement, from top to bottom, the volume by class of link.
        unit: Name and unit of the volumes.

    Returns:
        SVG markup.
    """
    height = 30 + _PITCH * len(volumes)
    drawing = Drawing(FULL_WIDTH, height + 46)
    left = name_column(list(volumes))
    reach = max(max(sum(volume.values()) for volume in volumes.values()), 1e-30)
    panel = Panel(drawing, Scale(0, reach, left, FULL_WIDTH - 20), Scale(0, 1, height, 0))
    for row, (name, volume) in enumerate(volumes.items()):
        top, end = 26 + row * _PITCH, 0.0
        drawing.text(left - 10, top + 18, name, anchor="end")
        for kind, amount in volume.items():
            begin, stop = panel.x(end), panel.x(end + amount)
            title = f"{name}, {LINK_NAMES[kind]}: {amount:.4g}"
            if amount:
                drawing.rect(begin, top, stop - begin, _BAR, _LINK_COLOURS[kind], title=title)
            label = f"{amount:.3g}"
            if stop - begin > text_width(label) + 8:
                colour = "#ffffff" if kind == "other_node" else INK
                drawing.text((begin + stop) / 2, top + 18, label, anchor="middle", colour=colour)
            end += amount
    kinds = [kind for kind in LINK_NAMES if any(volume[kind] for volume in volumes.values())]
    drawing.legend(FULL_WIDTH - 20, 14, [(LINK_NAMES[kind], _LINK_COLOURS[kind]) for kind in kinds])
    panel.mark_x(unit)
    return drawing.markup()


def arrivals_by_layer(arrivals: NDArray[np.int64], experts: int) -> str:
    """Draw by layer the number of experts that move to a rank which does not hold them yet.

    Args:
        arrivals: Experts that move, by layer.
        experts: Experts of a layer, replicas included.

    Returns:
        SVG markup.
    """
    drawing = Drawing(FULL_WIDTH, 240)
    layers = len(arrivals)
    panel = Panel(drawing, Scale(-0.5, layers - 0.5, 50, FULL_WIDTH - 20), Scale(0, experts, 196, 40))
    panel.mark_y("experts", whole=True)
    width = min(0.74 * (panel.x(1) - panel.x(0)), 46)
    for layer, moving in enumerate(arrivals.tolist()):
        left = panel.x(layer) - width / 2
        drawing.rect(left, panel.y(experts), width, panel.y(moving) - panel.y(experts), _LINK_COLOURS["same_rank"])
        title = f"layer {layer}: {moving} of {experts} move"
        drawing.rect(left, panel.y(moving), width, panel.y(0) - panel.y(moving), PLACED, title=title)
        if layers <= _MOST_NUMBERS and width > text_width(str(moving), 11) - 4:
            inside = moving > experts / 8
            colour = "#ffffff" if inside else SOFT
            drawing.text(
                panel.x(layer),
                panel.y(moving) + (13 if inside else -4),
                str(moving),
                anchor="middle",
                size=11,
                colour=colour,
            )
    panel.mark_x("MoE layer", whole=True)
    drawing.legend(FULL_WIDTH - 20, 16, [("stay", _LINK_COLOURS["same_rank"]), ("move", PLACED)])
    return drawing.markup()
