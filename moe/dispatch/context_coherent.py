"""Context-coherent dispatch: a token moves to the rank of its best expert and stays there.

Home-return dispatch sends every token to its experts and back, twice a layer. Here the row that travels is the residual
stream itself, with its gate values and the token's number, so that nothing has to come back: the rank of the top expert
(the anchor) carries on with the token. With k > 1 experts, one copy goes to each other rank that holds any of them,
and the outputs of its experts travel to the anchor.

Collectives, all in the expert-parallel group of N ranks, in this order. s: bytes of an element of the rows; D: width;
K: largest number of experts of a token; g: bytes of a gate value (4, or 8 with float64 rows); i: bytes of an integer in
a row (4, or 8 with float64 rows); E: experts; W: 2 x key-value heads x width of a head; B x T: tokens of a home rank.
One rank alone (N = 1) sends nothing.

MoE layer, forward:
    all_gather   int64    8 (2N + E) a rank: for each rank the rows that leave for it, for each rank the tokens that
                          will stay there, for each logical expert the choices that fell on it
    all_to_all   rows     D s + K g + (1 + K) i a row: the residual stream, gate values, token number and slots.
                          Splits: tokens whose anchor is there, plus copies for tokens that visit another expert there
    all_to_all   rows     D s a copy, from the rank of the copy to the anchor; only if K > 1
MoE layer, backward:
    all_to_all   rows     D s a copy, from the anchor to the rank of the copy; only if K > 1
    all_to_all   rows     D s + K g a row: the way back of the forward rows
Attention, forward (block 0 finds the tokens at home and sends nothing in training):
    all_gather   rows     (W s + i) M a rank, M: rows on the fullest rank: keys, values and the token's number
Attention, backward:
    reduce_scatter rows   W s N M in, W s M out
Ends of a micro batch:
    all_gather   int64    8 a rank before block 0, only with dropout while training: a seed
    all_gather   uint8    B T a rank after the last block: the targets (int32, 4 B T, of more than 256 tokens)
    reduce_scatter float32  4 N B T in, 4 B T out: the loss of each token goes home
    all_gather   float32  4 B T a rank, first of the backward pass: the gradient of it
    or, for logits instead of losses,
    all_gather   int64    8 N a rank: for each rank the rows that leave for it
    all_to_all   rows     D s + i a row; backward D s

Steps of generation do not exchange sizes. While autograd is off and no rank would send more than :data:`FIXED_BYTES` to
the others, a rank sends the rows of all its tokens to every rank. The receiver keeps the rows that concern it, and
learns from the slots in the other rows where all tokens are. A MoE layer with one expert a token is then one
collective:
    all_to_all   rows     (D s + K g + (1 + K) i) m from a rank with m tokens to each rank
Keys and values of a step are gathered once for all layers (:mod:`trainer.sampling.text`).

Shape suffixes: T tokens of this rank, R rows that arrive, C rows that leave, P (row, expert) pairs on this rank,
D width, K choices of a token, E experts, N ranks of the group, W width of a message row.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from moe.dispatch.exchange import ExchangeRows, MoveRows, Route, exchange_rows, gather_counts, packed, unpacked
from moe.dispatch.residency import Residency
from moe.dispatch.row_copies import RowCopies, counts_of, places_of

FIXED_BYTES = 16_384
"""Most bytes that a rank sends to the others without an exchange of sizes. On a link of 1 Gbit/s they take about as
long as the collective that exchanges sizes."""


@dataclass(frozen=True, eq=False)
class Arrivals:
    """The rows on a rank while its experts work.

    Attributes:
        rows: the residual stream of every row that arrived, [R, D].
        gates: gate values, [R, K].
        slots: physical slots of the choices, the anchor's first, [R, K]; where there is none, -1 - the rank on which
            the token stays.
        anchors: rank on which the token of a row stays, [R].
        residents: the rows of tokens that stay on this rank, in the order of their numbers, [T].
        residency: where the tokens are now.
        expert_choices: choices that fell on each logical expert, over all ranks, int64 [E]; None if not counted.
        num_pairs: choices that fell on experts of this rank; None if not counted.
    """

    rows: Tensor
    gates: Tensor
    slots: Tensor
    anchors: Tensor
    residents: Tensor
    residency: Residency
    expert_choices: Tensor | None
    num_pairs: int | None


class CoherentDispatcher:
    """Moves tokens to the ranks of their experts, where they stay.

    It is not a Megatron-Core dispatcher: those return every token to its rank.

    Source: Yao et al., "Exploiting Inter-Layer Expert Affinity for Accelerating Mixture-of-Experts Model Inference",
    2024 (context-coherent expert parallelism); copies to secondary experts and training are this project's.
    """

    def __init__(self, group: dist.ProcessGroup, slot_to_expert: np.ndarray) -> None:
        """Sets up the dispatcher of one layer; `slot_to_expert` is the logical expert of each slot, int [E]."""
        self.group = group
        self.rank = dist.get_rank(group)
        self.slots_per_rank = len(slot_to_expert) // group.size()
        self.place(slot_to_expert)

    def place(self, slot_to_expert: np.ndarray) -> None:
        """Declares that the slots hold other experts from now on."""
        self._slot_of_E = torch.as_tensor(slot_to_expert, dtype=torch.long).argsort()
        self._experts_here = slot_to_expert.reshape(self.group.size(), -1)[self.rank].tolist()

    def move(
        self, rows_TD: Tensor, probs_TE: Tensor, map_TE: Tensor, most_choices: int, residency: Residency
    ) -> Arrivals:
        """Sends each token to its anchor, and copies to the ranks of its other experts; without one it stays.

        Args:
            rows_TD: the residual stream.
            probs_TE: gate values by logical expert; the largest is the anchor's.
            map_TE: bool, the choices.
            most_choices: K.
            residency: where the tokens are.
        """
        gates_TK, slots_TK = self._choices(probs_TE, map_TE, most_choices)
        labels_TL = torch.cat([residency.ids[:, None], slots_TK], dim=1)
        choices_E: Tensor | None = None
        num_pairs: int | None = None
        if self.group.size() == 1:
            arrived, rows_N = (rows_TD, gates_TK, labels_TL), residency.rows
            choices_E = map_TE.sum(dim=0)
        elif not torch.is_grad_enabled() and self._fits(rows_TD, most_choices, residency):
            arrived, rows_N = self._move_to_all(rows_TD, gates_TK, labels_TL, residency)
        else:
            ranks_TK = self._ranks(slots_TK)
            visits_TN = self._visits(ranks_TK)
            copies_N = visits_TN.sum(dim=0)
            residents_N = self._visits(ranks_TK[:, :1]).sum(dim=0)
            counts = gather_counts(torch.cat([copies_N, residents_N, map_TE.sum(dim=0)]), self.group)
            choices_E = counts[:, 2 * self.group.size() :].sum(dim=0)
            copies, residents, choices = np.split(
                counts.cpu().numpy(), [self.group.size(), 2 * self.group.size()], axis=1
            )
            rows_N, num_pairs = residents.sum(axis=0).tolist(), int(choices[:, self._experts_here].sum())
            route = Route(self.group, copies[self.rank].tolist(), copies[:, self.rank].tolist())
            order_C = places_of(visits_TN.T.reshape(-1), sum(route.sent)) % max(len(rows_TD), 1)
            arrived = MoveRows.apply(rows_TD, gates_TK, labels_TL, order_C, route)
        rows_RD, gates_RK, labels_RL = arrived
        ids_R, slots_RK = labels_RL[:, 0], labels_RL[:, 1:]
        anchors_R = self._ranks(slots_RK[:, 0])
        if most_choices == 1:  # no row is a copy that goes on
            ids_T, residents = ids_R.sort()
        else:
            stays = places_of(anchors_R == self.rank, rows_N[self.rank])
            ids_T, order_T = ids_R[stays].sort()
            residents = stays[order_T]
        return Arrivals(
            rows=rows_RD,
            gates=gates_RK,
            slots=slots_RK,
            anchors=anchors_R,
            residents=residents,
            residency=residency.moved(ids_T, rows_N),
            expert_choices=choices_E,
            num_pairs=num_pairs,
        )

    def pairs(self, arrivals: Arrivals) -> tuple[Tensor, Tensor, Tensor]:
        """The (row, expert) pairs that the experts of this rank have to compute.

        Returns, in order of the expert's slot, the row int64 [P] and the gate value [P] of each pair, and the number of
        pairs of each slot, int64 [slots of this rank].
        """
        local_RK = arrivals.slots - self.rank * self.slots_per_rank
        here = ((local_RK >= 0) & (local_RK < self.slots_per_rank)).view(-1)
        place_P = here.nonzero()[:, 0] if arrivals.num_pairs is None else places_of(here, arrivals.num_pairs)
        local_P, order_P = local_RK.view(-1).index_select(0, place_P).sort(stable=True)
        place_P = place_P.index_select(0, order_P)
        gates_P = arrivals.gates.reshape(-1).index_select(0, place_P)
        return place_P // local_RK.shape[1], gates_P, counts_of(local_P, self.slots_per_rank)

    def combine(self, fed_RD: Tensor, arrivals: Arrivals) -> Tensor:
        """Adds up the outputs of all experts of each token where it stays, [T, D] in the order of the new residency.

        `fed_RD` is the sum over the experts of this rank for each row.
        """
        if arrivals.slots.shape[1] == 1 or self.group.size() == 1:
            return fed_RD[arrivals.residents]
        # Rows of one source arrive in the order in which the source holds them, so both ends can match them.
        abroad_R = arrivals.anchors != self.rank
        abroad_C = places_of(abroad_R, len(fed_RD) - len(arrivals.residents))
        anchors_C, order_C = arrivals.anchors.index_select(0, abroad_C).sort(stable=True)
        visits_RN = self._visits(self._ranks(arrivals.slots)) & ~abroad_R[:, None]
        visits_RN[:, self.rank] = False
        sizes = torch.stack([counts_of(anchors_C, self.group.size()), visits_RN.sum(dim=0)])
        sent, received = sizes.cpu().tolist()
        leaving_CD = fed_RD.index_select(0, abroad_C.index_select(0, order_C))
        returned = ExchangeRows.apply(leaving_CD, self.group, received, sent)
        own_R = torch.arange(len(fed_RD), device=fed_RD.device)
        targets = places_of(visits_RN.T.reshape(-1), sum(received)) % max(len(fed_RD), 1)
        sums = RowCopies.of(torch.cat([own_R, targets]), len(fed_RD))
        return sums.add(torch.cat([fed_RD, returned]))[arrivals.residents]

    def _choices(self, probs_TE: Tensor, map_TE: Tensor, most_choices: int) -> tuple[Tensor, Tensor]:
        """Gate values and slots, largest gate value first."""
        self._slot_of_E = self._slot_of_E.to(probs_TE.device)
        experts_TK = probs_TE.detach().masked_fill(~map_TE, -1.0).topk(most_choices, dim=1).indices
        slots_TK, chosen_TK = self._slot_of_E[experts_TK], map_TE.gather(1, experts_TK)
        stay_T = torch.where(chosen_TK[:, 0], slots_TK[:, 0] // self.slots_per_rank, self.rank)
        return probs_TE.gather(1, experts_TK), torch.where(chosen_TK, slots_TK, -1 - stay_T[:, None])

    def _ranks(self, slots: Tensor) -> Tensor:
        """Ranks of slots; for an entry without a choice the rank on which the token stays."""
        return torch.where(slots < 0, -1 - slots, slots // self.slots_per_rank)

    def _visits(self, ranks: Tensor) -> Tensor:
        """Whether each rank is among the ranks of a row's choices [rows, K], bool [rows, N]."""
        visits = torch.zeros(len(ranks), self.group.size(), dtype=torch.bool, device=ranks.device)
        return visits.scatter_(1, ranks, True)

    def _fits(self, rows_TD: Tensor, most_choices: int, residency: Residency) -> bool:
        label_bytes = 8 if rows_TD.element_size() == 8 else 4
        row_bytes = rows_TD.shape[1] * rows_TD.element_size() + (1 + 2 * most_choices) * label_bytes
        return (self.group.size() - 1) * max(residency.rows) * row_bytes <= FIXED_BYTES

    def _move_to_all(
        self, rows_TD: Tensor, gates_TK: Tensor, labels_TL: Tensor, residency: Residency
    ) -> tuple[tuple[Tensor, Tensor, Tensor], list[int]]:
        """Sends every row to every rank, in messages whose sizes both ends know.

        Returns the rows that concern this rank with their gate values and labels, in order of their source, and the
        tokens on each rank.
        """
        size, own = self.group.size(), len(rows_TD)
        message = packed(rows_TD, gates_TK, labels_TL).repeat(size, 1)
        message = exchange_rows(message, self.group, list(residency.rows), [own] * size)
        everything = unpacked(message, rows_TD.shape[1], gates_TK.shape[1], gates_TK.dtype, labels_TL.shape[1])
        ranks_AK = self._ranks(everything[2][:, 1:])
        here = (ranks_AK == self.rank).any(dim=1).nonzero()[:, 0]
        rows, gates, labels = (part.index_select(0, here) for part in everything)
        return (rows, gates, labels), self._visits(ranks_AK[:, :1]).sum(dim=0).tolist()
