"""De-duplicated home-return dispatch: one copy of a token for each rank that holds any of its experts.

Shape suffixes: T tokens of this rank, C copies that leave, P choices that leave, R copies that arrive, Q choices that
arrive, D model width, E experts, S slots of a rank, N ranks of the expert-parallel group.

The host waits once a layer, for the sizes of the messages; where experts have replicas, once more for the choices of
each expert.
"""

from collections.abc import Sequence

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.dispatch.exchange import ExchangeLabelledRows, ExchangeRows, exchange_counts
from moe.dispatch.row_copies import RowCopies, counts_of, places_of
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
        choices_NTS = by_part(self.serving.own(routing_map), self.ep_size)
        visits_NT = choices_NTS.any(dim=2)
        counts_2N = torch.stack([visits_NT.sum(dim=1), choices_NTS.sum(dim=(1, 2))])
        self._sent, self._received = exchange_counts(counts_2N, self.ep_group)

        choice_P = places_of(choices_NTS.reshape(-1), sum(self._sent.labels))
        is_first_P = differs(choice_P // self.num_local_experts)
        self._labels_P = 2 * (choice_P % self.num_local_experts) + is_first_P
        visit_C = places_of(visits_NT.reshape(-1), sum(self._sent.rows))
        self._departure = RowCopies.of(visit_C % max(len(tokens_TD), 1), len(tokens_TD))
        return self._departure.spread(tokens_TD), self._gates(probs, choice_P, self.ep_size)

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
            Rows [Q, D] by slot, rows of each slot int64 [S] on their device, gate values [Q] by slot.
        """
        row_Q = (self._labels_Q & 1).cumsum(0) - 1
        slot_Q, order_Q = (self._labels_Q >> 1).sort(stable=True)
        self._arrival = RowCopies.of(row_Q.index_select(0, order_Q), len(hidden_states))
        tokens_per_slot_S = counts_of(slot_Q, self.num_local_experts)
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
