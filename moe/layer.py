"""The expert-parallel mixture-of-experts layer.

Shape suffixes: S sequence, B batch, D model width, E experts of a layer.
"""

import moe.with_torch

# isort: split

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.moe_utils import get_default_pg_collection
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

import moe.router
from moe.config import MoEConfig, TopKRouterConfig
from moe.dispatch.capped import CappedDispatcher
from moe.dispatch.home_return import DeduplicatedDispatcher, Dispatcher, HierarchicalDispatcher, HomeReturnDispatcher
from moe.dispatch.node_groups import node_groups
from moe.dispatch.serving import Loans, Serving
from moe.experts import StackedExperts
from moe.replica import Slots
from moe.router.protocol import Router
from moe.seeds import derive_seed

_DISPATCHERS: dict[str, type[Dispatcher]] = {
    "home": HomeReturnDispatcher,
    "capped": CappedDispatcher,
    "copies": DeduplicatedDispatcher,
    "hierarchical": HierarchicalDispatcher,
}


class PlacedMoELayer(MoELayer):
    """A Megatron-Core MoE layer with a placement of its experts, on CPU and on GPU.

    ``forward`` takes and returns [S, B, D]. Initial weights are a function of (seed, layer, logical expert) alone: they
    do not depend on the world size, on the placement or on earlier draws.

    An expert may have replicas on other ranks. Its home alone has parameters; the others borrow its weights in every
    forward pass and bring their gradients back (:class:`moe.dispatch.serving.Loans`).

    Attributes:
        slots: the expert that each slot of the group holds, and which ranks are homes.
    """

    router: Router

    def __init__(
        self,
        config: MoEConfig,
        megatron: TransformerConfig,
        layer: int,
        seed: int,
        slot_to_expert: np.ndarray,
        hops: np.ndarray | None = None,
    ) -> None:
        """Builds the layer on the process groups of ``megatron.core.parallel_state``.

        Args:
            config: the mixture of experts.
            megatron: the same as Megatron's configuration, by :func:`transformer_config`.
            layer: index of the block in its model, from 0.
            seed: seed of the initial weights.
            slot_to_expert: logical expert of each physical slot of the expert-parallel group, int [P]; P = E without
                replicas.
            hops: distance of every two ranks of that group, [ranks, ranks], for routers that weigh distances; None: 1
                between any two.
        """
        products = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
        submodules = MoESubmodules(
            experts=StackedExperts,
            shared_experts=ModuleSpec(SharedExpertMLP, submodules=products),
            router=partial(moe.router.build, config),
        )
        groups = get_default_pg_collection()
        # Megatron chooses the dispatcher itself, and its all-to-all needs CUDA to be built at all.
        portable = copy.copy(megatron)
        portable.moe_token_dispatcher_type = "allgather"
        super().__init__(portable, submodules, layer + 1, groups)
        self.config = megatron
        self.set_layer_number(layer + 1)
        self.layer = layer
        self._groups, self._dispatch, self._rule = groups, config.dispatch, config.replicas
        self._most_choices = config.most_choices
        self.slots = Slots.of(slot_to_expert, config.num_experts, self.ep_group.size())
        self._follow(self.slots)
        self._hops = 1.0 - np.eye(self.ep_group.size()) if hops is None else hops
        self._seed = seed
        self._initialise()
        self._tell_distances()

    @property
    def slot_to_expert(self) -> np.ndarray:
        """Logical expert of each physical slot of the expert-parallel group, int64 [P]: homes first on every rank."""
        return self.slots.experts.reshape(-1).copy()

    def place(self, slot_to_expert: np.ndarray) -> None:
        """Declares that the slots hold other experts from now on; the caller has moved the parameters of homes.

        Args:
            slot_to_expert: logical expert of each physical slot, int [P]; there may be more or fewer than before.

        Raises:
            ValueError: it does not hold every expert, or none can be at home on each rank in equal numbers.
        """
        slots = Slots.of(slot_to_expert, self.slots.num_experts, self.slots.num_ranks)
        self._follow(slots)
        self.slots = slots
        self._tell_distances()

    @property
    def local_experts(self) -> list[int]:
        """Logical experts at home on this rank, in the order of the rows of its parameters."""
        return self.slots.homes[self.ep_group.rank()].tolist()

    @property
    def served(self) -> Tensor | None:
        """Whether a slot served a token of this rank in the last pass, bool [tokens, P]; None without replicas."""
        serving: Serving | None = getattr(self.token_dispatcher, "serving", None)
        return None if serving is None else serving.served

    def expert_stacks(self) -> dict[str, nn.Parameter]:
        """The parameters of the experts at home on this rank, whose rows are those of :attr:`local_experts`.

        ``linear_fc1.weight`` [C, F, D] and ``linear_fc2.weight`` [C, D, F] of C experts of inner width F.
        """
        return dict(self.experts.named_parameters())

    def expert_parameters(self) -> dict[int, dict[str, Tensor]]:
        """Returns views of the stacks by logical expert and name (``linear_fc1.weight``, ``linear_fc2.weight``)."""
        return {
            expert: {name: stack[row] for name, stack in self.expert_stacks().items()}
            for row, expert in enumerate(self.local_experts)
        }

    def initial_values(self, part: str) -> dict[str, Tensor]:
        """Returns the initial values of parameters by name, on the CPU, drawn whole by a generator for them alone.

        The part is ``router``, ``shared_experts``, or ``experts.`` with a logical id, wherever that expert lives.
        """
        config, (kind, _, expert) = self.config, part.partition(".")
        if kind == "router":
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "router", self.layer))
            weight = torch.empty(config.num_moe_experts or 0, config.hidden_size)
            return {"weight": nn.init.normal_(weight, std=0.02, generator=generator)}
        if kind == "experts":
            inner, seed = config.moe_ffn_hidden_size, derive_seed(self._seed, "expert", self.layer, int(expert))
        else:
            inner = config.moe_shared_expert_intermediate_size
            seed = derive_seed(self._seed, "shared expert", self.layer)
        assert inner is not None
        generator = torch.Generator().manual_seed(seed)
        shapes = {"linear_fc1.weight": (inner, config.hidden_size), "linear_fc2.weight": (config.hidden_size, inner)}
        return {
            name: nn.init.xavier_uniform_(torch.empty(shape, dtype=config.params_dtype), generator=generator)
            for name, shape in shapes.items()
        }

    def forward(self, hidden_states: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gate-weighted sum of the chosen experts' outputs, [S, B, D]."""
        return super().forward(hidden_states)[0]

    def _follow(self, slots: Slots) -> None:
        """Passes the slots to the dispatcher, made anew where there are more or fewer of them, and to the experts."""
        dispatcher: Any = getattr(self, "token_dispatcher", None)
        serving = getattr(dispatcher, "serving", None)
        if serving is not None and serving.slots.slots_per_rank == slots.slots_per_rank:
            serving.place(slots)
        else:
            limits: Any = {"most_choices": self._most_choices, "capacity": self._capacity}
            serving = Serving(slots, self.ep_group, self._rule, self.layer, **limits)
            own = slots.slots_per_rank
            first = self.ep_group.rank() * own
            # On one node, or with one rank a node, there is one level only.
            one_level = self._dispatch == "hierarchical" and node_groups() is None
            kind = DeduplicatedDispatcher if one_level else _DISPATCHERS[self._dispatch]
            self.token_dispatcher = kind(own, [*range(first, first + own)], self.config, self._groups, serving)
        self.experts.loans = Loans.of(slots, self.ep_group) if slots.has_replicas else None

    def _capacity(self, tokens: int) -> int | None:
        """Returns the most choices that an expert takes of a rank's tokens; None: no limit, as at inference."""
        return self.router.capacity(tokens) if self.router.training else None

    def _tell_distances(self) -> None:
        """Passes the distance of each expert's nearest holder from this rank to the router."""
        hops_EN = np.where(self.slots.holders, self._hops[self.ep_group.rank()], np.inf)
        self.router.set_hops(torch.from_numpy(hops_EN.min(axis=1)).float())

    @torch.no_grad()
    def _initialise(self) -> None:
        """Writes the initial values into the parameters, except into those whose memory is not allocated yet."""
        if self.router.weight.is_meta:
            return
        self.router.weight.copy_(self.initial_values("router")["weight"])
        for expert, parameters in self.expert_parameters().items():
            values = self.initial_values(f"experts.{expert}")
            for name, parameter in parameters.items():
                parameter.copy_(values[name])
        if self.shared_experts is not None:
            values = self.initial_values("shared_experts")
            for name, parameter in self.shared_experts.named_parameters():
                parameter.copy_(values[name])


def transformer_config(
    config: MoEConfig, *, hidden: int, num_layers: int, num_heads: int, expert_parallel: int, dtype: torch.dtype
) -> TransformerConfig:
    """Translates a run's mixture of experts to Megatron's configuration."""
    router = config.router
    top_k = router if isinstance(router, TopKRouterConfig) else TopKRouterConfig(aux_loss=0.0, z_loss=router.z_loss)
    return TransformerConfig(
        num_layers=num_layers,
        hidden_size=hidden,
        num_attention_heads=num_heads,
        ffn_hidden_size=config.expert_hidden,
        moe_ffn_hidden_size=config.expert_hidden,
        num_moe_experts=config.num_experts,
        expert_model_parallel_size=expert_parallel,
        moe_router_topk=config.top_k,
        moe_router_score_function=top_k.score,
        moe_router_pre_softmax=top_k.score == "softmax" and top_k.normalise_over == "all",
        moe_router_load_balancing_type="aux_loss" if top_k.aux_loss else "none",
        moe_aux_loss_coeff=top_k.aux_loss,
        moe_z_loss_coeff=top_k.z_loss or None,
        moe_router_enable_expert_bias=bool(top_k.bias_rate),
        moe_router_bias_update_rate=top_k.bias_rate,
        moe_expert_capacity_factor=top_k.capacity_factor,
        moe_token_drop_policy=top_k.drop_policy,
        moe_shared_expert_intermediate_size=config.shared_expert_hidden,
        moe_router_dtype="fp64" if dtype == torch.float64 else "fp32",
        moe_token_dispatcher_type="alltoall",
        add_bias_linear=False,
        params_dtype=dtype,
        use_cpu_initialization=True,
        perform_initialization=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
