"""Who sends to whom: tokens between every two ranks, before and after.

Shape legend: G ranks of one expert-parallel group.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.evaluation import Evaluation
from moe.report.drawing import ALARM, FULL_WIDTH, INK, PAPER, RULE, SOFT, Drawing
from moe.report.heat_map import AMOUNTS, draw_scale, is_dark, png

_MOST_NUMBERED = 8  # ranks whose cells have room for numbers
_SIDE, _TOP = 420, 42


def rank_maps(traffic: Mapping[str, Evaluation], ranks_per_node: int) -> str:
    """Draw for each placement the moves of a token from rank to rank, all layers and exchanges together.

    Args:
        traffic: Traffic by name of the placement, two of them.
        ranks_per_node: Ranks on each node; nodes are framed.

    Returns:
        SVG markup. All maps share one scale; the diagonal, what stays on its rank, is left blank.
    """
    sent = {name: _sent(evaluation) for name, evaluation in traffic.items()}
    reach = max(float(max(moves.max() for moves in sent.values())), 1e-30)
    drawing = Drawing(FULL_WIDTH, _TOP + _SIDE + 44)
    for index, (name, moves) in enumerate(sent.items()):
        left = 40 + index * (_SIDE + 56)
        between = float((moves * traffic[name].off_node).sum())
        text = f"{moves.sum():.3g} moves a token to other ranks"
        text += f", {between:.3g} of them to other nodes" if traffic[name].off_node.any() else ""
        drawing.text(left, 14, name, bold=True, size=14)
        drawing.text(left, 32, text, colour=SOFT)
        _map(drawing, left, moves / reach, moves, ranks_per_node)
    drawing.text(16, _TOP + _SIDE / 2, "from rank", anchor="middle", colour=SOFT, turned=True)
    labels = [(0.0, "0"), (0.5, f"{reach / 2:.2g}"), (1.0, f"{reach:.2g}")]
    draw_scale(drawing, FULL_WIDTH - 52, _TOP + 16, 160, AMOUNTS, labels, "moves")
    return drawing.markup()


def _sent(evaluation: Evaluation) -> NDArray[np.float64]:
    moves = evaluation.moves.sum(axis=(0, 1)) / evaluation.num_tokens
    return moves * (1 - np.eye(len(moves)))


def _map(
    drawing: Drawing, left: float, shares: NDArray[np.float64], moves: NDArray[np.float64], ranks_per_node: int
) -> None:
    ranks = len(shares)
    cell = _SIDE / ranks
    drawing.image(left, _TOP, _SIDE, _SIDE, png(shares, AMOUNTS))
    for rank in range(ranks):
        drawing.rect(left + rank * cell, _TOP + rank * cell, cell, cell, RULE)
    if ranks <= _MOST_NUMBERED:
        for (start, end), share in np.ndenumerate(shares):
            if start != end:
                colour = PAPER if is_dark(AMOUNTS, float(share)) else INK
                x, y = left + (end + 0.5) * cell, _TOP + (start + 0.5) * cell + 4.5
                drawing.text(x, y, f"{moves[start, end]:.2g}", anchor="middle", size=12, colour=colour)
    for first in range(0, ranks, ranks_per_node) if ranks_per_node < ranks else ():
        corner, size = first * cell, ranks_per_node * cell
        drawing.rect(left + corner, _TOP + corner, size, size, "none", stroke=ALARM)
    drawing.rect(left, _TOP, _SIDE, _SIDE, "none", stroke=SOFT)
    step = -(-ranks // 16)
    for rank in range(0, ranks, step):
        middle = (rank + 0.5) * cell
        drawing.text(left + middle, _TOP + _SIDE + 16, str(rank), anchor="middle", size=11, colour=SOFT)
        drawing.text(left - 5, _TOP + middle + 4, str(rank), anchor="end", size=11, colour=SOFT)
    drawing.text(left + _SIDE / 2, _TOP + _SIDE + 36, "to rank", anchor="middle", colour=SOFT)
