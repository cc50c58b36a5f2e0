"""Recording of the experts that the tokens of sampled steps visit.

Shape suffixes: T tokens of a micro batch on this rank, E experts, K experts per token, L MoE layers.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from moe.dispatch.residency import Residency
from moe.repetition import repeats
from moe.routing_trace import RoutingHeader, RoutingTrace
from trainer.flow.time import segment_of
from trainer.model.parallel.state import HoldsExperts
from trainer.trace.merge import routing_path


class RoutingRecorder:
    """Collects one rank's routing of sampled steps; hooks nothing outside those steps."""

    def __init__(
        self,
        folder: Path,
        layers: Sequence[HoldsExperts],
        header: RoutingHeader,
        *,
        steps: Collection[int],
        micro_batch: int,
        training: bool = True,
    ) -> None:
        """Records only passes in the mode `training`: an objective may also call in evaluation mode."""
        self._path = routing_path(folder, dist.get_rank())
        self._layers, self._header = layers, header
        self._steps, self._micro_batch = frozenset(steps), micro_batch
        self._training = training
        self._parts: list[RoutingTrace] = []

    def resume(self, step: int) -> None:
        """Keeps what an earlier process of the same run recorded up to optimiser step `step`."""
        if self._path.exists():
            earlier = RoutingTrace.read(self._path)
            assert earlier.step is not None
            kept = earlier.step <= step
            later = ("dispatch", "expert_parameters", "replicas", "cap", "due_choices")  # earlier versions lack them
            absent = {name: getattr(self._header, name) for name in later if getattr(earlier.header, name) is None}
            # A run may go on with other settings, such as more steps.
            known = earlier.header.model_copy(update={**absent, "config_sha256": self._header.config_sha256})
            if known == self._header and kept.any():
                arrays = {f.name: getattr(earlier, f.name) for f in fields(earlier) if f.name != "header"}
                kept_arrays = {name: array[kept] for name, array in arrays.items() if array is not None}
                self._parts = [replace(earlier, header=known, **kept_arrays)]

    def step(self, step: int, micro: int) -> AbstractContextManager[None]:
        """Records the forward passes that run inside, if `step` is sampled; then collective if dispatch moves tokens.

        The tokens of several passes follow one another. `micro` is the index of the micro batch in the global batch.
        """
        return self._recording(step, micro) if step in self._steps else nullcontext()

    def write(self) -> None:
        """Writes what was recorded to the rank's file, if there is anything."""
        if self._parts:
            RoutingTrace.concatenate(self._parts).write(self._path)

    @contextmanager
    def _recording(self, step: int, micro: int) -> Iterator[None]:
        chosen: list[tuple[Tensor, Tensor]] = []
        residencies: list[Residency] = []

        def keep(router: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            if router.training == self._training and not repeats():
                chosen.append(ordered_choices(*output, self._header.top_k))

        def locate(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            if layer.training == self._training and not repeats():
                residencies.extend(value for value in inputs if isinstance(value, Residency))

        with ExitStack() as hooks:
            for layer in self._layers:
                assert isinstance(layer, nn.Module)
                hooks.callback(layer.register_forward_pre_hook(locate).remove)
                hooks.callback(layer.router.register_forward_hook(keep).remove)
            yield
        if residencies:
            chosen = [at_home(*pair, where) for pair, where in zip(chosen, residencies, strict=True)]
        for first in range(0, len(chosen), len(self._layers)):
            of_call = chosen[first : first + len(self._layers)]
            self._keep(step, micro, *(torch.stack(part, dim=1) for part in zip(*of_call, strict=True)))

    def _keep(self, step: int, micro: int, ids_TLK: Tensor, weights_TLK: Tensor) -> None:
        """Adds the choices of a micro batch's tokens, example by example."""
        tokens = len(ids_TLK)
        sequence, position = np.divmod(np.arange(tokens), tokens // self._micro_batch)
        self._parts.append(
            RoutingTrace(
                expert_ids=ids_TLK.cpu().numpy().astype(np.int32),
                source_rank=np.full(tokens, dist.get_rank(), np.int32),
                header=self._header,
                weights=weights_TLK.cpu().numpy(),
                step=np.full(tokens, step, np.int32),
                micro=np.full(tokens, micro, np.int32),
                sequence=(micro * self._micro_batch + sequence).astype(np.int32),
                position=position.astype(np.int32),
            )
        )


class SegmentRecorder(RoutingRecorder):
    """Records time segments as experts: in each block with segments, a token visits the expert of its time segment."""

    def __init__(
        self,
        folder: Path,
        network: nn.Module,
        header: RoutingHeader,
        *,
        steps: Collection[int],
        micro_batch: int,
        tokens: int,
    ) -> None:
        """`network` takes times as its second argument; the experts of `header` are the segments."""
        super().__init__(folder, (), header, steps=steps, micro_batch=micro_batch)
        self._network, self._tokens = network, tokens

    @contextmanager
    def _recording(self, step: int, micro: int) -> Iterator[None]:
        times: list[Tensor] = []
        hook = self._network.register_forward_pre_hook(lambda _, inputs: times.append(inputs[1].detach()))
        try:
            yield
        finally:
            hook.remove()
        (t,) = times
        ids_T = segment_of(t, self._header.num_experts).repeat_interleave(self._tokens)
        ids_TLK = ids_T[:, None, None].expand(-1, self._header.num_layers, 1)
        self._keep(step, micro, ids_TLK, torch.ones(ids_TLK.shape))


def ordered_choices(probs_TE: Tensor, routing_map_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Expert ids [T, K] of a router's output, largest gate first, -1 if dropped, and their float32 gates [T, K]."""
    with torch.no_grad():
        gates_TK, ids_TK = probs_TE.float().masked_fill(~routing_map_TE, -1.0).topk(top_k, dim=1)
        dropped = gates_TK < 0
        return ids_TK.masked_fill(dropped, -1), gates_TK.masked_fill(dropped, 0.0)


def at_home(ids_TK: Tensor, gates_TK: Tensor, residency: Residency) -> tuple[Tensor, Tensor]:
    """Sends ids and gates [T, K] to their tokens' home ranks, in the tokens' order; collective if tokens move."""
    if residency.group is None or residency.group.size() == 1:
        return ids_TK, gates_TK
    everywhere: list[Any] = [None] * residency.group.size()
    dist.all_gather_object(everywhere, (residency.ids.cpu(), ids_TK.cpu(), gates_TK.cpu()), group=residency.group)
    numbers, ids, gates = (torch.cat(parts) for parts in zip(*everywhere, strict=True))
    order = numbers.argsort()
    own = order[numbers[order] // residency.per_rank == dist.get_rank(residency.group)]
    return ids[own], gates[own]
