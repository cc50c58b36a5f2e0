"""From a run to the memory of its passes."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

import trainer.task
from trainer.config.derived import task_names
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.experiment.memory.activation.ranks import even_routing, ranks_of
from trainer.experiment.memory.activation.recording import Recorder, Recording
from trainer.flow.coupling import Independent
from trainer.model.build import bare_network, tokens_per_example
from trainer.model.network import Network, prepare_blocks
from trainer.training.networks import TrainedNetworks
from trainer.training.task import Task

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def record(config: RunConfig, layout: Layout, micro_batch: int) -> Recording:
    """Runs a micro batch forward and backward without values."""
    task = trainer.task.build(_alone(config))
    shared = config.moe is not None or layout.tensor_parallel > 1
    with ranks_of(layout) if shared else nullcontext():
        network = bare_network(config, layout)
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _recorded(config, layout, micro_batch, network, task)


def _recorded(config: RunConfig, layout: Layout, micro_batch: int, network: Network, task: Task[Any]) -> Recording:
    _allocate(network, DTYPES[config.engine.precision])
    if config.engine.activation_checkpointing:
        prepare_blocks(network.blocks, config.engine)
    recorder = Recorder(network, network.blocks)
    recorder.storages.see([*network.parameters(), *network.buffers()])
    recorder.take()
    with even_routing(*_visits(config, layout, micro_batch)), recorder.recording():
        drawing = task.draw([_batch(config, micro_batch)], [torch.Generator().manual_seed(0)])
        drawn = task.collect(drawing, TrainedNetworks(network))[0]
        size = recorder.storages.held(leaf for leaf in tree_leaves(drawn) if isinstance(leaf, Tensor))
        recorder.take()
        computed = task.loss(network, drawn)
        loss = computed.mean(None)
        forward = recorder.take()
        (loss / layout.accumulation).backward()
        backward = recorder.take()
    return Recording(recorder.owned, size, forward, backward, recorder.kinds)


def _visits(config: RunConfig, layout: Layout, micro_batch: int) -> tuple[int, int]:
    """Choices of the tokens of a rank in a layer, and ranks that the tokens are sent to, by even chance."""
    if config.moe is None:
        return 0, 0
    tokens, choices = micro_batch * tokens_per_example(config), config.moe.top_k
    experts, ranks = config.moe.num_experts, layout.expert_parallel
    unvisited = math.comb(experts - experts // ranks, choices) / math.comb(experts, choices)
    return tokens * choices, round(tokens * ranks * (1 - unvisited))


def _allocate(network: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the tensors of a network on the meta device by such as a CPU would hold."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=dtype)))
        for name, buffer in module.named_buffers(recurse=False):
            floating = buffer.is_floating_point()
            setattr(module, name, torch.empty(buffer.shape, dtype=dtype if floating else buffer.dtype))


def _alone(config: RunConfig) -> RunConfig:
    """The same run with pairs that need no values to be found; what is drawn has the same sizes."""
    if config.flow is None:
        return config
    flow = config.flow.model_copy(update={"coupling": Independent()})
    return config.model_copy(update={"flow": flow})


def _batch(config: RunConfig, size: int) -> Batch:
    integer = any(one.integer for one in config.model.inputs(config.state_shape))
    x_1 = torch.zeros(size, *config.data.shape, dtype=torch.int64 if integer else torch.float32)
    labels = torch.zeros(size, dtype=torch.int64) if config.data.num_classes else None
    tasks = torch.zeros(size, dtype=torch.int64) if task_names(config) else None
    batch = Batch(x_1, labels, torch.zeros(size, dtype=torch.int64), sources=tasks)
    return batch.with_captions(torch.zeros(size, config.caption_width)) if config.caption_width else batch
