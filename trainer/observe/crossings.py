"""How many rows of a dispatch cross to another node, counted as the run's dispatch mode sends them.

Shape suffixes: T tokens on this rank, E experts of a layer, N ranks that share them.
"""

import torch
from torch import Tensor

from moe.placement.placement import Mode


def crossing_rows(
    probs_TE: Tensor, map_TE: Tensor, ranks_E: Tensor, nodes_N: Tensor, here: int, mode: Mode
) -> tuple[Tensor, Tensor]:
    """Rows that one rank's tokens send to other nodes in a layer, and those if every expert were alone on another node.

    home: a row a choice; capped: likewise, empty slots left out; copies: a row a rank that holds any of the token's
    experts; hierarchical: a row a node that does; coherent: a row a rank, and the output of each of them but the
    anchor's, sent on to the anchor's rank. The second number, float64 [] as the first, does not depend on the
    placement: one a choice, and in coherent dispatch one more for every choice of a token but its anchor.

    Args:
        probs_TE: gate values; the largest chosen one is the anchor's.
        map_TE: bool, the choices that were kept.
        ranks_E: where each expert is, a place among the ranks that share the experts.
        nodes_N: node of each of those ranks.
        here: place of this rank among them.
    """
    choices = map_TE.sum().double()
    away_N = nodes_N != nodes_N[here]
    if mode in ("home", "capped"):
        return (map_TE & away_N[ranks_E]).sum().double(), choices
    place_E = ranks_E
    if mode == "hierarchical":  # the first rank of a node stands for all of it
        place_E = (nodes_N[:, None] == nodes_N).long().argmax(dim=1)[ranks_E]
    visits_TN = map_TE.new_zeros([len(map_TE), len(nodes_N)], dtype=torch.int64)
    visits_TN = visits_TN.index_add(1, place_E, map_TE.long()) > 0
    sent = (visits_TN & away_N).sum().double()
    if mode != "coherent":
        return sent, choices
    anchor_T = ranks_E[probs_TE.detach().masked_fill(~map_TE, -1.0).argmax(dim=1)]
    returned = (visits_TN & (nodes_N != nodes_N[anchor_T][:, None])).sum().double()
    return sent + returned, 2 * choices - map_TE.any(dim=1).sum().double()
