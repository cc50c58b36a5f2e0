"""What ranks send, and which experts their tokens visit, while a trained network draws samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from moe.collective_trace import rank_path
from netsim.foundation.files import replacing
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.distributed.groups import Launch, group_names
from trainer.flow.question import FromTokens, OfToken
from trainer.model.network import Network
from trainer.model.parallel.state import HoldsExperts
from trainer.trace.clock import clock_of
from trainer.trace.merge import merge
from trainer.trace.recorder import Recorder
from trainer.trace.routing import RoutingRecorder
from trainer.trace.routing_files import merge_routing
from trainer.trace.session import routing_header

STEP = 1
"""A drawing is one step of its trace."""
DRAWING = "drawing.json"
"""Says of which run a drawing is; a run's own traces have no such file."""


class DrawingTrace:
    """Records a drawing on every rank and merges the recordings on the first.

    Each call of the network is a micro step, which lasts until the next call: what the sampler computes between them
    counts to the earlier one. A head that is called by itself belongs to the call before it.
    """

    def __init__(self, folder: Path, config: RunConfig, layout: Layout, launch: Launch, model: Network) -> None:
        self._folder, self._config, self._layout, self._launch, self._model = folder, config, layout, launch, model
        self._collectives = Recorder(
            rank_path(folder, launch.rank),
            steps=[STEP],
            ranks_per_node=config.trace.ranks_per_node or launch.local_world_size,
            config_sha256=config.digest,
            group_names=group_names(),
            blocks=list(model.blocks),
            clock=clock_of(launch.device),
        )
        self._routing: RoutingRecorder | None = None
        self._calls = 0
        self._call = ExitStack()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records one drawing, which is what runs inside."""
        hook = self._model.register_forward_pre_hook(self._begin)
        try:
            with self._call:
                yield
        finally:
            hook.remove()

    def write(self) -> None:
        """Writes ``collectives.jsonl`` and, of a network with experts, ``routing.npz``; collective.

        ``drawing.json`` beside them distinguishes the folder from that of a run.
        """
        self._collectives.write()
        if self._routing is not None:
            self._routing.write()
        dist.barrier()
        if self._launch.rank == 0:
            document = {"format": "flowfabric.drawing/1", "config_sha256": self._config.digest}
            with replacing(self._folder / DRAWING) as temporary:
                temporary.write_text(json.dumps(document) + "\n", encoding="utf-8")
            merge(self._folder, self._launch.world_size)
            if self._routing is not None:
                merge_routing(self._folder, self._launch.world_size)

    def _begin(self, _model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if any(isinstance(value, FromTokens | OfToken) for value in inputs):
            return
        self._call.close()
        self._call.enter_context(self._collectives.step(STEP, self._calls))
        if self._config.moe is not None:
            # Micro batches of different ranks have different numbers, as in training.
            number = self._calls * self._layout.data_parallel + self._layout.data_rank(self._launch.rank)
            self._call.enter_context(self._routes(len(inputs[0])).step(STEP, number))
        self._calls += 1

    def _routes(self, rows: int) -> RoutingRecorder:
        """The recorder of routes, made in the first call, which shows how many rows a call has."""
        if self._routing is None:
            layers = [module for module in self._model.modules() if isinstance(module, HoldsExperts)]
            header = routing_header(self._config, self._layout, element_bytes=4, evaluates=True)
            self._routing = RoutingRecorder(
                self._folder, layers, header, steps=[STEP], micro_batch=rows, training=False
            )
        return self._routing
