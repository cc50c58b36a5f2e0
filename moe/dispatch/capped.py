"""Capped dispatch: every rank reserves equally many rows for every expert, so that messages have one known size.

A router that never gives an expert more than so many of a rank's tokens makes the sizes of all messages known before
it has chosen. No rank counts or waits; the price is reserved rows that stay empty.

Shape suffixes: T tokens of this rank, K choices of a token, E experts, N ranks of the expert-parallel group, S slots of
a rank, Q rows that a rank reserves at a slot, R = S * N * Q rows at the experts of this rank, M rows of the messages to
all ranks, D model width.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.autograd import Function

from moe.dispatch.home_return import HomeReturnDispatcher
from moe.dispatch.messages import CappedMessage
from moe.dispatch.serving import Serving


class CappedDispatcher(HomeReturnDispatcher):
    """A token takes a reserved row at each of its experts; all reserved rows travel, taken or not, and come home.

    An empty row holds zeros with gate value 0. What comes back from it is not read, so that it changes
    neither outputs nor gradients of tokens, whatever an expert makes of zeros.

    All ranks of the group must have the same number of tokens; it may differ from pass to pass. Where the router has no
    limit, as at inference, or no rank has a token, tokens travel as :class:`HomeReturnDispatcher` has them.

    Collectives of a layer and micro batch: two all-to-alls forward, two backward, each of as many bytes from every rank
    to every rank, whatever the routing. The host never waits.
    """

    def __init__(
        self,
        num_local_experts: int,
        local_expert_indices: list[int],
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        serving: Serving,
    ) -> None:
        """Refuses replicas with a ValueError."""
        super().__init__(num_local_experts, local_expert_indices, config, pg_collection, serving)
        if serving.slots.has_replicas:
            raise ValueError(
                f"slot_to_expert: {serving.slots.experts.size} slots hold replicas of {serving.slots.num_experts} "
                "experts, and capped dispatch would send empty rows to each of them; place without replicas, or use "
                "dispatch home or copies"
            )
        self._plan: _Plan | None = None

    def dispatch_preprocess(
        self, hidden_states: Tensor, routing_map: Tensor, probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Gives every choice a reserved row; returns the tokens [T, D] and their gate values [T, E]."""
        self._plan = None
        capacity = self.serving.capacity(len(routing_map))
        if not capacity:
            return super().dispatch_preprocess(hidden_states, routing_map, probs)
        self.hidden_shape = hidden_states.shape
        tokens_TD = hidden_states.reshape(-1, self.hidden_shape[-1])
        message = CappedMessage.of(
            slots=self.num_local_experts,
            capacity=capacity,
            row_bytes=tokens_TD.shape[1] * tokens_TD.element_size(),
            gate_bytes=probs.element_size(),
        )
        slots_E = self.serving.slot_of_experts(routing_map.device)
        self._plan = _Plan.of(routing_map, slots_E, message, self.num_local_experts, self.serving.most_choices)
        return tokens_TD, probs

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Sends all reserved rows to their experts: rows [R, D] and gate values [R], by slot and source."""
        if self._plan is None:
            return super().token_dispatch(hidden_states, probs)
        return _ToExperts.apply(hidden_states, probs, self._plan, self.ep_group)

    def dispatch_postprocess(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Leaves the rows as they are; every slot has as many."""
        if self._plan is None:
            return super().dispatch_postprocess(hidden_states, probs)
        slots = self.num_local_experts
        rows_S = torch.full([slots], len(hidden_states) // slots, dtype=torch.long, device=hidden_states.device)
        return hidden_states, rows_S, probs

    def combine_preprocess(self, hidden_states: Tensor) -> Tensor:
        """Leaves the outputs [R, D] as they are."""
        return super().combine_preprocess(hidden_states) if self._plan is None else hidden_states

    def token_combine(self, hidden_states: Tensor) -> Tensor:
        """Sends all reserved rows home and adds up those of each token: [T, D]."""
        if self._plan is None:
            return super().token_combine(hidden_states)
        return _ToTokens.apply(hidden_states, self._plan, self.ep_group)

    def combine_postprocess(self, hidden_states: Tensor) -> Tensor:
        """Gives the outputs the shape of the tokens."""
        if self._plan is None:
            return super().combine_postprocess(hidden_states)
        return hidden_states.view(self.hidden_shape)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Reserved rows of all choices of one pass.

    Attributes:
        message: to one rank.
        num_ranks: N.
        slots: slots of a rank, S.
        choices: the choice token * E + expert in each row of the messages, int64 [M]; T * E where there is none.
        tokens: its token, int64 [M]; T where there is none.
        rows: rows of the choices of each token in the order of their slots, int64 [T, K]; M where there are fewer.
    """

    message: CappedMessage
    num_ranks: int
    slots: int
    choices: Tensor
    tokens: Tensor
    rows: Tensor

    @classmethod
    def of(cls, map_TE: Tensor, slots_E: Tensor, message: CappedMessage, slots: int, most_choices: int) -> "_Plan":
        """Places the tokens of each expert in their order, from its first reserved row on.

        Args:
            map_TE: the choices, in a column at most the reserved rows of a slot, in a row at most most_choices.
            slots_E: slot of each expert.
            message: to one rank.
            slots: slots of a rank.
            most_choices: K.
        """
        num_tokens, num_experts = map_TE.shape
        num_ranks = num_experts // slots
        num_rows = num_ranks * message.rows
        first_E = slots_E * (message.capacity // slots) + slots_E // slots * message.gate_rows
        row_TE = (map_TE.cumsum(0) + (first_E - 1)).masked_fill_(~map_TE, num_rows)
        choices = torch.arange(num_tokens * num_experts, device=map_TE.device)
        choice = choices.new_full([num_rows + 1], num_tokens * num_experts)  # the last one takes what is no choice
        choice_M = choice.scatter_(0, row_TE.view(-1), choices)[:-1]
        row_TK = row_TE.topk(min(most_choices, num_experts), dim=1, largest=False).values
        return cls(message, num_ranks, slots, choice_M, choice_M // num_experts, row_TK)


class _ToExperts(Function):
    """Rows of tokens and their gate values to the reserved rows; their gradients back."""

    @staticmethod
    def forward(
        ctx: Any, tokens_TD: Tensor, gates_TE: Tensor, plan: _Plan, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor]:
        ctx.route, ctx.shape = (plan, group), gates_TE.shape
        gates_M = torch.cat([gates_TE.reshape(-1), gates_TE.new_zeros(1)]).index_select(0, plan.choices)
        message = _spread(tokens_TD, plan)
        _gate_places(message, plan, gates_TE.dtype).copy_(_bits(_reserved(gates_M, plan), tokens_TD.dtype))
        arrived = _exchange(message, group)
        gates_NQ = _gate_places(arrived, plan, gates_TE.dtype).clone(memory_format=torch.contiguous_format)
        return _by_slot(_reserved(arrived, plan), plan), _by_slot(gates_NQ.view(gates_TE.dtype), plan)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan, group = ctx.route
        rows_RD, gates_R = gradients
        message = _packed(rows_RD, plan)
        places = _gate_places(message[:-1], plan, gates_R.dtype)
        places.copy_(_bits(_by_rank(gates_R, plan).reshape(plan.num_ranks, plan.message.capacity), rows_RD.dtype))
        arrived = _exchange_with_zeros(message, group)
        gates_NQ = _gate_places(arrived[:-1], plan, gates_R.dtype).clone(memory_format=torch.contiguous_format)
        gates = gates_R.new_zeros(ctx.shape.numel() + 1)  # the last one takes those of empty rows
        gates.scatter_(0, _reserved(plan.choices, plan).reshape(-1), gates_NQ.view(gates_R.dtype).view(-1))
        return _added(arrived, plan), gates[:-1].view(ctx.shape), None, None


class _ToTokens(Function):
    """Outputs from the reserved rows to their tokens, added up; their gradients back."""

    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, plan: _Plan, group: dist.ProcessGroup) -> Tensor:
        ctx.route = (plan, group)
        return _added(_exchange_with_zeros(_packed(rows_RD, plan), group), plan)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan, group = ctx.route
        arrived = _exchange(_spread(gradients[0], plan), group)
        return _by_slot(_reserved(arrived, plan), plan), None, None


def _spread(rows_TD: Tensor, plan: _Plan) -> Tensor:
    """Messages [M, D] with the rows of the tokens in their reserved rows, zeros elsewhere."""
    return torch.cat([rows_TD, rows_TD.new_zeros(1, rows_TD.shape[1])]).index_select(0, plan.tokens)


def _added(rows: Tensor, plan: _Plan) -> Tensor:
    """Sum of the rows of each token, [T, D], out of messages and a row of zeros, [M + 1, D]."""
    return torch.nn.functional.embedding_bag(plan.rows, rows, mode="sum")


def _packed(rows_RD: Tensor, plan: _Plan) -> Tensor:
    """Messages out of rows by slot, zeros in place of gate values, and one row of zeros: [M + 1, D]."""
    packed = rows_RD.new_empty(len(plan.choices) + 1, rows_RD.shape[1])
    messages = packed[:-1].view(plan.num_ranks, plan.message.rows, rows_RD.shape[1])
    by_rank = _by_rank(rows_RD, plan)
    messages[:, : plan.message.capacity].view(by_rank.shape).copy_(by_rank)
    messages[:, plan.message.capacity :].zero_()
    packed[-1].zero_()
    return packed


def _exchange(message: Tensor, group: dist.ProcessGroup) -> Tensor:
    if group.size() == 1:
        return message
    arrived = torch.empty_like(message)
    dist.all_to_all_single(arrived, message, group=group)
    return arrived


def _exchange_with_zeros(message: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Exchanges all but the last row, which stays zero."""
    if group.size() == 1:
        return message
    arrived = torch.empty_like(message)
    dist.all_to_all_single(arrived[:-1], message[:-1], group=group)
    arrived[-1].zero_()
    return arrived


def _reserved(values: Tensor, plan: _Plan) -> Tensor:
    """The reserved rows in values of all rows of messages: [M, ...] -> [N, S * Q, ...]."""
    return values.view(plan.num_ranks, plan.message.rows, *values.shape[1:])[:, : plan.message.capacity]


def _gate_places(message: Tensor, plan: _Plan, dtype: torch.dtype) -> Tensor:
    """Where gate values are in messages [M, D]: [N, S * Q * values of the rows' type in one gate]."""
    first = plan.message.capacity * message.shape[1]
    elements = plan.message.capacity * dtype.itemsize // message.element_size()
    of_rank = plan.message.rows * message.shape[1]
    return message.view(plan.num_ranks, of_rank)[:, first : first + elements]


def _bits(gates_NQ: Tensor, dtype: torch.dtype) -> Tensor:
    return gates_NQ.contiguous().view(dtype)


def _by_slot(values_NQ: Tensor, plan: _Plan) -> Tensor:
    """From reserved rows by source and slot, [N, S * Q, ...], to one row each by slot and source, [R, ...]."""
    by_source = values_NQ.unflatten(1, (plan.slots, plan.message.capacity // plan.slots))
    return by_source.transpose(0, 1).reshape(plan.num_ranks * plan.message.capacity, *values_NQ.shape[2:])


def _by_rank(values_R: Tensor, plan: _Plan) -> Tensor:
    """The inverse of :func:`_by_slot` as a view: [R, ...] -> [N, S, Q, ...]."""
    capacity = plan.message.capacity // plan.slots
    return values_R.view(plan.slots, plan.num_ranks, capacity, *values_R.shape[1:]).transpose(0, 1)
