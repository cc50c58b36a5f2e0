"""Counts of the routers' choices since the last look, kept on the devices where the routers run.

Only training passes count. Until the look nothing is copied to the host and nothing is sent.

Shape suffixes: T tokens of a micro batch on this rank, L MoE layers, E experts (or their slots), K choices of a token,
N ranks of the expert-parallel group.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from moe.dispatch.context_coherent import Arrivals
from moe.layer import PlacedMoELayer
from moe.placement.counts import RoutingStatistics, Tally
from moe.placement.placement import Dispatch
from moe.repetition import repeats
from moe.routing_trace import RoutingHeader, RoutingTrace
from trainer.trace.routing import ordered_choices

SAMPLED_TOKENS = 16_384
"""Tokens of the whole run that a look at de-duplicated dispatch samples; a placement needs about five thousand."""


class Window(ABC):
    """Counts for one dispatch mode.

    Attributes:
        steps: optimiser steps since the counts were cleared.
    """

    def __init__(self, layers: Sequence[PlacedMoELayer], group: dist.ProcessGroup, counts: Sequence[int]) -> None:
        """Starts at zero.

        Args:
            layers: the MoE layers of a network, on the device where they run.
            group: the expert-parallel group.
            counts: shape of the counts.
        """
        self._layers, self._group = layers, group
        self._num_experts = layers[0].slots.num_experts
        self._device = next(layers[0].parameters()).device
        self._counts = torch.zeros(tuple(counts), dtype=torch.long, device=self._device)
        self._tokens = self.steps = 0

    @abstractmethod
    def reduced(self) -> tuple[RoutingStatistics, float]:
        """Adds up the counts of all ranks; collective.

        Returns:
            The counts, and the steps whose tokens they are: a fraction for a sample.
        """

    def clear(self) -> None:
        """Forgets all counts."""
        self._counts.zero_()
        self._tokens = self.steps = 0

    def state(self) -> dict[str, Any]:
        """The counts of this rank, for its checkpoint."""
        return {"counts": self._counts.cpu(), "tokens": self._tokens, "steps": self.steps}

    def load(self, state: dict[str, Any]) -> None:
        """Restores a result of :meth:`state`."""
        self._counts.copy_(state["counts"])
        self._tokens, self.steps = state["tokens"], state["steps"]

    def _no_statistics(self) -> RoutingStatistics:
        num_layers, num_experts = len(self._layers), self._num_experts
        return RoutingStatistics(
            num_tokens=self._tokens,
            transitions=np.zeros((num_layers - 1, num_experts, num_experts), np.int64),
            jumps=np.zeros((0, 5), np.int64),
            source_counts=None,
            loads=np.zeros((num_layers, num_experts), np.int64),
            dropped=0,
            anchors=np.zeros((num_layers, num_experts), np.int64),
            coactivation=np.zeros((num_layers, num_experts, num_experts), np.int64),
        )

    def _added_up(self, own: RoutingStatistics) -> RoutingStatistics:
        vector = torch.as_tensor(own.to_vector(), device=self._device)
        dist.all_reduce(vector)
        num_ranks = None if own.source_counts is None else self._group.size()
        return RoutingStatistics.from_vector(vector.cpu().numpy(), len(self._layers), self._num_experts, num_ranks)


class SourceWindow(Window):
    """For home-return dispatch: how often each expert was chosen, by the rank of the token."""

    def __init__(self, layers: Sequence[PlacedMoELayer], group: dist.ProcessGroup) -> None:
        """Listens to the routers of the layers."""
        super().__init__(layers, group, (len(layers), layers[0].slots.num_experts))
        for index, layer in enumerate(layers):
            _listen(layer, self._counter(index))

    def reduced(self) -> tuple[RoutingStatistics, float]:
        """One all-reduce."""
        counts_LE = self._counts.cpu().numpy()
        sources_LNE = np.zeros((len(counts_LE), self._group.size(), self._num_experts), np.int64)
        sources_LNE[:, self._group.rank()] = counts_LE
        own = replace(self._no_statistics(), source_counts=sources_LNE, loads=counts_LE)
        return self._added_up(own), self.steps

    def _counter(self, index: int) -> Any:
        def count(router: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            if router.training and not repeats():
                map_TE = output[1]
                self._counts[index] += map_TE.sum(dim=0)
                if index == 0:
                    self._tokens += len(map_TE)

        return count


class TransitionWindow(Window):
    """For context-coherent dispatch: the moves of tokens from the expert of a layer to that of the next.

    A token is on the rank of its last expert when the next layer chooses, and no other rank knows where it comes from.
    """

    def __init__(self, layers: Sequence[PlacedMoELayer], group: dist.ProcessGroup) -> None:
        """Listens to the dispatchers of the layers."""
        num_experts = layers[0].slots.num_experts
        super().__init__(layers, group, (len(layers) - 1, num_experts * num_experts))
        self._arrived_T: Tensor | None = None
        for index, layer in enumerate(layers):
            self._watch(index, layer)

    def reduced(self) -> tuple[RoutingStatistics, float]:
        """One all-reduce."""
        own = self._no_statistics()
        by_slot = self._counts.cpu().numpy().reshape(own.transitions.shape)
        for transitions, counts, layer in zip(own.transitions, by_slot, self._layers, strict=False):
            transitions[layer.slot_to_expert] = counts
        return self._added_up(own), self.steps

    def _watch(self, index: int, layer: PlacedMoELayer) -> None:
        dispatcher: Any = layer.token_dispatcher
        move = dispatcher.move

        def watched(rows_TD: Tensor, probs_TE: Tensor, map_TE: Tensor, *further: Any) -> Arrivals:
            arrivals = move(rows_TD, probs_TE, map_TE, *further)
            if layer.training and not repeats():
                if index == 0:
                    self._tokens += len(map_TE)
                else:
                    assert self._arrived_T is not None
                    anchors_T = probs_TE.detach().masked_fill(~map_TE, -1.0).argmax(dim=1)
                    visited_T = (self._arrived_T >= 0) & map_TE.any(dim=1)
                    kinds_T = (self._arrived_T * self._num_experts + anchors_T)[visited_T]
                    self._counts[index - 1].scatter_add_(0, kinds_T, torch.ones_like(kinds_T))
                self._arrived_T = arrivals.slots[arrivals.residents, 0]
            return arrivals

        dispatcher.move = watched


class SetWindow(Window):
    """For copies to ranks or nodes: the sets of experts that the last micro batch's tokens chose, by their rank."""

    def __init__(self, layers: Sequence[PlacedMoELayer], group: dist.ProcessGroup) -> None:
        """Listens to the routers of the layers."""
        super().__init__(layers, group, ())
        self._maps: dict[int, Tensor] = {}
        for index, layer in enumerate(layers):
            _listen(layer, self._keeper(index))

    def reduced(self) -> tuple[RoutingStatistics, float]:
        """One all-reduce of the counts of fixed size, and one all-gather of the sets."""
        own = RoutingStatistics.collect(self._sample(), self._group.size())
        assert own.choice_sets is not None
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, (own.choice_sets.rows, own.choice_sets.tokens))
        width = max(rows.shape[1] for rows, _ in everyone)
        rows = np.concatenate([_widened(rows, width) for rows, _ in everyone])
        sets = Tally.count(rows, np.concatenate([tokens for _, tokens in everyone]))
        share = own.num_tokens / max(self._tokens, 1)
        return replace(self._added_up(own), choice_sets=sets), self.steps * share

    def _sample(self) -> RoutingTrace:
        tokens = len(self._maps[0])
        stride = -(-tokens * dist.get_world_size() // SAMPLED_TOKENS)
        maps_LTE = torch.stack([self._maps[layer][::stride] for layer in range(len(self._layers))])
        most = max(1, int(maps_LTE.sum(dim=2).max()))
        ids_LTK = torch.stack([ordered_choices(map_TE.float(), map_TE, most)[0] for map_TE in maps_LTE])
        header = RoutingHeader(
            num_experts=self._num_experts,
            num_layers=len(self._layers),
            top_k=most,
            world_size=self._group.size(),
            model="window",
        )
        ids_TLK = ids_LTK.transpose(0, 1).cpu().numpy()
        return RoutingTrace(ids_TLK, np.full(len(ids_TLK), self._group.rank()), header)

    def _keeper(self, index: int) -> Any:
        def keep(router: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            if router.training and not repeats():
                self._maps[index] = output[1]
                if index == 0:
                    self._tokens += len(output[1])

        return keep


WINDOWS: dict[Dispatch, type[SourceWindow] | type[TransitionWindow] | type[SetWindow]] = {
    "home": SourceWindow,
    "coherent": TransitionWindow,
    "copies": SetWindow,
    "hierarchical": SetWindow,
}


def _listen(layer: PlacedMoELayer, hook: Any) -> None:
    router: Any = layer.router
    router.register_forward_hook(hook)


def _widened(rows: np.ndarray, width: int) -> np.ndarray:
    """Pads choice sets to `width` columns."""
    absent = np.full((len(rows), width - rows.shape[1]), -1)
    return np.concatenate([rows[:, :2], absent, rows[:, 2:]], axis=1)
