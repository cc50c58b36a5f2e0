"""The section of the report about affinity between consecutive layers: what coherent dispatch can use."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moe.placement.cost.evaluation import Evaluation
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Placement
from moe.report.drawing import FULL_WIDTH, INK, PAPER, SOFT, Drawing
from moe.report.heat_map import AMOUNTS, is_dark, png
from moe.report.page import Figure, Section
from moe.report.plot import name_column

_ROW = 30


def affinity_section(
    placement: Placement,
    statistics: RoutingStatistics,
    before: Evaluation,
    placed: Evaluation,
    name: str,
    numbers: dict[str, Any],
) -> Section:
    """Compose the section.

    Args:
        placement: The placement.
        statistics: Counts of the trace, of two layers at least.
        before: Traffic under the placement in use.
        placed: Traffic under the new placement.
        name: Name of the placement in use.
        numbers: What `moe.report.summary.summarise` returned.

    Returns:
        A strip over the gaps between layers: how far an expert tells the next one, and what stays on its rank.
    """
    slots, affinity = placement.slots_per_rank, numbers["affinity"]
    rows = {"mutual information": affinity["mutual_information"], f"top {slots} successors": affinity["top_mass"]}
    explained = (
        f"Mutual information as a share of log E: 0 no affinity, 1 fully determined. The top {slots} successors of "
        "each expert are what one rank could keep if experts did not compete for it. "
        f"Chance to stay is {affinity['chance_to_stay']:.1%}."
    )
    if placement.dispatch != "coherent":
        text = "For information: affinity does not change home-return traffic; context-coherent dispatch could use it."
        return Section("Affinity between consecutive layers", (Figure(affinity_strip(rows, 0), explained),), text)
    stays = [_staying(statistics, traffic) for traffic in (before, placed)]
    rows |= {f"stays, {name}": stays[0], "stays, placed": stays[1]}
    then, now = (float(np.mean(shares)) for shares in stays)
    text = (
        f"{now:.0%} of the first choices are on the rank of the one before; with the {name} placement {then:.0%} are."
    )
    return Section("Affinity between consecutive layers", (Figure(affinity_strip(rows, 0), explained),), text)


def _staying(statistics: RoutingStatistics, traffic: Evaluation) -> list[float]:
    """Share of the anchors' moves to the next layer that stay on their rank, by gap."""
    if len(traffic.moves) == 1:  # no copies among them, so that replicas count as they are used
        return [float(np.trace(moves) / max(moves.sum(), 1e-300)) for moves in traffic.moves[0, 1:]]
    ranks = traffic.expert_ranks
    return [
        float((tokens * (here[:, None] == there)).sum() / max(tokens.sum(), 1))
        for tokens, here, there in zip(statistics.transitions, ranks, ranks[1:], strict=False)
    ]


def affinity_strip(rows: Mapping[str, Sequence[float]], first_layer: int) -> str:
    """Draw shares by gap between layers as a strip: a row for each quantity, a column for each gap.

    Args:
        rows: Quantities between 0 and 1 by name, one value a gap.
        first_layer: Layer before the first gap.

    Returns:
        SVG markup; the darkest shade is the largest share, and the mean of a row stands at its end.
    """
    shares = np.array(list(rows.values()))
    shades = 0.85 * shares / max(float(shares.max()), 1e-9)
    gaps = shares.shape[1]
    left, right = name_column(list(rows)), FULL_WIDTH - 84
    cell = (right - left) / gaps
    drawing = Drawing(FULL_WIDTH, len(rows) * (_ROW + 4) + 44)
    for row, (name, values) in enumerate(rows.items()):
        top = row * (_ROW + 4)
        drawing.text(left - 10, top + 19, name, anchor="end")
        drawing.image(left, top, right - left, _ROW, png(shades[row : row + 1], AMOUNTS))
        drawing.text(right + 10, top + 19, f"mean {shares[row].mean():.0%}", colour=SOFT)
        for gap, value in enumerate(values):
            if cell >= 26:
                colour = PAPER if is_dark(AMOUNTS, float(shades[row, gap])) else INK
                text = f"{value:.0%}" if cell < 60 else f"{value:.1%}"
                drawing.text(left + (gap + 0.5) * cell, top + 19, text, anchor="middle", size=11, colour=colour)
    bottom = len(rows) * (_ROW + 4) + 12
    for gap in range(0, gaps, -(-gaps // max(int((right - left) / 70), 1))):
        label = f"{first_layer + gap}→{first_layer + gap + 1}"
        drawing.text(left + (gap + 0.5) * cell, bottom, label, anchor="middle", size=12, colour=SOFT)
    drawing.text((left + right) / 2, bottom + 24, "MoE layer → next MoE layer", anchor="middle", colour=SOFT)
    return drawing.markup()
