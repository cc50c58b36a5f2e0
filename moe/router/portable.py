"""The base of all routers: the gate on any device, padding, the losses of the gate and the report.

Shape suffixes: T tokens, E experts.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.config import RouterConfig, capacity_of
from moe.repetition import notes, repeats
from moe.router.capacity import slots_of_tokens

RouterSettings = TypeVar("RouterSettings", bound=RouterConfig)


@dataclass(frozen=True, eq=False)
class Selection:
    """Result of a router.

    Attributes:
        probs: gate values [T, E], zero outside the map and differentiable inside it.
        map: bool [T, E], the choices.
        dropped: due choices that no expert took, int64 [].
        figures: further entries of the report.
        distribution: probabilities of the experts by the gate alone, [T, E]; None: they have yet to be computed.
        constants: arguments of :meth:`PortableRouter.gates` besides logits and map; without gradient.
    """

    probs: Tensor
    map: Tensor
    dropped: Tensor
    figures: Mapping[str, Tensor] = field(default_factory=dict)
    distribution: Tensor | None = None
    constants: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Route:
    """Recorded choices of one pass, without gate values: a pass that takes the choices again computes those anew.

    Attributes:
        map: bool [T, E].
        dropped: due choices that no expert took, int64 [].
        constants: arguments of :meth:`PortableRouter.gates` besides logits and map.
    """

    map: Tensor
    dropped: Tensor
    constants: Mapping[str, Tensor]


class PortableRouter(TopKRouter, Generic[RouterSettings]):
    """Megatron-Core's router without its demand for CUDA and TransformerEngine; a kind of router adds :meth:`select`.

    Replaced is the gate's product (Megatron 0.16 calls TransformerEngine even where that is absent, and moves the
    weight to the current CUDA device). Buffers keep their type when the network is cast to a lower precision. The
    auxiliary losses enter the gradient as in Megatron, but not its table of logged losses, which belongs to the process
    and is as long as the first model.

    Attributes:
        cap: most that an expert takes of a rank's choices in training, as a multiple of its even share; None: no limit.
    """

    def __init__(
        self, router: RouterSettings, config: TransformerConfig, pg_collection: ProcessGroupCollection | None = None
    ) -> None:
        """Builds the gate on the process groups tp, cp, tp_cp and tp_dp_cp."""
        without_bias = copy.copy(config)
        without_bias.moe_router_enable_expert_bias = False
        super().__init__(config=without_bias, pg_collection=pg_collection)
        self.config = config
        self._router = router
        self.cap = router.cap
        assert config.num_moe_experts is not None
        self.num_experts: int = config.num_moe_experts
        self._last: tuple[Tensor, Tensor | None, Selection] | None = None
        self._recorded: list[Route] | None = None
        self._to_follow: Iterator[Route] | None = None

    def select(self, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
        """Chooses the experts of each token; each kind of router implements it.

        In training no number may be read from a device, nor a shape depend on one: that makes the host wait.

        Args:
            logits_TE: the gate's logits; T may be 0.
            counted_T: bool, false for padding, whose logits are 0 and whose gate values and choices must be; None if
                absent.
        """
        raise NotImplementedError

    def gates(self, logits_TE: Tensor, map_TE: Tensor, constants: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """Returns the gate values of choices, [T, E], zero outside the map, for new and for repeated choices alike."""
        return logits_TE.softmax(dim=1) * map_TE

    def learn(self, selection: Selection, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:  # noqa: ARG002
        """Updates balancing where recorded choices are taken again: counts them and attaches any balancing loss.

        Returns the selection with the same gate values and choices.
        """
        return selection

    def record(self, routes: list[Route] | None) -> None:
        """Appends the choices of every later evaluation pass to the list; None: stops recording."""
        self._recorded = routes

    def follow(self, routes: Sequence[Route] | None) -> None:
        """Makes every later training pass take the next recorded choices; None: passes choose as usual."""
        self._to_follow = None if routes is None else iter(routes)

    def capacity(self, tokens: int) -> int | None:
        """Most choices that an expert takes of a rank's tokens, padding too, in training; fewer tokens never make more.

        None: there is no limit, as where choices of evaluation passes are taken again.
        """
        if self.cap is None or self._to_follow is not None:
            return None
        return capacity_of(tokens, top_k=self.topk, num_experts=self.num_experts, cap=self.cap)

    def distribution(self, logits_TE: Tensor) -> Tensor:
        """Probabilities of the experts by the gate alone, [T, E], the rows summing to 1."""
        return logits_TE.softmax(dim=1)

    def gating(self, input: Tensor) -> Tensor:
        """Gate logits [sequence, batch, num_experts] in the router's precision, of tokens [sequence, batch, hidden]."""
        dtype = {"fp32": torch.float32, "fp64": torch.float64}.get(self.config.moe_router_dtype or "", input.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        tokens_TD = input.to(dtype).flatten(0, -2)
        return torch.nn.functional.linear(tokens_TD, self.weight.to(dtype), bias).unflatten(0, input.shape[:-1])

    def routing(self, logits: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gate values and a bool map, each [sequence * batch, E], of logits [sequence, batch, E].

        The mask, [sequence, batch], is true for padding, which visits no expert and counts nowhere; as Megatron's code
        has it, not its documentation.
        """
        logits = logits.reshape(-1, self.num_experts)
        if padding_mask is None:
            selection = self._select(logits, None)
            return selection.probs, selection.map
        counted_T = ~padding_mask.reshape(-1).bool()
        # So padding reaches no sum and no gradient.
        selection = self._select(logits.where(counted_T[:, None], 0.0), counted_T)
        return selection.probs, selection.map

    def report(self) -> Mapping[str, Tensor]:
        assert self._last is not None, "nothing was routed yet"
        logits_TE, counted_T, selection = self._last
        distribution_TE = self.distribution(logits_TE) if selection.distribution is None else selection.distribution
        entropies_TE = torch.special.entr(distribution_TE)
        if counted_T is None:
            due = logits_TE.new_full([], len(logits_TE) * self.topk, dtype=torch.int64)
            entropy = entropies_TE.sum() / max(len(logits_TE), 1)
        else:
            tokens = counted_T.sum()
            due = tokens * self.topk
            entropy = (entropies_TE * counted_T[:, None]).sum() / tokens.clamp_min(1)
        return {
            "expert_tokens": selection.map.sum(dim=0),
            "due_choices": due,
            "dropped_choices": selection.dropped,
            "entropy": entropy,
            **selection.figures,
        }

    def update_bias(self) -> None:
        """Does nothing: most routers learn nothing besides the weight."""

    def forget(self) -> None:
        """Does nothing: most routers gather no statistics."""

    def set_hops(self, hops_E: Tensor) -> None:
        """Does nothing: most routers do not use distances."""

    def set_layer_number(self, layer_number: int) -> None:
        """Ignores the layer number, so that Megatron leaves the losses out of its table."""

    @property
    def learns(self) -> bool:
        """Whether this is a training pass with gradients; the first of two under reentrant checkpointing is not."""
        return self.training and torch.is_grad_enabled()

    @property
    def counts(self) -> bool:
        """Whether this is a training pass whose tokens have not been counted yet."""
        return self.learns and not repeats()

    def unserved(self, map_TE: Tensor, counted_T: Tensor | None) -> Tensor:
        """Due choices of the tokens that visit no expert, int64 []."""
        served = map_TE.any(dim=1).sum()
        due = self.topk * (map_TE.shape[0] if counted_T is None else counted_T.sum())
        return torch.rsub(served, due, alpha=self.topk)

    def slots(self, counted_T: Tensor, factor: float) -> Tensor:
        """Largest number of choices that an expert takes of the tokens that are no padding, int64 []."""
        return slots_of_tokens(counted_T.sum(), top_k=self.topk, num_experts=self.num_experts, factor=factor)

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Sums over the data ranks, in place if there are several; collective."""
        if self.tp_dp_cp_group.size() > 1:
            torch.distributed.all_reduce(values, group=self.tp_dp_cp_group)
        return values

    def _select(self, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
        if len(logits_TE):
            logits_TE = self.apply_z_loss(logits_TE, None if counted_T is None else ~counted_T)
        route = self._route()
        if route is None:
            selection = self.select(logits_TE, counted_T)
        else:
            selection = self._taken_again(route, logits_TE, counted_T)
        if self._recorded is not None and not self.training:
            constants = {name: value.clone() for name, value in selection.constants.items()}  # buffers move on
            self._recorded.append(Route(selection.map, selection.dropped, constants))
        self._last = logits_TE.detach(), counted_T, selection
        return selection

    def _route(self) -> Route | None:
        """Returns the recorded choices that this pass takes, or None; a repetition takes those of its first pass."""
        if not self.training:
            return None
        left = notes()
        if repeats() and left is not None:
            return left.get(self)
        if self._to_follow is None:
            return None
        route = next(self._to_follow, None)
        if route is None:
            raise RuntimeError("a training pass has no recorded evaluation pass to follow; record as many as are made")
        if left is not None:
            left[self] = route
        return route

    def _taken_again(self, route: Route, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
        if route.map.shape != logits_TE.shape:
            raise RuntimeError(
                f"a training pass routes {len(logits_TE)} tokens, and the evaluation pass that it follows had "
                f"{len(route.map)}; make both of the same examples"
            )
        probs_TE = self.gates(logits_TE, route.map, route.constants)
        selection = Selection(probs_TE, route.map, route.dropped, constants=route.constants)
        return self.learn(selection, logits_TE, counted_T)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self
