"""Preparation of a network for DeepSpeed: the memory of its parameters, and its mixtures of experts."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from deepspeed.moe.layer import MoE
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero import stage3
from deepspeed.runtime.zero.partition_parameters import Init
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from deepspeed.utils import groups
from megatron.core import parallel_state
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from torch import Tensor, nn

from moe.layer import PlacedMoELayer
from trainer.model.values import give_memory


def prepare(module: nn.Module, stage: int, dtype: torch.dtype, device: torch.device) -> None:
    """Moves a network from the meta device to a type and device, with memory in ZeRO stage 0 and placeholders else."""

    def memory(parameter: Tensor) -> Tensor:
        if stage == 0:
            return torch.empty(parameter.shape, dtype=dtype, device=device)
        return _placeholder(parameter.shape, dtype, device)

    give_memory(module, memory)


@contextmanager
def without_copies() -> Iterator[None]:
    """While entered, DeepSpeed takes over a prepared network without copies; its weights stay undefined."""
    replaced: list[tuple[Any, str, Any]] = [
        (DeepSpeedEngine, "_broadcast_model", lambda _: None),
        (DeepSpeedZeroOptimizer, "flatten_dense_tensors_aligned", _placeholder_of_all),
        (DeepSpeedZeroOptimizer, "initialize_optimizer_states", _give_flat_memory),
        (Init, "_zero_init_param", _partition),
        (stage3, "defragment", _placeholder_of_partitions),
        (stage3.DeepSpeedZeroOptimizer_Stage3, "initialize_optimizer_states", _give_partitions_memory),
    ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(patch.object(owner, name, value))
        yield


def _placeholder(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros of a shape, which take the memory of one element."""
    return torch.zeros((), dtype=dtype, device=device).expand(*shape)


def _placeholder_of_all(
    optimizer: Any,  # noqa: ARG001
    tensor_list: Sequence[Tensor],
    alignment: int,
    use_cpu_data: bool = False,
    param_padding: Sequence[int] | None = None,
) -> Tensor:
    """Stands for the flat buffer of a ZeRO 1 or 2 optimiser group while DeepSpeed makes its float32 part."""
    if use_cpu_data:  # DeepSpeed sets it if the device has too little memory for the buffer
        tensor_list = [vars(tensor)["cpu_data"] for tensor in tensor_list]
    count = sum(tensor.numel() for tensor in tensor_list) + sum(param_padding or ())
    return _placeholder([-(-count // alignment) * alignment], tensor_list[0].dtype, tensor_list[0].device)


def _give_flat_memory(optimizer: Any) -> None:
    """Replaces the placeholders of the ZeRO 1 or 2 optimiser groups by real buffers."""
    for group, stands_in in enumerate(optimizer.bit16_groups_flat):
        flat = torch.zeros(stands_in.shape, dtype=stands_in.dtype, device=stands_in.device)
        optimizer.bit16_groups_flat[group] = flat
        optimizer._update_model_bit16_weights(group)
        optimizer.parallel_partitioned_bit16_groups[group] = optimizer.get_data_parallel_partitions(flat, group)


def _partition(initialisation: Any, parameter: Any) -> None:
    """Partitions a parameter for ZeRO 3; its part has no memory until the buffer of all parts has."""
    initialisation._convert_to_deepspeed_param(parameter)
    parameter.partition()
    part = parameter.ds_tensor
    part.data = _placeholder(part.shape, part.dtype, part.device)


def _placeholder_of_partitions(tensors: Sequence[Tensor]) -> Tensor:
    """Stands for the buffer of this rank's ZeRO 3 parts while DeepSpeed makes the float32 ones."""
    count, first = sum(tensor.numel() for tensor in tensors), tensors[0]
    buffer = _placeholder([count], first.dtype, first.device)
    _divide(buffer, tensors)
    return buffer


def _give_partitions_memory(optimizer: Any) -> None:
    """Replaces the placeholder of this rank's ZeRO 3 parts by a real buffer."""
    stands_in = optimizer.lp_param_buffer
    optimizer.lp_param_buffer = torch.zeros(stands_in.shape, dtype=stands_in.dtype, device=stands_in.device)
    _divide(optimizer.lp_param_buffer, optimizer._get_parameter_partitions())
    optimizer.fp16_partitioned_groups_flat.clear()
    optimizer._set_fp16_partitioned_groups_flat()


def _divide(buffer: Tensor, tensors: Sequence[Tensor]) -> None:
    """Makes each tensor a view of the next stretch of the buffer."""
    for tensor, stretch in zip(tensors, buffer.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.data = stretch


class DeepSpeedMixture(MoE):
    """Attributes by which DeepSpeed recognises a layer as a mixture of experts; the layer's computation is unchanged.

    `ep_size` ranks, of the group that DeepSpeed calls `expert_group_name`, share `num_experts` logical experts, each
    whole.
    """

    ep_size: int
    num_experts: int
    expert_group_name: str
    enable_expert_tensor_parallelism: bool

    def set_deepspeed_parallelism(self, use_data_before_expert_parallel_: bool = False) -> None:
        """Creates DeepSpeed's expert groups; called by DeepSpeed."""
        if self.expert_group_name not in groups._get_expert_parallel_group_dict():
            groups._create_expert_and_data_parallel(
                self.ep_size, use_data_before_expert_parallel_=use_data_before_expert_parallel_
            )


def mark_moe_layers(model: nn.Module, expert_parallel: int, accumulation: int) -> None:
    """Makes a network's MoE layers and their experts known to DeepSpeed, in place.

    DeepSpeed divides the loss by the step's `accumulation` micro batches; the routers' auxiliary losses, which are
    added in the backward pass, are divided likewise.
    """
    MoEAuxLossAutoScaler.set_loss_scale(torch.tensor(1.0 / accumulation))
    for module in model.modules():
        if isinstance(module, PlacedMoELayer):
            module.__class__ = _recognised(type(module))
            assert isinstance(module, DeepSpeedMixture)
            module.ep_size = expert_parallel
            module.num_experts = module.slots.num_experts
            module.expert_group_name = expert_group_name(expert_parallel)
            module.enable_expert_tensor_parallelism = False
            for parameter in module.expert_stacks().values():
                vars(parameter).update(allreduce=False, group_name=module.expert_group_name)


@cache
def _recognised(kind: type[PlacedMoELayer]) -> type[PlacedMoELayer]:
    """A subclass of a layer's class that DeepSpeed recognises as a mixture of experts."""
    return type(f"DeepSpeed{kind.__name__}", (kind, DeepSpeedMixture), {})


def expert_group_name(expert_parallel: int) -> str:
    """DeepSpeed's name of the expert-parallel groups of a size."""
    return f"ep_size_{expert_parallel}"


class MegatronGroups:
    """Megatron-Core's process groups under the names that DeepSpeed uses."""

    def __getattr__(self, name: str) -> Any:
        model_parallel: Any = parallel_state.get_model_parallel_group
        renamed = {
            "get_model_parallel_world_size": lambda: dist.get_world_size(model_parallel()),
            "get_model_parallel_rank": lambda: dist.get_rank(model_parallel()),
        }
        if name == "initialize_sequence_parallel":
            raise AttributeError(name)  # its presence would tell DeepSpeed to use Ulysses
        return renamed.get(name) or getattr(parallel_state, name)
