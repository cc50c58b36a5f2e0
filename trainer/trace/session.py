"""Recording of a run's sampled steps, and of drawings by a trained network; rank 0 merges the ranks' records."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from moe.collective_trace import rank_path
from moe.routing_trace import RoutingHeader
from netsim.foundation.files import write_json
from trainer.config.derived import expert_parameters, tokens_per_example
from trainer.config.layout import Layout
from trainer.config.model.dit import SegmentNetworkConfig
from trainer.config.run import RunConfig
from trainer.distributed.engine.protocol import Engine
from trainer.distributed.groups import Launch, group_names
from trainer.flow.question import FromTokens, OfToken
from trainer.model.network import Network
from trainer.model.parallel.state import HoldsExperts
from trainer.trace.clock import clock_of
from trainer.trace.merge import Merging, merge, merge_routing
from trainer.trace.recorder import Recorder
from trainer.trace.routing import RoutingRecorder, SegmentRecorder


class TraceSession:
    """The recorders of a rank, and on rank 0 the merge of all ranks' records."""

    def __init__(self, config: RunConfig, layout: Layout, launch: Launch, engine: Engine, started: int) -> None:
        """Prepares the recorders; records of steps after `started` are dropped."""
        self._folder = config.run.dir / "traces"
        self._steps = sorted({step for step in config.trace.steps if 1 <= step <= config.optim.steps})
        self._launch = launch
        self._collectives = recorder_of(self._folder, config, launch, engine.module, engine.group_names, self._steps)
        self._routing = None
        if config.moe is not None:
            header = routing_header(config, layout, element_bytes=2 if config.engine.precision == "bf16" else 4)
            layers = [module for module in engine.module.modules() if isinstance(module, HoldsExperts)]
            self._routing = RoutingRecorder(
                self._folder, layers, header, steps=self._steps, micro_batch=layout.micro_batch
            )
        if isinstance(config.model, SegmentNetworkConfig):
            self._routing = self._of_segments(config, config.model, layout, engine)
        if started:
            self._collectives.resume(started)
            if self._routing is not None:
                self._routing.resume(started)
        self._merging: Merging | None = None
        if launch.rank == 0 and self._steps and started >= self._steps[-1]:
            self._merging = Merging.outstanding(self._folder, routing=self._routing is not None)

    def _of_segments(
        self, config: RunConfig, model: SegmentNetworkConfig, layout: Layout, engine: Engine
    ) -> SegmentRecorder:
        header = RoutingHeader(
            num_experts=model.segments,
            num_layers=len(model.segment_blocks),
            top_k=1,
            world_size=layout.world_size,
            model=model.kind,
            hidden=model.hidden,
            element_bytes=2 if config.engine.precision == "bf16" else 4,
            moe_layers=tuple(model.segment_blocks),
            expert_parallel=1,
            config_sha256=config.digest,
        )
        sizes = {"micro_batch": layout.micro_batch, "tokens": tokens_per_example(config)}
        return SegmentRecorder(self._folder, engine.module, header, steps=self._steps, **sizes)

    @contextmanager
    def step(self, step: int, local: int, micro: int) -> Iterator[None]:
        """Records what runs inside, if sampled; `micro` counts in the global batch, `local` on this rank."""
        routing = nullcontext() if self._routing is None else self._routing.step(step, micro)
        with routing, self._collectives.step(step, local):  # routing may end with collectives
            yield

    def drawing(self, step: int) -> AbstractContextManager[None]:
        """Records the rollouts before the first micro batch of the step that begins a cycle; no routing."""
        return self._collectives.step(step, 0)

    def update(self, step: int, local: int) -> AbstractContextManager[None]:
        """Records the optimiser's part of a step, which follows its last micro batch `local`."""
        return self._collectives.step(step, local)

    def after(self, step: int) -> None:
        """Writes the records of a sampled step and starts the merge after the last one; collective then."""
        if step not in self._steps:
            return
        self._collectives.write()
        if self._routing is not None:
            self._routing.write()
        if step < self._steps[-1]:
            return
        dist.barrier()
        if self._launch.rank == 0:
            self._merging = Merging(self._folder, routing=self._routing is not None)

    def finish(self, *, stopped: bool = False) -> None:
        """On rank 0, waits until the traces are merged; a stopped run leaves long merges to its next start."""
        if self._merging is not None:
            self._merging.finish(stopped=stopped)


def recorder_of(
    folder: Path, config: RunConfig, launch: Launch, network: Network, names: Mapping[str, str], steps: Collection[int]
) -> Recorder:
    """The recorder of a rank; `names` maps torch's name of each process group to its meaning."""
    return Recorder(
        rank_path(folder, launch.rank),
        steps=steps,
        ranks_per_node=config.trace.ranks_per_node or launch.local_world_size,
        config_sha256=config.digest,
        group_names=names,
        blocks=list(network.blocks),
        clock=clock_of(launch.device),
    )


def routing_header(config: RunConfig, layout: Layout, *, element_bytes: int, evaluates: bool = False) -> RoutingHeader:
    """Header of a routing trace; passes in evaluation mode (`evaluates`) have no capacity limit."""
    assert config.moe is not None
    return RoutingHeader(
        num_experts=config.moe.num_experts,
        num_layers=config.model.num_layers,
        top_k=config.moe.most_choices,
        world_size=layout.world_size,
        model=config.model.kind,
        hidden=config.model.hidden,
        element_bytes=element_bytes,
        key_value_width=config.model.key_value_width or None,
        target_bytes=4 if config.model.token_bytes == 4 else None,
        moe_layers=tuple(range(config.model.num_layers)),
        expert_parallel=layout.expert_parallel,
        dispatch="home" if evaluates and config.moe.dispatch == "capped" else config.moe.dispatch,
        cap=None if evaluates else config.moe.router.cap,
        due_choices=config.moe.top_k,
        expert_parameters=expert_parameters(config),
        replicas=config.moe.replicas,
        config_sha256=config.digest,
    )


STEP = 1
"""Step number of a drawing, which is one step of its trace."""
DRAWING = "drawing.json"
"""Names the run of a drawing; the traces of a run have no such file."""


class DrawingTrace:
    """Records a drawing on every rank and merges the records on rank 0.

    Each call of the network is a micro step that lasts until the next call, so that it includes the sampler's compute
    and separate calls of a head after it.
    """

    def __init__(self, folder: Path, config: RunConfig, layout: Layout, launch: Launch, model: Network) -> None:
        self._folder, self._config, self._layout, self._launch, self._model = folder, config, layout, launch, model
        self._collectives = recorder_of(folder, config, launch, model, group_names(), [STEP])
        self._routing: RoutingRecorder | None = None
        self._calls = 0
        self._call = ExitStack()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records the one drawing that runs while entered."""
        hook = self._model.register_forward_pre_hook(self._begin)
        try:
            with self._call:
                yield
        finally:
            hook.remove()

    def write(self) -> None:
        """Writes and merges ``collectives.jsonl``, ``drawing.json`` and, with experts, ``routing.npz``; collective."""
        self._collectives.write()
        if self._routing is not None:
            self._routing.write()
        dist.barrier()
        if self._launch.rank == 0:
            document = {"format": "flowfabric.drawing/1", "config_sha256": self._config.digest}
            write_json(self._folder / DRAWING, document, indent=None)
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
        """The routing recorder; the first call makes it, since only a call knows its number of `rows`."""
        if self._routing is None:
            layers = [module for module in self._model.modules() if isinstance(module, HoldsExperts)]
            header = routing_header(self._config, self._layout, element_bytes=4, evaluates=True)
            self._routing = RoutingRecorder(
                self._folder, layers, header, steps=[STEP], micro_batch=rows, training=False
            )
        return self._routing
