"""De-duplicated home-return dispatch: one copy of a token for each rank that holds any of its experts.

Shape suffixes: T tokens of this rank, C copies that leave, P choices that leave, R copies that arrive, Q choices that
arrive, D model width, E experts, S slots of a rank, N ranks of the expert-parallel group.
"""

from collections.abc import Sequence

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.dispatch.exchange import ExchangeLabelledRows, ExchangeRows, exchange_counts
from moe.dispatch.row_copies import RowCopies
from moe.dispatch.serving import Serving


class DeduplicatedDispatcher(MoETokenDispatcher):
    """A token travels once to each rank that holds any of its experts, and one row comes home from there.

    The row is followed, in the same message, by the slot and the gate value of each of the token's choices on that
    rank, bit-exact and as many as there are. The receiver gives each expert its rows and adds up the outputs of the
    experts of one copy (Megatron's experts apply the gate), so that the way home carries one row a copy too. The
    gradient takes both ways in reverse. A token may have any number of choices, including none.

    Collectives of a layer and micro batch: see :mod:`moe.dispatch.messages`.

    Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.2.2.
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

    def dispatch_preprocess(
        self, hidden_states: Tensor, routing_map: Tensor, probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Copies the tokens in order of their destination and agrees on the sizes of the messages.

        Args:
            hidden_states: tokens [sequence, batch, D].
            routing_map: bool [T, E], logical experts.
            probs: gate values [T, E], logical experts.

        Returns:
            Copies [C, D] by rank and token, and gate values [P] by rank, token and slot.
        """
        self.hidden_shape = hidden_states.shape
        tokens_TD = hidden_states.reshape(-1, self.hidden_shape[-1])
        served_TP = self.serving.own(routing_map)
        choices_NTS = served_TP.view(len(tokens_TD), self.ep_size, self.num_local_experts).transpose(0, 1)
        rank_P, token_P, slot_P = choices_NTS.nonzero(as_tuple=True)
        visit_P = rank_P * len(tokens_TD) + token_P
        is_first_P = visit_P.diff(prepend=visit_P.new_tensor([-1])) != 0

        counts_2N = torch.stack([torch.bincount(of_P, minlength=self.ep_size) for of_P in (rank_P[is_first_P], rank_P)])
        self._sent, self._received = exchange_counts(counts_2N, self.ep_group)
        self._labels_P = 2 * slot_P + is_first_P
        self._departure = RowCopies.of(token_P[is_first_P], len(tokens_TD))
        expert_P = self.serving.columns(probs.device)[rank_P * self.num_local_experts + slot_P]
        gates_P = probs.reshape(-1).index_select(0, token_P * probs.shape[1] + expert_P)
        return self._departure.spread(tokens_TD), gates_P

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Sends copies, slots and gate values to the ranks of the experts.

        Args:
            hidden_states: [C, D].
            probs: gate values [P].

        Returns:
            Copies [R, D] and gate values [Q], in order of their source.
        """
        rows_RD, gates_Q, self._labels_Q = ExchangeLabelledRows.apply(
            hidden_states, probs, self._labels_P, self.ep_group, self._received, self._sent
        )
        return rows_RD, gates_Q

    def dispatch_postprocess(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gives each expert its rows.

        Args:
            hidden_states: copies that arrived, [R, D].
            probs: gate values [Q].

        Returns:
            Rows [Q, D] by slot, rows of each slot int64 [S] on the host, gate values [Q] by slot.
        """
        slot_Q, row_Q = self._labels_Q >> 1, (self._labels_Q & 1).cumsum(0) - 1
        order_Q = slot_Q.argsort(stable=True)
        self._arrival = RowCopies.of(row_Q[order_Q], len(hidden_states))
        tokens_per_slot_S = torch.bincount(slot_Q, minlength=self.num_local_experts).cpu()
        return self._arrival.spread(hidden_states), tokens_per_slot_S, probs.index_select(0, order_Q)

    def combine_preprocess(self, hidden_states: Tensor) -> Tensor:
        """Adds up the outputs of this rank's experts for each copy.

        Args:
            hidden_states: gated outputs of the experts, [Q, D].

        Returns:
            One row a copy, [R, D].
        """
        return self._arrival.add(hidden_states)

    def token_combine(self, hidden_states: Tensor) -> Tensor:
        """Sends one row for each copy home.

        Args:
            hidden_states: [R, D].

        Returns:
            Rows [C, D] in the order in which the copies left.
        """
        return ExchangeRows.apply(hidden_states, self.ep_group, self._sent.rows, self._received.rows)

    def combine_postprocess(self, hidden_states: Tensor) -> Tensor:
        """Adds up the rows that came back for each token.

        Args:
            hidden_states: [C, D].

        Returns:
            Outputs [sequence, batch, D]; zero for a token without a choice.
        """
        return self._departure.add(hidden_states).view(self.hidden_shape)
