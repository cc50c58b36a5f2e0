"""The section of the report that shows the experts: what those of one rank have in common, before and after.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.evaluation import Evaluation
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.report.expert_maps import MOST_ROWS, BlockMap, block_maps
from moe.report.page import Block, Figure, Section

_MOST_MAPS = 6


def sharing_section(
    statistics: RoutingStatistics, dispatch: Dispatch, before: Evaluation, placed: Evaluation, name: str, replicas: bool
) -> Section | None:
    """Compose the section.

    Args:
        statistics: Counts of the routing trace.
        dispatch: Dispatch mode; it decides what experts should have in common.
        before: Traffic under the placement in use.
        placed: Traffic under the new placement.
        name: Name of the placement in use.
        replicas: Whether experts are on several ranks.

    Returns:
        Maps of all layers where they are few, else of those where the placement saves most and least; None where
        nothing can be shown.
    """
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
