"""Home-return dispatch: tokens travel to their experts and back to their own rank, in three modes.

Shape suffixes: T tokens of this rank, C copies that leave, P choices that leave, R copies that arrive, Q choices that
arrive, V copies and Q choices that arrive at a relay, W copies that leave it for the ranks of its node, D model width,
E experts, S slots of a rank, N ranks of the expert-parallel group, M its nodes, K ranks of a node.

Sizes of all collectives: :mod:`moe.dispatch.messages`.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.dispatch.exchange import (
    ExchangeLabelledRows,
    ExchangeRows,
    ExchangeWeightedRows,
    Splits,
    exchange_counts,
    exchange_table,
)
from moe.dispatch.node_groups import node_groups
from moe.dispatch.row_copies import RowCopies, RowOrder, counts_of, places_of
from moe.dispatch.serving import Serving


class Dispatcher(MoETokenDispatcher):
    """A Megatron-Core dispatcher on any device: six calls between router and experts, in this order.

    ``dispatch_preprocess(tokens [sequence, batch, D], routing map bool [T, E], gate values [T, E])`` copies the tokens
    in order of their destination and agrees on the sizes of the messages. ``token_dispatch`` sends copies and gate
    values. ``dispatch_postprocess`` gives each expert its rows: rows by slot, rows of each slot int64 [S] on their
    device, gate values by slot. ``combine_preprocess`` takes the gated outputs of the experts by slot,
    ``token_combine`` sends them home, and ``combine_postprocess`` returns the outputs [sequence, batch, D], zero for a
    token without a choice.

    ``serving`` says which logical expert a physical slot of the group (rank * slots per rank + index) holds, and which
    slot serves a choice. Routers, losses and metrics speak of logical experts; only here, on their way out, the columns
    of the routing map become those of slots.
    """

    def __init__(
        self,
        num_local_experts: int,
        local_expert_indices: Sequence[int],  # noqa: ARG002
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        serving: Serving,
    ) -> None:
        """Sets up the dispatcher of one layer.

        Args:
            num_local_experts: slots of this rank, S.
            local_expert_indices: global numbers of those slots; they follow from the rank.
            config: Megatron's configuration of the layer.
            pg_collection: process groups (ep, expt_tp, tp_ep are used).
            serving: chooses the slot of every choice.
        """
        super().__init__(config=config, pg_collection=pg_collection)
        assert self.tp_size == 1, "experts are not cut into pieces"
        self.num_local_experts = num_local_experts
        self.serving = serving

    def combine_postprocess(self, hidden_states: Tensor) -> Tensor:
        """Adds up the rows [C, D] that came back for each token."""
        return self._departure.add(hidden_states).view(self.hidden_shape)

    def _depart(self, hidden_states: Tensor, place_C: Tensor) -> Tensor:
        """Copies [C, D] of the tokens; a copy is known by its place among all destinations' tokens."""
        self.hidden_shape = hidden_states.shape
        tokens_TD = hidden_states.reshape(-1, self.hidden_shape[-1])
        self._departure = RowCopies.of(place_C % max(len(tokens_TD), 1), len(tokens_TD))
        return self._departure.spread(tokens_TD)


class HomeReturnDispatcher(Dispatcher):
    """A token travels once to each of its experts, and a row comes home from each.

    Gate values travel bit-exact in the last columns of the token message, which saves one all-to-all in each direction
    and pass. The rows of a token come home and are added up in the order of their slots.

    Collectives of a layer and micro batch: one all-gather of the counts, two all-to-alls forward, two backward. The
    host waits once, for the counts.
    """

    def dispatch_preprocess(
        self, hidden_states: Tensor, routing_map: Tensor, probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Returns copies [C, D] by slot and token and their gate values [C]."""
        map_TP, counts = self.serving.agreed(routing_map)
        own = self.ep_group.rank()
        self._sent = counts.on_host[own].view(self.ep_size, -1).sum(dim=1).tolist()
        arriving = slice(own * self.num_local_experts, (own + 1) * self.num_local_experts)
        self._received = counts.on_host[:, arriving].sum(dim=1).tolist()
        self._counts_NS = counts.on_device[:, arriving]

        choice_C = places_of(map_TP.T.reshape(-1), sum(self._sent))
        gates_PT = probs.T.index_select(0, self.serving.columns(probs.device))
        return self._depart(hidden_states, choice_C), gates_PT.view(-1).index_select(0, choice_C)

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Sends rows and gate values; returns rows [R, D] and gate values [R] in order of their source."""
        return ExchangeWeightedRows.apply(hidden_states, probs, self.ep_group, self._received, self._sent)

    def dispatch_postprocess(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Puts rows and gate values in order of slot, then source."""
        tokens_per_slot_S = self._counts_NS.sum(dim=0)
        if 1 in (self.ep_size, self.num_local_experts):  # they are in order of their slots already
            self._arrival = None
            return hidden_states.contiguous(), tokens_per_slot_S, probs
        self._arrival = RowOrder.by_column(self._counts_NS, len(hidden_states))
        return self._arrival.of(hidden_states), tokens_per_slot_S, self._arrival.of(probs)

    def combine_preprocess(self, hidden_states: Tensor) -> Tensor:
        """Puts the outputs [R, D] in order of the source of their rows."""
        return hidden_states if self._arrival is None else self._arrival.inverse.of(hidden_states)

    def token_combine(self, hidden_states: Tensor) -> Tensor:
        """Sends the outputs home: rows [C, D] in the order in which they left."""
        return ExchangeRows.apply(hidden_states, self.ep_group, self._sent, self._received)


class DeduplicatedDispatcher(Dispatcher):
    """A token travels once to each rank that holds any of its experts, and one row comes home from there.

    The row is followed, in the same message, by the slot and the gate value of each of the token's choices on that
    rank, bit-exact and as many as there are. The receiver gives each expert its rows and adds up the outputs of the
    experts of one copy (Megatron's experts apply the gate), so that the way home carries one row a copy too. The
    gradient takes both ways in reverse. A token may have any number of choices, including none.

    The host waits once a layer, for the sizes of the messages; where experts have replicas, once more for the choices
    of each expert.

    Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.2.2.
    """

    def dispatch_preprocess(
        self, hidden_states: Tensor, routing_map: Tensor, probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Returns copies [C, D] by rank and token, and gate values [P] by rank, token and slot."""
        choices_NTS = by_part(self.serving.own(routing_map), self.ep_size)
        visits_NT = choices_NTS.any(dim=2)
        counts_2N = torch.stack([visits_NT.sum(dim=1), choices_NTS.sum(dim=(1, 2))])
        self._sent, self._received = exchange_counts(counts_2N, self.ep_group)

        choice_P = places_of(choices_NTS.reshape(-1), sum(self._sent.labels))
        is_first_P = differs(choice_P // self.num_local_experts)
        self._labels_P = 2 * (choice_P % self.num_local_experts) + is_first_P
        visit_C = places_of(visits_NT.reshape(-1), sum(self._sent.rows))
        return self._depart(hidden_states, visit_C), self._gates(probs, choice_P, self.ep_size)

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Sends copies, slots and gate values; returns copies [R, D] and gate values [Q] in order of their source."""
        rows_RD, gates_Q, self._labels_Q = ExchangeLabelledRows.apply(
            hidden_states, probs, self._labels_P, self.ep_group, self._received, self._sent
        )
        return rows_RD, gates_Q

    def dispatch_postprocess(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Copies a row to each of its slots: rows [Q, D]."""
        row_Q = (self._labels_Q & 1).cumsum(0) - 1
        slot_Q, order_Q = (self._labels_Q >> 1).sort(stable=True)
        self._arrival = RowCopies.of(row_Q.index_select(0, order_Q), len(hidden_states))
        tokens_per_slot_S = counts_of(slot_Q, self.num_local_experts)
        return self._arrival.spread(hidden_states), tokens_per_slot_S, probs.index_select(0, order_Q)

    def combine_preprocess(self, hidden_states: Tensor) -> Tensor:
        """Adds up the outputs [Q, D] of this rank's experts for each copy, [R, D]."""
        return self._arrival.add(hidden_states)

    def token_combine(self, hidden_states: Tensor) -> Tensor:
        """Sends one row for each copy home: [C, D] in the order in which the copies left."""
        return ExchangeRows.apply(hidden_states, self.ep_group, self._sent.rows, self._received.rows)

    def _gates(self, probs: Tensor, choice_P: Tensor, parts: int) -> Tensor:
        """Gate values of choices by part of the group, token and slot of the part."""
        probs_TP = probs.T.index_select(0, self.serving.columns(probs.device)).T
        return by_part(probs_TP, parts).reshape(-1).index_select(0, choice_P)


def by_part(of_slots_TP: Tensor, parts: int) -> Tensor:
    """Parts of the group, such as its ranks, before tokens: [parts, T, slots of a part]."""
    return of_slots_TP.unflatten(1, (parts, -1)).transpose(0, 1)


def differs(keys: Tensor) -> Tensor:
    """Whether each key, at least 0, differs from the one before it."""
    return keys.diff(prepend=keys.new_full([1], -1)) != 0


class HierarchicalDispatcher(DeduplicatedDispatcher):
    """A token travels once to each node that holds any of its experts, and there once to each rank that does.

    Rank k of a node sends over its rail, the ranks k of all nodes, and so is the relay of what rank k of another node
    sends here. A row is followed by the node's slot and the gate value of each of the token's choices on that node.
    The relay sends one row for each rank of its node that holds any of them, with the choices of that rank. On the way
    home each rank adds up the outputs of its experts, the relay those of its ranks, and one row crosses back. Tokens
    whose experts are on their own node take the same way; the first leg is then a copy in the memory of their rank.
    The gradient takes all ways in reverse.

    Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.2.2.
    """

    def __init__(
        self,
        num_local_experts: int,
        local_expert_indices: Sequence[int],
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        serving: Serving,
    ) -> None:
        """Takes the groups of :func:`divide_nodes`: rank n * K + k of the expert-parallel group is rank k of node n."""
        super().__init__(num_local_experts, local_expert_indices, config, pg_collection, serving)
        nodes = node_groups()
        assert nodes is not None, "the nodes of the group are divided"
        self._rail, self._node = nodes.rail, nodes.node
        self._num_nodes, self._node_size = nodes.rail.size(), nodes.node.size()
        assert self._num_nodes * self._node_size == self.ep_size, "all nodes of the group have as many ranks"

    def dispatch_preprocess(
        self, hidden_states: Tensor, routing_map: Tensor, probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Returns copies [C, D] by node and token, and gate values [P] by node, token and slot."""
        node_slots = self._node_size * self.num_local_experts
        served_TP = self.serving.own(routing_map)
        choices_MTS = by_part(served_TP, self._num_nodes)
        visits_MT = choices_MTS.any(dim=2)
        of_ranks_NTS = by_part(served_TP, self.ep_size)
        of_ranks = of_ranks_NTS.any(dim=2).sum(dim=1), of_ranks_NTS.sum(dim=(1, 2))
        self._agree(visits_MT.sum(dim=1), *(counts_N.view(self._num_nodes, -1) for counts_N in of_ranks))

        choice_P = places_of(choices_MTS.reshape(-1), sum(self._rail_sent.labels))
        self._labels_P = 2 * (choice_P % node_slots) + differs(choice_P // node_slots)
        visit_C = places_of(visits_MT.reshape(-1), sum(self._rail_sent.rows))
        return self._depart(hidden_states, visit_C), self._gates(probs, choice_P, self._num_nodes)

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Sends copies, slots and gate values to the nodes, and from the relays to their ranks."""
        rows_VD, gates_Q, labels_Q = ExchangeLabelledRows.apply(
            hidden_states, probs, self._labels_P, self._rail, self._rail_received, self._rail_sent
        )
        slot_Q, row_Q = labels_Q >> 1, (labels_Q & 1).cumsum(0) - 1
        order_Q = (slot_Q // self.num_local_experts).argsort(stable=True)
        slot_Q, row_Q = slot_Q[order_Q], row_Q[order_Q]
        is_first_Q = differs(slot_Q // self.num_local_experts * len(rows_VD) + row_Q)
        first_W = places_of(is_first_Q, sum(self._node_sent.rows))
        self._relay = RowCopies.of(row_Q.index_select(0, first_W), len(rows_VD))
        rows_RD, gates, self._labels_Q = ExchangeLabelledRows.apply(
            self._relay.spread(rows_VD),
            gates_Q.index_select(0, order_Q),
            2 * (slot_Q % self.num_local_experts) + is_first_Q,
            self._node,
            self._node_received,
            self._node_sent,
        )
        return rows_RD, gates

    def token_combine(self, hidden_states: Tensor) -> Tensor:
        """Sends one row for each copy to its relay, which adds up those of one token, and from there home."""
        rows_WD = ExchangeRows.apply(hidden_states, self._node, self._node_sent.rows, self._node_received.rows)
        rows_VD = self._relay.add(rows_WD)
        return ExchangeRows.apply(rows_VD, self._rail, self._rail_sent.rows, self._rail_received.rows)

    def _agree(self, rows_M: Tensor, rows_MK: Tensor, choices_MK: Tensor) -> None:
        """Sends every rank of a node the tokens and choices of both legs, so that it knows all its messages."""
        sent_MX = torch.cat([rows_M[:, None], rows_MK, choices_MK], dim=1)
        table = exchange_table(sent_MX.repeat_interleave(self._node_size, dim=0), self.ep_group)
        sent, arriving = table.view(2, self._num_nodes, self._node_size, -1).unbind()
        rows, choices = slice(1, 1 + self._node_size), slice(1 + self._node_size, None)
        own = dist.get_rank(self._node)
        relayed = arriving[:, own]
        self._rail_sent = _splits(sent[:, 0, 0], sent[:, 0, choices].sum(dim=1))
        self._rail_received = _splits(relayed[:, 0], relayed[:, choices].sum(dim=1))
        self._node_sent = _splits(relayed[:, rows].sum(dim=0), relayed[:, choices].sum(dim=0))
        to_own = arriving.sum(dim=0)
        self._node_received = _splits(to_own[:, 1 + own], to_own[:, 1 + self._node_size + own])


def _splits(rows: Tensor, labels: Tensor) -> Splits:
    return Splits(rows.tolist(), labels.tolist())
