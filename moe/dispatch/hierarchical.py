"""Two-level home-return dispatch: a token crosses to a node once, and a relay passes it on to the ranks there.

Shape suffixes: T tokens of this rank, C copies that leave for nodes, P choices that leave, V copies that arrive at the
relay, Q choices that arrive there, W copies that leave the relay for the ranks of its node, D model width, E experts,
N ranks of the expert-parallel group, M its nodes, K ranks of a node.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.dispatch.deduplicated import DeduplicatedDispatcher, by_part, differs
from moe.dispatch.exchange import ExchangeLabelledRows, ExchangeRows, Splits, exchange_table
from moe.dispatch.node_groups import NodeGroups
from moe.dispatch.row_copies import RowCopies, places_of
from moe.dispatch.serving import Serving


class HierarchicalDispatcher(DeduplicatedDispatcher):
    """A token travels once to each node that holds any of its experts, and there once to each rank that does.

    Rank k of a node sends over its rail, the ranks k of all nodes, and so is the relay of what rank k of another node
    sends here. A row is followed by the node's slot and the gate value of each of the token's choices on that node.
    The relay sends one row for each rank of its node that holds any of them, with the choices of that rank. On the way
    home each rank adds up the outputs of its experts, the relay those of its ranks, and one row crosses back. Tokens
    whose experts are on their own node take the same way; the first leg is then a copy in the memory of their rank.
    The gradient takes all ways in reverse.

    Collectives of a layer and micro batch: see :func:`moe.dispatch.messages.hierarchical_exchanges`.

    Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.2.2.
    """

    def __init__(
        self,
        num_local_experts: int,
        local_expert_indices: Sequence[int],
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        serving: Serving,
        nodes: NodeGroups,
    ) -> None:
        """Sets up the dispatcher of one layer.

        Args:
            num_local_experts: slots of this rank, S.
            local_expert_indices: global numbers of those slots; they follow from the rank.
            config: Megatron's configuration of the layer.
            pg_collection: process groups (ep, expt_tp, tp_ep are used).
            serving: the slots of the layer, and which of them serves each choice.
            nodes: process groups of this rank; rank n * K + k of the expert-parallel group is rank k of node n.
        """
        super().__init__(num_local_experts, local_expert_indices, config, pg_collection, serving)
        self._rail, self._node = nodes.rail, nodes.node
        self._num_nodes, self._node_size = nodes.rail.size(), nodes.node.size()
        assert self._num_nodes * self._node_size == self.ep_size, "all nodes of the group have as many ranks"

    def dispatch_preprocess(
        self, hidden_states: Tensor, routing_map: Tensor, probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Copies the tokens in order of their node and agrees on the sizes of all messages.

        Args:
            hidden_states: tokens [sequence, batch, D].
            routing_map: bool [T, E], logical experts.
            probs: gate values [T, E], logical experts.

        Returns:
            Copies [C, D] by node and token, and gate values [P] by node, token and slot.
        """
        self.hidden_shape = hidden_states.shape
        tokens_TD = hidden_states.reshape(-1, self.hidden_shape[-1])
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
        self._departure = RowCopies.of(visit_C % max(len(tokens_TD), 1), len(tokens_TD))
        return self._departure.spread(tokens_TD), self._gates(probs, choice_P, self._num_nodes)

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Sends copies, slots and gate values to the nodes of the experts, and from the relays to their ranks.

        Args:
            hidden_states: [C, D].
            probs: gate values [P].

        Returns:
            Copies and gate values on the ranks of the experts, in order of their relay.
        """
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
        """Sends one row for each copy to its relay, which adds up those of one token, and from there home.

        Args:
            hidden_states: one row for each copy that arrived.

        Returns:
            Rows [C, D] in the order in which the copies left.
        """
        rows_WD = ExchangeRows.apply(hidden_states, self._node, self._node_sent.rows, self._node_received.rows)
        rows_VD = self._relay.add(rows_WD)
        return ExchangeRows.apply(rows_VD, self._rail, self._rail_sent.rows, self._rail_received.rows)

    def _agree(self, rows_M: Tensor, rows_MK: Tensor, choices_MK: Tensor) -> None:
        """Tells every rank of a node all that this rank sends there, so that it knows both legs of the way.

        Args:
            rows_M: tokens with a choice on each node.
            rows_MK: tokens with a choice on each rank of each node.
            choices_MK: choices on each rank of each node.
        """
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
