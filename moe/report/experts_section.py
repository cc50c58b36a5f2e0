"""The sections of the report that show the experts: what those of one rank have in common, before and after, and the
affinity between consecutive layers, which coherent dispatch can use.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.evaluation import Evaluation
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch, Placement
from netsim.foundation.chart import Key, Panel, chart
from netsim.foundation.marks import Frames, HeatMap
from netsim.foundation.page import Block, Figure, Section

MOST_ROWS = 64
"""Most experts of a layer with a row each; more are added up by rank."""
_EXPONENT = 0.6  # brings out the small shares, which are many
_MOST_MAPS = 6
_MOST_NUMBERED = 24
_ABREAST = 2
_NO_TICKS = {0.0: ""}


@dataclass(frozen=True, eq=False)
class BlockMap:
    """Tokens [rows, columns] whose rows and columns belong to ranks."""

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

    def frames(self) -> list[tuple[float, float, float, float]]:
        """Edges of the block of each rank, in cells of the ordered map."""
        rows, columns = np.sort(self.row_ranks), np.sort(self.column_ranks)
        return [
            (*(np.searchsorted(columns, [rank, rank + 1]) - 0.5), *(np.searchsorted(rows, [rank, rank + 1]) - 0.5))
            for rank in np.unique(rows)
        ]

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
    """Draw a pair of heat maps a title, before and after: rows and columns by rank, the blocks of a rank framed.

    `name` is that of the placement in use; `kept` says what the tokens in the frames do.
    """
    shares = [one.ordered_shares() for one in before]
    chance = 1 / shares[0].shape[1]  # below four times that, shades would make much of noise
    reach = max(float(max(np.quantile(share, 0.998) for share in shares)), min(4 * chance, 1.0))

    rows: list[list[Panel]] = []
    for number, title in enumerate(titles):
        pair = []
        for label, block_map in ((name, before[number]), ("placed", after[number])):
            first = label == name and number % _ABREAST == 0
            frames = Frames(block_map.frames(), width=1.4 if len(np.unique(block_map.row_ranks)) <= 8 else 0.7)
            cells = HeatMap((block_map.ordered_shares() / reach).clip(0, 1) ** _EXPONENT)
            panel = Panel(
                (cells, frames), title if label == name else "", f"{label}: {block_map.staying:.0%} {kept}",
                x=f"{column_name}, by rank" if first else "", y=f"{row_name}, by rank" if first else "",
                x_ticks=_NO_TICKS, y_ticks=_NO_TICKS, grid="",
            )  # fmt: skip
            pair.append(panel)
        if number % _ABREAST:
            rows[-1].extend(pair)
        else:
            rows.append(pair)
    key = Key("share", texts={place**_EXPONENT: f"{100 * reach * place:.2g} %" for place in (0.0, 0.25, 1.0)})
    return chart(*rows, size=(11.0, 3.5 * len(rows)), name="blocks", gap=0.06, key=key)


def sharing_section(
    statistics: RoutingStatistics, dispatch: Dispatch, before: Evaluation, placed: Evaluation, name: str, replicas: bool
) -> Section | None:
    """Maps of all layers where they are few, else of those where most and least is saved; None without any."""
    saved = before.cost_by_layer - placed.cost_by_layer
    ranks = before.rank_loads.shape[1]
    title, row, column, kept = "Experts that follow each other share a rank", "expert", "expert", "stays"
    if dispatch == "coherent":
        if statistics.num_layers < 2:
            return None
        layers = np.arange(1, statistics.num_layers)
        row, column = "expert of the layer", "expert of the next layer"
        explained = (
            "Each row: where the tokens of one expert go in the next layer. Orange frames: moves that stay on a rank."
        )
    elif dispatch == "home" or not statistics.coactivation.any():
        if statistics.source_counts is None:
            return None
        layers = np.arange(statistics.num_layers)
        title, column = "Where the tokens of each expert come from", "rank of the token"
        explained = (
            "Each row: from which ranks the tokens of one expert come. Orange frames: tokens that are there already."
        )
    else:
        layers = np.arange(statistics.num_layers)
        title, column, kept = "Experts that are chosen together share a rank", "chosen with it", "together"
        explained = (
            "Each row: with which experts one expert is chosen. Orange frames: pairs on one rank, which share a copy."
        )
    chosen, remarks = _choose(layers, saved)
    pairs = [_maps(statistics, dispatch, layer, before, placed, ranks) for layer in chosen]
    if statistics.num_experts > MOST_ROWS:
        pairs = [(one.by_rank(), other.by_rank()) for one, other in pairs]
        row, column = row.replace("expert", "experts"), column.replace("expert", "experts")
        explained = explained.replace("one expert", "the experts of one rank")
    labels = [_label(dispatch, layer) + remark for layer, remark in zip(chosen, remarks, strict=True)]
    if replicas:
        explained += " A replicated expert is shown on the first of its ranks."
    one, other = zip(*pairs, strict=True)
    picture = block_maps(labels, one, other, row, column, name=name, kept=kept)
    blocks: list[Block] = [Figure(picture, f"{explained} Experts are sorted by the rank that holds them.")]
    return Section(title if saved.sum() > 0 else "What the experts of a rank have in common", blocks)


def _choose(layers: NDArray[np.int64], saved: NDArray[np.float64]) -> tuple[list[int], list[str]]:
    if len(layers) <= _MOST_MAPS:
        return layers.tolist(), [""] * len(layers)
    order = layers[np.argsort(-saved[layers], kind="stable")]
    return [int(order[0]), int(order[-1])], [" saves most", " saves least"]


def _label(dispatch: Dispatch, layer: int) -> str:
    return f"layer {layer - 1} to {layer}" if dispatch == "coherent" else f"layer {layer}"


def _maps(
    statistics: RoutingStatistics,
    dispatch: Dispatch,
    layer: int,
    before: Evaluation,
    placed: Evaluation,
    num_ranks: int,
) -> tuple[BlockMap, BlockMap]:
    maps = []
    for traffic in (before, placed):
        ranks = traffic.expert_ranks
        if dispatch == "coherent":
            maps.append(BlockMap(statistics.transitions[layer - 1], ranks[layer - 1], ranks[layer]))
        elif dispatch == "home" or not statistics.coactivation.any():
            assert statistics.source_counts is not None
            maps.append(BlockMap(statistics.source_counts[layer].T, ranks[layer], np.arange(num_ranks)))
        else:
            maps.append(BlockMap(statistics.coactivation[layer], ranks[layer], ranks[layer]))
    return maps[0], maps[1]


def affinity_section(
    placement: Placement,
    statistics: RoutingStatistics,
    before: Evaluation,
    placed: Evaluation,
    name: str,
    numbers: dict[str, Any],
) -> Section:
    """A strip over the gaps between layers: how well an expert predicts the next one, and what stays on its rank."""
    slots, affinity = placement.slots_per_rank, numbers["affinity"]
    rows = {"mutual information": affinity["mutual_information"], f"top {slots} successors": affinity["top_mass"]}
    explained = (
        f"Mutual information as a share of log E: 0 no affinity, 1 fully determined. The top {slots} successors of "
        "each expert are what one rank could keep if experts did not compete for it. "
        f"Chance to stay is {affinity['chance_to_stay']:.1%}."
    )
    text = "For information: affinity does not change home-return traffic; context-coherent dispatch could use it."
    if placement.dispatch == "coherent":
        stays = [_staying(statistics, traffic) for traffic in (before, placed)]
        rows |= {f"stays, {name}": stays[0], "stays, placed": stays[1]}
        then, now = (float(np.mean(shares)) for shares in stays)
        text = (
            f"{now:.0%} of the first choices are on the rank of the one before; with the {name} placement {then:.0%} "
            "are."
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
    """Draw shares by gap between layers: a row for each quantity, a column for each gap.

    The darkest shade is the largest share; the mean of a row is beside its name.
    """
    shares = np.array(list(rows.values()))
    gaps = shares.shape[1]
    form = "{:.0%}" if gaps <= _MOST_NUMBERED else ""
    cells = HeatMap(shares, high=max(float(shares.max()), 1e-9) / 0.85, form=form)
    names = [f"{name}, mean {row.mean():.0%}" for name, row in zip(rows, shares, strict=True)]
    ticks = {float(gap): f"{first_layer + gap}→{first_layer + gap + 1}" for gap in range(0, gaps, -(-gaps // 14))}
    panel = Panel([cells], x="MoE layer → next MoE layer", x_ticks=ticks, rows=names, grid="")
    return chart([panel], size=(11.0, 0.9 + 0.42 * len(rows)), name="affinity")
