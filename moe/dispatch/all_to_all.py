"""Home-return dispatch: tokens travel to their experts and back to their own rank.

Shape suffixes: T tokens of this rank, C their choices that leave, R rows that arrive here, D model width, E experts,
N ranks of the expert-parallel group, S slots of a rank, P slots of the group.
"""

from collections.abc import Sequence

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.dispatch.exchange import ExchangeRows, ExchangeWeightedRows
from moe.dispatch.row_copies import RowCopies, RowOrder, places_of
from moe.dispatch.serving import Serving


class HomeReturnDispatcher(MoETokenDispatcher):
    """A token travels once to each of its experts, and a row comes home from each.

    ``serving.slots`` says which logical expert a physical slot of the expert-parallel group (rank * slots per rank +
    index) holds. Routers, losses and metrics speak of logical experts; only here, on their way out, the columns of the
    routing map become those of slots. Gate values travel bit-exact in the last columns of the token message, which
    saves one all-to-all in each direction and pass. The rows of a token come home and are added up in the order of
    their slots.

    Collectives of a layer and micro batch: one all-gather of the counts, two all-to-alls forward, two backward. The
    host waits once, for the counts.
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
        """Copies the tokens in order of their slots and agrees on the sizes of the messages.

        Args:
            hidden_states: tokens [sequence, batch, D].
            routing_map: bool [T, E], logical experts.
            probs: gate values [T, E], logical experts.

        Returns:
            Copies [C, D] by slot and token and their gate values [C].
        """
        self.hidden_shape = hidden_states.shape
        tokens_TD = hidden_states.reshape(-1, self.hidden_shape[-1])
        map_TP, counts = self.serving.agreed(routing_map)
        own = self.ep_group.rank()
        self._sent = counts.on_host[own].view(self.ep_size, -1).sum(dim=1).tolist()
        arriving = slice(own * self.num_local_experts, (own + 1) * self.num_local_experts)
        self._received = counts.on_host[:, arriving].sum(dim=1).tolist()
        self._counts_NS = counts.on_device[:, arriving]

        choice_C = places_of(map_TP.T.reshape(-1), sum(self._sent))
        self._departure = RowCopies.of(choice_C % max(len(tokens_TD), 1), len(tokens_TD))
        gates_PT = probs.T.index_select(0, self.serving.columns(probs.device))
        return self._departure.spread(tokens_TD), gates_PT.view(-1).index_select(0, choice_C)

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Sends rows and gate values to the ranks of their experts.

        Args:
            hidden_states: [C, D].
            probs: [C].

        Returns:
            Rows [R, D] and gate values [R], in order of their source.
        """
        return ExchangeWeightedRows.apply(hidden_states, probs, self.ep_group, self._received, self._sent)

    def dispatch_postprocess(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gives each expert its rows, in order of their source.

        Args:
            hidden_states: rows that arrived, [R, D].
            probs: gate values [R].

        Returns:
            Rows [R, D] by slot, contiguous; rows of each slot int64 [S] on their device; gate values [R] by slot.
        """
        tokens_per_slot_S = self._counts_NS.sum(dim=0)
        if 1 in (self.ep_size, self.num_local_experts):  # they are in order of their slots already
            self._arrival = None
            return hidden_states.contiguous(), tokens_per_slot_S, probs
        self._arrival = RowOrder.by_column(self._counts_NS, len(hidden_states))
        return self._arrival.of(hidden_states), tokens_per_slot_S, self._arrival.of(probs)

    def combine_preprocess(self, hidden_states: Tensor) -> Tensor:
        """Puts the experts' outputs in order of the source of their rows.

        Args:
            hidden_states: gated outputs, [R, D] by slot.

        Returns:
            [R, D].
        """
        return hidden_states if self._arrival is None else self._arrival.inverse.of(hidden_states)

    def token_combine(self, hidden_states: Tensor) -> Tensor:
        """Sends the experts' outputs home.

        Args:
            hidden_states: [R, D].

        Returns:
            Rows [C, D] in the order in which they left.
        """
        return ExchangeRows.apply(hidden_states, self.ep_group, self._sent, self._received)

    def combine_postprocess(self, hidden_states: Tensor) -> Tensor:
        """Adds up the rows that came back for each token.

        Args:
            hidden_states: [C, D].

        Returns:
            Outputs [sequence, batch, D]; zero for a token without a choice.
        """
        return self._departure.add(hidden_states).view(self.hidden_shape)
