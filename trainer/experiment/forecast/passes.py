"""Records the memory of a run's passes in one process that stands for all ranks."""

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import trainer.task
from moe.config import MoEConfig
from moe.dispatch.exchange import Splits
from trainer.config.derived import task_names, tokens_per_example
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.experiment.forecast.recording import Recorder, Recording
from trainer.flow.coupling import Independent
from trainer.model.build import bare_network
from trainer.model.network import Network, prepare_blocks
from trainer.training.task import Task, TrainedNetworks

_MOST_KNOWN = 2**20
"""Elements up to which a `FakeTensorMode` still follows a tensor's values; the row counts of all ranks fit."""


@contextmanager
def ranks_of(layout: Layout) -> Iterator[None]:
    """While entered, this process is rank 0 of a layout, whose collectives send nothing."""
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from trainer.distributed.groups import divide_ranks, unite_ranks

    hook = sys.excepthook  # torch puts the number of the rank before every message from then on
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=layout.world_size)
    sys.excepthook = hook
    try:
        divide_ranks(layout.expert_parallel, layout.tensor_parallel, layout.relay_ranks)
        with patch.object(MoEAuxLossAutoScaler, "main_loss_backward_scale", None):  # else kept, without a value
            yield
    finally:
        unite_ranks()
        dist.destroy_process_group()


@contextmanager
def even_routing(choices: int, copies: int) -> Iterator[None]:
    """While entered, counts of tokens without values that the host reads are those of an even spread over experts.

    Args:
        choices: number of choices of a rank's tokens in a layer.
        copies: number of copies of those tokens, one for each rank that holds any of a token's experts.
    """

    def gathered(counts_E: Tensor, group: dist.ProcessGroup) -> Tensor:
        return torch.tensor([_even(choices, counts_E.numel())] * group.size())

    def exchanged(counts_2N: Tensor, _group: dist.ProcessGroup) -> tuple[Splits, Splits]:
        rows, labels = (_even(int(total), counts_2N.shape[1]) for total in (copies, choices))
        return Splits(rows, labels), Splits(rows, labels)

    def counted(sorted_keys: Tensor, number: int) -> Tensor:
        return torch.tensor(_even(len(sorted_keys), number))

    with ExitStack() as stack:
        stack.enter_context(patch.object(fake_tensor, "CONSTANT_NUMEL_LIMIT", _MOST_KNOWN))
        stack.enter_context(patch("moe.dispatch.serving.gather_counts", gathered))
        stack.enter_context(patch("moe.dispatch.home_return.exchange_counts", exchanged))
        stack.enter_context(patch("moe.dispatch.home_return.counts_of", counted))
        stack.enter_context(_KnownNumbers())
        yield


class _KnownNumbers(TorchDispatchMode):
    """While entered, int64 vectors that are filled with one number keep their values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.full.default and kwargs.get("dtype") == torch.int64 and len(args[0]) == 1:
            return torch.tensor([args[1]] * args[0][0])
        return func(*args, **kwargs)


def _even(total: int, number: int) -> list[int]:
    each, more = divmod(total, number)
    return [each + (index < more) for index in range(number)]


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
    routing = nullcontext() if config.moe is None else even_routing(*_visits(config, config.moe, layout, micro_batch))
    with routing, recorder.recording(memory=True):
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


def _visits(config: RunConfig, moe: MoEConfig, layout: Layout, micro_batch: int) -> tuple[int, int]:
    """Returns how many choices and how many copies the tokens of a rank have in a layer, by even chance."""
    tokens, choices = micro_batch * tokens_per_example(config), moe.top_k
    experts, ranks = moe.num_experts, layout.expert_parallel
    unvisited = math.comb(experts - experts // ranks, choices) / math.comb(experts, choices)
    return tokens * choices, round(tokens * ranks * (1 - unvisited))


def _allocate(network: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the tensors of a network on the meta device by CPU tensors; floating ones get `dtype`."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=dtype)))
        for name, buffer in module.named_buffers(recurse=False):
            floating = buffer.is_floating_point()
            setattr(module, name, torch.empty(buffer.shape, dtype=dtype if floating else buffer.dtype))


def _alone(config: RunConfig) -> RunConfig:
    """Returns the run with independent pairs, which need no values; drawn tensors keep their sizes."""
    if config.flow is None or config.labels_in_state or config.encodes_captions or config.species:
        return config
    flow = config.flow.model_copy(update={"coupling": Independent()})
    return config.model_copy(update={"flow": flow})


def _batch(config: RunConfig, size: int) -> Batch:
    integer = any(one.integer for one in config.model.inputs(config.state_shape))
    x_1 = torch.zeros(size, *config.data.shape, dtype=torch.int64 if integer else torch.float32)
    labels = torch.zeros(size, dtype=torch.int64) if config.data.num_classes else None
    tasks = torch.zeros(size, dtype=torch.int64) if task_names(config) else None
    shape = config.data_context_shape
    context = None if shape is None else torch.zeros(size, *shape)
    batch = Batch(x_1, labels, torch.zeros(size, dtype=torch.int64), sources=tasks, context=context)
    return batch.with_captions(torch.zeros(size, config.caption_width)) if config.caption_width else batch
