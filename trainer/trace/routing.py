"""Recording which experts the tokens of sampled steps visit.

Shape suffixes: T tokens of a micro batch on this rank, E experts, K experts a token visits, L MoE layers.
"""

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from moe.routing_trace import RoutingHeader, RoutingTrace


class RoutingRecorder:
    """Collects one rank's routing of sampled steps; outside those steps nothing is active."""

    def __init__(
        self, folder: Path, routers: list[nn.Module], header: RoutingHeader, *, steps: Collection[int], micro_batch: int
    ) -> None:
        """Prepares to record.

        Args:
            folder: the run's traces folder.
            routers: router of each MoE layer, in the order of the network.
            header: sizes and names of the trace.
            steps: optimiser steps to record.
            micro_batch: sequences of a micro batch.
        """
        self._path = rank_path(folder, dist.get_rank())
        self._routers, self._header = routers, header
        self._steps, self._micro_batch = frozenset(steps), micro_batch
        self._parts: list[RoutingTrace] = []

    def resume(self, step: int) -> None:
        """Takes over what an earlier process of the same run recorded up to optimiser step `step`."""
        if self._path.exists():
            earlier = RoutingTrace.read(self._path)
            assert earlier.step is not None
            kept = earlier.step <= step
            if earlier.header == self._header and kept.any():
                arrays = {f.name: getattr(earlier, f.name) for f in fields(earlier) if f.name != "header"}
                self._parts = [replace(earlier, **{k: v[kept] for k, v in arrays.items() if v is not None})]

    def step(self, step: int, micro: int) -> AbstractContextManager[None]:
        """Records the forward pass that runs inside, if `step` is sampled.

        Args:
            step: optimiser step.
            micro: number of the micro batch in the global batch.
        """
        return self._recording(step, micro) if step in self._steps else nullcontext()

    def write(self) -> None:
        """Writes what was recorded to the rank's file, if there is anything."""
        if self._parts:
            RoutingTrace.concatenate(self._parts).write(self._path)

    @contextmanager
    def _recording(self, step: int, micro: int) -> Iterator[None]:
        chosen: list[tuple[Tensor, Tensor]] = []

        def keep(_router: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            chosen.append(ordered_choices(*output, self._header.top_k))

        with ExitStack() as hooks:
            for router in self._routers:
                hooks.callback(router.register_forward_hook(keep).remove)
            yield
        ids_TLK = torch.stack([ids for ids, _ in chosen], dim=1).cpu().numpy()
        tokens = len(ids_TLK)
        sequence, position = np.divmod(np.arange(tokens), tokens // self._micro_batch)
        self._parts.append(
            RoutingTrace(
                expert_ids=ids_TLK.astype(np.int32),
                source_rank=np.full(tokens, dist.get_rank(), np.int32),
                header=self._header,
                weights=torch.stack([gates for _, gates in chosen], dim=1).cpu().numpy(),
                step=np.full(tokens, step, np.int32),
                micro=np.full(tokens, micro, np.int32),
                sequence=(micro * self._micro_batch + sequence).astype(np.int32),
                position=position.astype(np.int32),
            )
        )


def ordered_choices(probs_TE: Tensor, routing_map_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Turns a router's output into ids, the largest gate value first.

    Args:
        probs_TE: gate values, zero where not chosen.
        routing_map_TE: bool, the chosen experts.
        top_k: experts a token may visit.

    Returns:
        Expert ids [T, K], -1 where a choice was dropped, and their gate values float32 [T, K].
    """
    with torch.no_grad():
        gates_TK, ids_TK = probs_TE.float().masked_fill(~routing_map_TE, -1.0).topk(top_k, dim=1)
        dropped = gates_TK < 0
        return ids_TK.masked_fill(dropped, -1), gates_TK.masked_fill(dropped, 0.0)


def rank_path(folder: Path, rank: int) -> Path:
    """Where a rank's own routing lies until it is merged."""
    return folder / f"routing.rank_{rank:05d}.npz"


def merge_routing(folder: Path, world_size: int) -> None:
    """Joins the ranks' files to ``folder/routing.npz``, in the order of ranks."""
    traces = [RoutingTrace.read(rank_path(folder, rank)) for rank in range(world_size)]
    RoutingTrace.concatenate(traces).write(folder / "routing.npz")
