"""Maps of what experts share: rows and columns in the order of their ranks, the blocks of a rank framed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from moe.report.drawing import ALARM, FULL_WIDTH, SOFT, Drawing
from moe.report.heat_map import AMOUNTS, draw_scale, png
from moe.report.plot import percent

MOST_ROWS = 64
"""Experts of a layer that still have a row each; more are added up by rank."""
_EXPONENT = 0.6  # brings out the small shares, which are many
_LEFT, _KEY = 30, 60


@dataclass(frozen=True, eq=False)
class BlockMap:
    """A matrix of tokens whose rows and columns belong to ranks.

    Attributes:
        tokens: Counts, [rows, columns].
        row_ranks: Rank of each row.
        column_ranks: Rank of each column.
    """

    tokens: NDArray[np.int64]
    row_ranks: NDArray[np.int64]
    column_ranks: NDArray[np.int64]

    @property
    def staying(self) -> float:
        """Share of the tokens whose row and column are on one rank."""
        on_rank = self.row_ranks[:, None] == self.column_ranks
        return float((self.tokens * on_rank).sum() / max(self.tokens.sum(), 1))

    def ordered_shares(self) -> NDArray[np.float64]:
        """Rows and columns in order of their ranks; every row as shares of its sum."""
        rows = np.argsort(self.row_ranks, kind="stable")
        columns = np.argsort(self.column_ranks, kind="stable")
        tokens = self.tokens[np.ix_(rows, columns)]
        return tokens / np.maximum(tokens.sum(axis=1, keepdims=True), 1)

    def by_rank(self) -> Self:
        """The same tokens with one row and one column a rank."""
        ranks = np.arange(int(max(self.row_ranks.max(), self.column_ranks.max())) + 1)
        rows, columns = ((of[:, None] == ranks).astype(np.int64) for of in (self.row_ranks, self.column_ranks))
        return type(self)(rows.T @ self.tokens @ columns, ranks, ranks)


def block_maps(
    titles: Sequence[str],
    before: Sequence[BlockMap],
    after: Sequence[BlockMap],
    row_name: str,
    column_name: str,
    *,
    name: str = "contiguous",
    kept: str = "stays",
) -> str:
    """Draw a pair of heat maps for each title: rows and columns in rank order, the blocks of a rank framed.

    Args:
        titles: One title a pair, at least one.
        before: Matrices in the order of the placement in use.
        after: The same matrices in the placed order.
        row_name: Label of the rows.
        column_name: Label of the columns.
        name: Name of the placement in use.
        kept: What the tokens in the frames do.

    Returns:
        SVG markup.
    """
    shares = [[block_map.ordered_shares() for block_map in maps] for maps in (before, after)]
    chance = 1 / shares[0][0].shape[1]  # below four times that, shades would make much of noise
    usual = [np.quantile(share, 0.998) for share in shares[0]]
    reach = max(float(max(usual)), min(4 * chance, 1.0))
    per_row = min(2, len(titles))
    gap = 14
    side = min((FULL_WIDTH - _LEFT - _KEY) / per_row / 2 - gap - 8, 300)
    pair_width, pair_height = 2 * (side + gap) + 16, side + 64
    drawing = Drawing(FULL_WIDTH, -(-len(titles) // per_row) * pair_height + 16)
    for index, title in enumerate(titles):
        left, top = _LEFT + index % per_row * pair_width, index // per_row * pair_height + 48
        drawing.text(left, top - 28, title, bold=True)
        for half, (label, block_map) in enumerate(((name, before[index]), ("placed", after[index]))):
            x = left + half * (side + gap)
            drawing.text(x, top - 8, f"{label}: {block_map.staying:.0%} {kept}", size=12, colour=SOFT)
            drawing.image(x, top, side, side, png((shares[half][index] / reach) ** _EXPONENT, AMOUNTS))
            drawing.rect(x, top, side, side, "none", stroke="#c5ced6")
            _frame_blocks(drawing, x, top, side, block_map)
    drawing.text(16, drawing.height / 2, f"{row_name}, by rank", anchor="middle", colour=SOFT, turned=True)
    drawing.text(_LEFT, drawing.height - 4, f"{column_name}, by rank", colour=SOFT)
    labels = [(place, percent(float(f"{reach * place:.2g}"))) for place in (0.0, 0.5, 1.0)]
    draw_scale(drawing, FULL_WIDTH - 58, 48, min(side, 160), AMOUNTS, labels, "share", lambda s: s**_EXPONENT)
    return drawing.markup()


def _frame_blocks(drawing: Drawing, x: float, y: float, side: float, block_map: BlockMap) -> None:
    rows, columns = np.sort(block_map.row_ranks), np.sort(block_map.column_ranks)
    width = 1.4 if len(np.unique(rows)) <= 8 else 0.7
    pieces = []
    for rank in np.unique(rows):
        top, bottom = y + np.searchsorted(rows, [rank, rank + 1]) * side / len(rows)
        left, right = x + np.searchsorted(columns, [rank, rank + 1]) * side / len(columns)
        pieces += [(left, top, right, top), (right, top, right, bottom)]
        pieces += [(right, bottom, left, bottom), (left, bottom, left, top)]
    drawing.segments(pieces, ALARM, width=width)
